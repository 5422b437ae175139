package checkpoint

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Port is what a client of agent.sock asks for to save the container; it is none
// of the guest's. The client sends a byte with the descriptors of two files, the
// memory's and the machine's, and gets an Answer, one line of JSON, when they are
// written. Until then, and until the client has said a byte more or gone away,
// the container stands still: after the byte ended the VM process ends, else the
// container goes on.
const Port = 1<<32 - 2

const (
	request = 's'
	ended   = 'e'
)

// Answer is how it went.
type Answer struct {
	Error string `json:"error,omitempty"`
	// Warnings are what the image lacks.
	Warnings []string `json:"warnings,omitempty"`
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 64 << 10

// writeTimeout bounds the writing of an image. A host's disk may be slow.
const writeTimeout = time.Hour

// Save has the VM process behind conn write the image into the directory, which
// replaces one that is there when it is complete. Then the container goes on, or
// ends.
func Save(conn net.Conn, dir string, end bool) (warnings []string, err error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("agent.sock is a %T", conn)
	}
	memory, err := os.CreateTemp(dir, ".memory-") // mode 0600
	if err != nil {
		return nil, err
	}
	defer discard(memory)
	state, err := os.CreateTemp(dir, ".state-")
	if err != nil {
		return nil, err
	}
	defer discard(state)
	if err := c.SetDeadline(time.Now().Add(writeTimeout)); err != nil {
		return nil, err
	}
	rights := unix.UnixRights(int(memory.Fd()), int(state.Fd()))
	if _, _, err := c.WriteMsgUnix([]byte{request}, rights, nil); err != nil {
		return nil, fmt.Errorf("agent.sock: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(c, maxAnswer)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the VM process gave no answer: %w", err)
	}
	var a Answer
	if err := json.Unmarshal(line, &a); err != nil {
		return nil, fmt.Errorf("agent.sock: %w", err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	// Without a state there is no image: so that is what comes last.
	if err := os.Rename(memory.Name(), filepath.Join(dir, memoryName)); err != nil {
		return nil, err
	}
	if err := mark(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(state.Name(), filepath.Join(dir, stateName)); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	if !end {
		return a.Warnings, nil
	}
	if _, err := c.Write([]byte{ended}); err != nil {
		return nil, fmt.Errorf("agent.sock: %w", err)
	}
	return a.Warnings, nil
}

func mark(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, markerName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "This checkpoint is runv's: %s and %s.\n", stateName, memoryName)
	return errors.Join(err, f.Close())
}

// discard removes a file unless it was renamed.
func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Accept takes a client's request, and the files that came with it.
func Accept(conn *net.UnixConn) (memory, state *os.File, err error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		return nil, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	var fds []int
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // not descriptors
		}
		fds = append(fds, more...)
	}
	if n != 1 || b[0] != request || len(fds) != 2 || flags&unix.MSG_CTRUNC != 0 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, nil, errors.New("not a request to save the container")
	}
	return os.NewFile(uintptr(fds[0]), memoryName), os.NewFile(uintptr(fds[1]), stateName), nil
}

// Reply answers, and returns when the client has decided: whether the container is
// to end.
func Reply(conn *net.UnixConn, a Answer) (end bool, err error) {
	if err := json.NewEncoder(conn).Encode(a); err != nil {
		return false, err
	}
	var b [1]byte
	n, _ := conn.Read(b[:])
	return n == 1 && b[0] == ended, nil
}
