package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"runv.dev/runv/agent/protocol"
)

// fakeAgent answers the first request of a connection with answer(its stream).
func fakeAgent(t *testing.T, answer func(stream uint32) []byte) *Client {
	t.Helper()
	return fakeAgentUntil(t, answer, func(io.Closer) {})
}

// fakeAgentUntil does something with the connection when it has answered.
func fakeAgentUntil(t *testing.T, answer func(stream uint32) []byte, answered func(io.Closer)) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		header := make([]byte, frameHeader)
		if _, err := io.ReadFull(theirs, header); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header))
		if _, err := io.ReadFull(theirs, body); err != nil {
			return
		}
		go io.Copy(io.Discard, theirs)
		theirs.Write(answer(binary.BigEndian.Uint32(header[4:])))
		answered(theirs)
	}()
	c, err := New(context.Background(), func(context.Context, uint32) (net.Conn, error) { return ours, nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func encode(stream uint32, kind uint8, body []byte) []byte {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = binary.BigEndian.AppendUint32(frame, stream)
	return append(append(frame, kind, 0), body...)
}

// response encodes an RPC's answer.
func response(t testing.TB, stream uint32, m proto.Message, st *status.Status) []byte {
	t.Helper()
	var r ttrpc.Response
	if m != nil {
		payload, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		r.Payload = payload
	}
	if st != nil {
		r.Status = st.Proto()
	}
	body, err := proto.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	return encode(stream, frameResponse, body)
}

func TestWaitChecksNumbers(t *testing.T) {
	tests := []struct {
		name   string
		resp   *protocol.WaitResponse
		status int
		bad    bool
	}{
		{"0", &protocol.WaitResponse{}, 0, false},
		{"255", &protocol.WaitResponse{ExitCode: 255}, 255, false},
		{"256", &protocol.WaitResponse{ExitCode: 256}, 0, true},
		{"huge", &protocol.WaitResponse{ExitCode: math.MaxUint32}, 0, true},
		{"SIGKILL", &protocol.WaitResponse{Signal: 9}, 137, false},
		{"signal 64", &protocol.WaitResponse{Signal: 64}, 192, false},
		{"signal 65", &protocol.WaitResponse{Signal: 65}, 0, true},
		{"both", &protocol.WaitResponse{Signal: 9, ExitCode: 1}, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := fakeAgent(t, func(s uint32) []byte { return response(t, s, tt.resp, nil) })
			exit, err := c.Wait(context.Background(), "c", "")
			if errors.Is(err, ErrProtocol) != tt.bad || err != nil && !tt.bad || exit.Status() != tt.status {
				t.Errorf("%+v, %v", exit, err)
			}
		})
	}
}

func TestForgedFrames(t *testing.T) {
	huge := encode(1, frameResponse, nil)
	binary.BigEndian.PutUint32(huge, protocol.MaxMessage+1)
	tests := map[string][]byte{
		"too large":           huge,
		"request":             encode(1, frameRequest, nil),
		"data":                encode(1, 3, nil),
		"answer to nothing":   encode(3, frameResponse, nil),
		"second answer":       append(encode(1, frameResponse, nil), encode(1, frameResponse, nil)...),
		"not a message":       encode(1, frameResponse, []byte{0xff, 0xff, 0xff}),
		"text instead":        []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"even stream":         encode(2, frameResponse, nil),
		"no frame, just fill": make([]byte, 100),
	}
	for name, bytes := range tests {
		t.Run(name, func(t *testing.T) {
			c := fakeAgent(t, func(uint32) []byte { return bytes })
			err := c.Ready(context.Background())
			// The first of two answers may be taken before the second is seen.
			if err == nil {
				t.Fatal("no error")
			}
			if name == "second answer" || name == "not a message" {
				return
			}
			if !errors.Is(err, ErrAgentLost) || !errors.Is(err, ErrProtocol) {
				t.Errorf("error %v", err)
			}
			<-c.Done()
		})
	}
}

func TestAgentGone(t *testing.T) {
	ours, theirs := net.Pipe()
	c, err := New(context.Background(), func(context.Context, uint32) (net.Conn, error) { return ours, nil })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		io.ReadFull(theirs, make([]byte, frameHeader))
		theirs.Close()
	}()
	if _, err := c.Wait(context.Background(), "c", ""); !errors.Is(err, ErrAgentLost) {
		t.Errorf("error %v", err)
	}
	<-c.Done()
}

func TestSilentAgent(t *testing.T) {
	c := fakeAgent(t, func(uint32) []byte { return nil })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// TestAgentSeesDeadlineFirst has the agent report the end of the caller's time.
func TestAgentSeesDeadlineFirst(t *testing.T) {
	c := fakeAgent(t, func(s uint32) []byte {
		return response(t, s, nil, status.New(codes.DeadlineExceeded, "context deadline exceeded"))
	})
	if err := c.Ready(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestFailure(t *testing.T) {
	detailed := func(f *protocol.Failure, text string) *status.Status {
		st, err := status.New(codes.Internal, text).WithDetails(f)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	tests := []struct {
		name string
		st   *status.Status
		is   error
		exit int
		text string
	}{
		{"not found", detailed(&protocol.Failure{Reason: protocol.Failure_EXECUTABLE_NOT_FOUND, Errno: 2}, `exec: "x"`), ErrExecutableNotFound, 127, `start: exec: "x"`},
		{"not runnable", detailed(&protocol.Failure{Reason: protocol.Failure_EXECUTABLE_NOT_RUNNABLE, Errno: 13}, "x"), syscall.EACCES, 126, "start: x"},
		{"unsupported", detailed(&protocol.Failure{Reason: protocol.Failure_UNSUPPORTED}, "x"), ErrUnsupported, 0, "start: x"},
		{"control characters", detailed(&protocol.Failure{}, "a\x1b[2Jb\nc\x00"), nil, 0, "start: a?[2Jb c?"},
		{"unknown reason", detailed(&protocol.Failure{Reason: 99, Errno: math.MaxUint32}, "x"), nil, 0, "start: x"},
		{"no details", status.New(codes.Unavailable, ""), nil, 0, "start: the agent gave no reason"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := fakeAgent(t, func(s uint32) []byte { return response(t, s, nil, tt.st) })
			err := c.Start(context.Background(), "c", nil)
			var failed *Error
			if !errors.As(err, &failed) || err.Error() != tt.text {
				t.Fatalf("error %q", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v is not %v", err, tt.is)
			}
			if exit, _ := ExitStatus(err); exit != tt.exit {
				t.Errorf("exit status %d; want %d", exit, tt.exit)
			}
		})
	}
}

func TestBadIDs(t *testing.T) {
	c := fakeAgent(t, func(uint32) []byte { return nil })
	if _, err := c.Create(context.Background(), CreateOptions{ID: "../x"}); err == nil {
		t.Error("create takes ../x")
	}
	if _, err := c.Exec(context.Background(), ExecOptions{ContainerID: "x"}); err == nil {
		t.Error("exec takes an empty name")
	}
}

func TestStdioOptions(t *testing.T) {
	if _, err := NewStdio(StdioOptions{Terminal: true, Stdout: true}); err == nil {
		t.Error("a terminal and stdout at once")
	}
	s, err := NewStdio(StdioOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	m := s.message()
	if len(m.Stdin) != 16 || len(m.Stdout) != 16 || bytes.Equal(m.Stdin, m.Stdout) || m.Stderr != nil || m.Terminal != nil {
		t.Errorf("message %v", m)
	}
}

// FuzzScanner cuts a byte stream in two places: the frames found must not
// depend on where.
func FuzzScanner(f *testing.F) {
	f.Add(append(encode(1, 2, []byte("hello")), encode(3, 2, nil)...), uint16(3), uint16(12))
	f.Add(encode(1, 2, bytes.Repeat([]byte{1}, 300)), uint16(10), uint16(10))
	f.Fuzz(func(t *testing.T, stream []byte, a, b uint16) {
		find := func(parts ...[]byte) (frames []frame) {
			var s scanner
			for _, p := range parts {
				if err := s.scan(p, func(f frame) error { frames = append(frames, f); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			return frames
		}
		i, j := min(int(a), len(stream)), min(int(b), len(stream))
		whole, cut := find(stream), find(stream[:min(i, j)], stream[min(i, j):max(i, j)], stream[max(i, j):])
		if len(whole) != len(cut) {
			t.Fatalf("%v, cut %v", whole, cut)
		}
		for k := range whole {
			if whole[k] != cut[k] {
				t.Fatalf("%v, cut %v", whole, cut)
			}
		}
	})
}

// FuzzResponse has the agent answer with arbitrary bytes.
func FuzzResponse(f *testing.F) {
	f.Add(response(f, 1, &protocol.WaitResponse{ExitCode: 3}, nil))
	f.Add(response(f, 1, nil, status.New(codes.NotFound, "x")))
	f.Add(response(f, 1, &protocol.ProcessesResponse{Processes: []*protocol.Process{{Pid: 1, Args: []string{"\x1b"}}, {}}}, nil))
	f.Add(encode(1, 2, bytes.Repeat([]byte{8}, 100)))
	f.Fuzz(func(t *testing.T, answer []byte) {
		for _, request := range []func(*Client, context.Context) error{
			func(c *Client, ctx context.Context) error {
				exit, err := c.Wait(ctx, "c", "")
				if s := exit.Status(); s < 0 || s > 128+maxSignal && s > 255 {
					t.Errorf("status %d", s)
				}
				return err
			},
			func(c *Client, ctx context.Context) error {
				list, err := c.Processes(ctx, "c")
				for _, p := range list {
					checkText(t, p.Command)
					checkText(t, p.State)
				}
				return err
			},
			func(c *Client, ctx context.Context) error { _, err := c.Stats(ctx, "c"); return err },
		} {
			// It goes away, so that nobody waits for the rest of an answer.
			c := fakeAgentUntil(t, func(uint32) []byte { return answer }, func(c io.Closer) { c.Close() })
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			if err := request(c, ctx); err != nil {
				checkText(t, err.Error())
			}
			cancel()
			c.Close()
		}
	})
}

func checkText(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\x1b\n\r") || len(s) > 3*maxText {
		t.Errorf("text %.100q", s)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b]0;title\x07\xff\u202e")
	f.Add(strings.Repeat("ä", maxText))
	f.Fuzz(func(t *testing.T, s string) { checkText(t, printable(s)) })
}

func TestCounters(t *testing.T) {
	many := map[string]uint64{"a\nb": 1, strings.Repeat("x", maxCounterName+1): 2}
	if got := counters(many); len(got) != 1 || got["a b"] != 1 {
		t.Errorf("counters() = %v", got)
	}
	for i := range uint64(2 * maxCounters) {
		many[fmt.Sprint(i)] = i
	}
	if got := counters(many); len(got) != maxCounters {
		t.Errorf("%d of %d counters are kept; want %d", len(got), len(many), maxCounters)
	}
}
