package tsi

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const relayBuffer = 64 << 10

var relayBuffers = sync.Pool{New: func() any { b := make([]byte, relayBuffer); return &b }}

// relay carries the bytes of the TCP connection both ways until the guest has
// closed its connection, or the TCP connection broke.
func (e *endpoint) relay() {
	k, c := e.sock, e.conn
	e.srv.counters.connections.Add(1)
	defer e.srv.counters.connections.Add(-1)
	ended := make(chan struct{})
	orderly := false
	c.OnEnd(func(o bool) {
		orderly = o
		k.file.SetReadDeadline(past) // toGuest has no one left to read for
		close(ended)
	})
	w := &socketWriter{k: k}
	var from sync.WaitGroup
	from.Go(func() { e.fromGuest(w) })
	e.toGuest()
	<-ended
	if !orderly {
		k.setAbort()
	}
	if e.srv.awaitControl(); k.aborts() {
		k.close() // what the guest has sent is not to be delivered
	}
	w.drain(e.srv.drainTimeout)
	from.Wait()
}

// toGuest carries what the peer sends.
func (e *endpoint) toGuest() {
	k, c := e.sock, e.conn
	for {
		var buf *[]byte
		var n int
		var errno unix.Errno
		err := k.raw.Read(func(fd uintptr) bool {
			if buf == nil {
				buf = relayBuffers.Get().(*[]byte)
			}
			n, errno = readv(int(fd), [][]byte{*buf})
			if errno != unix.EAGAIN {
				return true
			}
			relayBuffers.Put(buf) // none is held while nothing comes
			buf = nil
			return false
		})
		if err != nil {
			if buf != nil {
				relayBuffers.Put(buf)
			}
			return // the guest has closed the connection
		}
		switch {
		case errno != 0:
			k.fail(errno)
		case n > 0:
			e.srv.counters.bytesReceived.Add(uint64(n))
			_, err = c.Write((*buf)[:n])
		}
		relayBuffers.Put(buf)
		switch {
		case errno != 0 || (n == 0 && k.broken.Load()):
			c.Abort()
			return
		case n == 0:
			c.CloseWrite()
			return
		case err != nil:
			return // the guest receives no more
		}
	}
}

// fromGuest carries what the guest sends.
func (e *endpoint) fromGuest(w *socketWriter) {
	k, c := e.sock, e.conn
	_, err := c.WriteTo(w)
	switch {
	case w.errno != 0:
		k.fail(w.errno)
		c.CloseRead() // the guest learns of it with its next send
	case err == nil:
		k.shutdown(unix.SHUT_WR)
	}
}

// socketWriter writes to a socket and waits for room.
type socketWriter struct {
	k        *socket
	errno    unix.Errno
	patience atomic.Int64 // how long to wait for room, when it is above 0
}

// drain makes the writer give up, and reset the connection, when the peer takes
// nothing for that long.
func (w *socketWriter) drain(patience time.Duration) {
	w.patience.Store(int64(patience))
	w.k.file.SetWriteDeadline(time.Now().Add(patience))
}

func (w *socketWriter) Write(p []byte) (int, error) {
	k := w.k
	n := 0
	var errno unix.Errno
	for n < len(p) {
		if patience := w.patience.Load(); patience > 0 {
			k.file.SetWriteDeadline(time.Now().Add(time.Duration(patience)))
		}
		err := k.raw.Write(func(fd uintptr) bool {
			var m int
			m, errno = writev(int(fd), [][]byte{p[n:]})
			if errno == 0 {
				n += m
				k.srv.counters.bytesSent.Add(uint64(m))
			}
			return errno != unix.EAGAIN
		})
		if err != nil {
			k.setAbort()
			return n, err
		}
		if errno != 0 {
			w.errno = errno
			return n, errno
		}
	}
	return n, nil
}
