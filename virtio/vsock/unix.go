package vsock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// requestLine bounds "CONNECT <port>\n" in bytes.
	requestLine = 32

	// requestTimeout bounds how long a client takes to send it, and the
	// guest to answer.
	requestTimeout = 10 * time.Second

	// maxClients bounds the clients of a ServeUnix.
	maxClients = 256
)

// ServeUnix connects the clients of a Unix stream socket to ports of the
// guest, until ctx is done or l fails; then it closes l and the connections,
// and returns once all are gone. The error is ctx's or l's.
//
// A client sends "CONNECT <port>\n", the port in decimal, at most 32 bytes in
// 10 seconds. It gets "OK <port>\n", after which the connection carries the
// bytes of a SOCK_STREAM connection to that port of the guest and what either
// end does to it: data, end of file each way, close. Or it gets "ERR
// <reason>\n" and the connection is closed. allow decides on the port. At most
// 256 clients are served at a time.
func (d *Device) ServeUnix(ctx context.Context, l *net.UnixListener, allow func(port uint32) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel() // before the wait
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxClients)
	for {
		client, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) ||
				errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ECONNABORTED) {
				d.log.Warn("vsock: accept of a client", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			l.Close()
			return fmt.Errorf("vsock: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			refuse(client, errors.New("too many clients"))
			client.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-slots }()
			d.serveClient(ctx, client, allow)
		})
	}
}

// Answer has ServeUnix connect the clients that ask for port to serve, in place
// of the guest, for 10 seconds at most. It comes before ServeUnix.
func (d *Device) Answer(port uint32, serve func(client io.Writer)) {
	if d.answers == nil {
		d.answers = make(map[uint32]func(io.Writer))
	}
	d.answers[port] = serve
}

// refuse tells the client why. A client that does not read is not waited for.
func refuse(client *net.UnixConn, err error) {
	reason := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, err.Error())
	client.SetWriteDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(client, "ERR %s\n", reason)
}

func (d *Device) serveClient(ctx context.Context, client *net.UnixConn, allow func(uint32) bool) {
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer stop()

	client.SetDeadline(time.Now().Add(requestTimeout))
	port, rest, err := readRequest(client)
	if serve := d.answers[port]; err == nil && serve != nil {
		client.SetDeadline(time.Now().Add(requestTimeout))
		if _, err := fmt.Fprintf(client, "OK %d\n", port); err == nil {
			serve(client)
		}
		return
	}
	if err == nil && !allow(port) {
		err = fmt.Errorf("port %d is not allowed", port)
	}
	if err != nil {
		refuse(client, err)
		return
	}
	dctx, cancel := context.WithTimeout(ctx, requestTimeout)
	guest, err := d.Dial(dctx, port)
	cancel()
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // the address says nothing new
		}
		refuse(client, err)
		return
	}
	defer guest.Close()
	stopGuest := context.AfterFunc(ctx, func() { guest.Abort() })
	defer stopGuest()
	client.SetDeadline(time.Now().Add(requestTimeout))
	if _, err := fmt.Fprintf(client, "OK %d\n", port); err != nil {
		return
	}
	client.SetDeadline(time.Time{})
	splice(client, guest, rest)
}

// readRequest reads the line that a client sends first. rest is what came
// after it.
func readRequest(r io.Reader) (port uint32, rest []byte, err error) {
	var b [requestLine]byte
	n := 0
	for {
		m, err := r.Read(b[n:])
		n += m
		if i := bytes.IndexByte(b[:n], '\n'); i >= 0 {
			port, err := parseRequest(string(b[:i]))
			return port, b[i+1 : n], err
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, nil, errors.New("no request in time")
		case err == io.EOF:
			return 0, nil, errors.New("end of file in the request")
		case err != nil:
			return 0, nil, err
		case n == len(b):
			return 0, nil, errors.New("request too long")
		}
	}
}

// parseRequest parses "CONNECT <port>".
func parseRequest(line string) (uint32, error) {
	arg, ok := strings.CutPrefix(line, "CONNECT ")
	if !ok {
		return 0, errors.New("expected CONNECT <port>")
	}
	port, err := strconv.ParseUint(arg, 10, 32)
	if err != nil || port == portAny || arg[0] == '+' {
		return 0, fmt.Errorf("bad port %q", arg)
	}
	return uint32(port), nil
}

// splice copies both ways between a client and the guest until both ways have
// ended or either end is gone for good, and closes both connections.
func splice(client *net.UnixConn, guest *Conn, first []byte) {
	closeBoth := func() {
		client.Close()
		guest.Close()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer closeBoth()

	fromGuest := make(chan struct{}) // closed when that way has ended
	var clientEnded atomic.Bool
	wg.Go(func() {
		_, err := guest.WriteTo(client)
		if err == nil {
			err = client.CloseWrite()
		}
		close(fromGuest)
		if err != nil { // a reset, or the client is gone and data lost
			guest.Abort()
			client.Close()
		} else if clientEnded.Load() {
			client.SetReadDeadline(time.Unix(1, 0)) // ends waitHangup
		}
	})
	wg.Go(func() {
		guest.hungUp()
		<-fromGuest // deliver what came before
		closeBoth()
	})

	_, err := guest.Write(first)
	if err == nil {
		_, err = guest.ReadFrom(client)
	}
	switch {
	case err == nil:
		guest.CloseWrite()
	case errors.Is(err, unix.EPIPE):
		client.CloseRead() // the guest has ended that way only
		// What was left unread would turn the later close into a reset, and
		// the client could miss the guest's last bytes.
		io.Copy(io.Discard, client)
	default:
		guest.Abort()
		return
	}
	clientEnded.Store(true)
	select {
	case <-fromGuest:
	default:
		waitHangup(client)
	}
}

// waitHangup waits until the other end of c is closed, not merely shut down
// one way, or c is closed or its read deadline passes.
func waitHangup(c *net.UnixConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		for {
			_, err := unix.Poll(fds, 0)
			if err != unix.EINTR {
				return err != nil || fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
			}
		}
	})
}
