package guest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// copyBuffer is how much one read of a stream takes.
	copyBuffer = 128 << 10
	// pipeSize is the capacity to ask for of the pipes of a process.
	pipeSize = 1 << 20
)

// output copies what a process writes, to a pipe or terminal, to a stream.
//
// It ends at the end of file: when the last process that holds the write side
// is gone. The process itself may end earlier and leave others behind that go
// on writing; for that moment there is finish.
type output struct {
	file *os.File

	drained   chan struct{} // closed when all that was written before finish is copied
	once      sync.Once
	written   uint64 // complete when drained is closed
	finishing chan struct{}
}

func newOutput(file *os.File) *output {
	return &output{file: file, drained: make(chan struct{}), finishing: make(chan struct{})}
}

// finish tells that the process has ended: drained is closed as soon as what
// is buffered now is copied, even if no end of file follows.
func (o *output) finish() {
	close(o.finishing)
	o.wake()
}

// wake has a read that waits return; one that has data to write comes by itself.
func (o *output) wake() { o.file.SetReadDeadline(past) }

func (o *output) markDrained() { o.once.Do(func() { close(o.drained) }) }

// copy runs until the end of file or until w fails, then closes the read side,
// so that writers get EPIPE. Woken, it calls park, which waits for as long as it
// is to stand still.
func (o *output) copy(w io.Writer, park func()) error {
	defer o.markDrained()
	defer o.file.Close()
	buf := make([]byte, copyBuffer)
	for {
		n, err := o.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := o.file.SetReadDeadline(time.Time{}); err != nil {
				return err
			}
			park()
			select {
			case <-o.finishing:
			default:
				continue
			}
			if err := o.drain(w, buf); err != nil {
				return ignoreEOF(err)
			}
			o.markDrained()
			continue
		}
		if n > 0 {
			if err := o.write(w, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return ignoreEOF(err)
		}
	}
}

// drain copies until there is nothing to read at the moment.
func (o *output) drain(w io.Writer, buf []byte) error {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int
		var readErr error
		err := raw.Control(func(fd uintptr) {
			for {
				n, readErr = unix.Read(int(fd), buf)
				if readErr != unix.EINTR {
					return
				}
			}
		})
		switch {
		case err != nil:
			return err
		case readErr == unix.EAGAIN:
			return nil
		case readErr != nil:
			return readErr
		case n == 0:
			return io.EOF
		}
		if err := o.write(w, buf[:n]); err != nil {
			return err
		}
	}
}

func (o *output) write(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	select {
	case <-o.drained:
	default:
		o.written += uint64(n)
	}
	return err
}

// ignoreEOF drops the errors that are the normal end of a pipe or terminal:
// the master of a terminal says EIO when nobody has it open.
func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// copyInput copies a stream to the standard input of a process until either
// side ends. It does not close file: the caller knows what its end means.
func copyInput(file *os.File, conn io.Reader) {
	buf := make([]byte, copyBuffer)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := file.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// closeWrite half-closes a stream; one that cannot is closed.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if half.CloseWrite() == nil {
			return
		}
	}
	conn.Close()
}
