//go:build integration

package vsock_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Ports of the guest's services, and of the host's for its first words.
const (
	helloPort     = 1024
	echoPort      = 10
	sinkPort      = 11
	sourcePort    = 12
	slowPort      = 13
	holdPort      = 14
	closePort     = 15
	dialPort      = 16
	seqpacketPort = 17
	waitPort      = 18
	waitedPort    = 19
)

// blockSize is what the guest sends at once.
const blockSize = 1 << 20

// pattern returns n bytes that both ends know.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16 ^ i>>8 ^ i)
	}
	return b
}

// sock is a socket of the guest. Its operations block a thread.
type sock int

func (s sock) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(s), p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (s sock) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(int(s), p[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func must(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

func serve(typ int, port uint32, f func(s sock)) {
	l, err := unix.Socket(unix.AF_VSOCK, typ|unix.SOCK_CLOEXEC, 0)
	must("socket", err)
	must("bind", unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}))
	must("listen", unix.Listen(l, 128))
	go func() {
		for {
			fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
			if err == unix.EINTR {
				continue
			}
			must("accept", err)
			go func() {
				f(sock(fd))
				unix.Close(fd)
			}()
		}
	}()
}

func connect(port uint32) (sock, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must("socket", err)
	for {
		err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port})
		if err != unix.EINTR {
			return sock(fd), err
		}
	}
}

// guestMain is init in the guest.
func guestMain() {
	sum := func(s sock) {
		h := sha256.New()
		if _, err := io.Copy(h, s); err == nil {
			s.Write(h.Sum(nil))
		}
	}
	serve(unix.SOCK_STREAM, echoPort, func(s sock) { io.CopyBuffer(struct{ io.Writer }{s}, s, make([]byte, 256<<10)) })
	serve(unix.SOCK_STREAM, sinkPort, func(s sock) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, 256<<10))
		binary.Write(s, binary.LittleEndian, uint64(n))
	})
	serve(unix.SOCK_STREAM, sourcePort, func(s sock) {
		var n uint64
		if binary.Read(s, binary.LittleEndian, &n) != nil {
			return
		}
		block := pattern(blockSize)
		for range n {
			s.Write(block)
		}
	})
	serve(unix.SOCK_STREAM, slowPort, func(s sock) {
		time.Sleep(time.Second)
		sum(s)
	})
	serve(unix.SOCK_STREAM, holdPort, func(s sock) { time.Sleep(time.Hour) })
	serve(unix.SOCK_STREAM, closePort, func(s sock) {})
	serve(unix.SOCK_STREAM, dialPort, func(s sock) {
		var port uint32
		if binary.Read(s, binary.LittleEndian, &port) != nil {
			return
		}
		c, err := connect(port)
		if err == nil {
			io.WriteString(c, "dialed")
		}
		unix.Close(int(c))
		fmt.Fprint(s, err)
	})
	serve(unix.SOCK_SEQPACKET, seqpacketPort, func(s sock) {
		b := make([]byte, 256<<10)
		for {
			n, _, flags, _, err := unix.Recvmsg(int(s), b, nil, 0)
			if err != nil || n == 0 {
				return
			}
			if unix.Sendmsg(int(s), b[:n], nil, nil, flags&unix.MSG_EOR) != nil {
				return
			}
		}
	})
	ended := make(chan error, 1)
	serve(unix.SOCK_STREAM, waitPort, func(s sock) {
		_, err := s.Read(make([]byte, 1))
		ended <- err
	})
	serve(unix.SOCK_STREAM, waitedPort, func(s sock) { fmt.Fprint(s, <-ended) })

	c, err := connect(helloPort)
	must("connect", err)
	io.WriteString(c, "hello")
	unix.Close(int(c))
	select {}
}
