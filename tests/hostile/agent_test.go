package hostile

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"runv.dev/runv/agent/protocol"
)

// A hostile agent: this test binary as the first process of a guest. It does
// what an agent does, but for the one thing that its case says.

// agentCase is the file in the guest's root that names the case.
const agentCase = "/case"

// inGuest reports whether this process is the first one of a guest, and has its
// case.
func inGuest() (string, bool) {
	if os.Getpid() != 1 {
		return "", false
	}
	name, err := os.ReadFile(agentCase)
	return string(name), err == nil
}

// fakeAgent is that process; it does not return.
func fakeAgent(name string) {
	a := &agent{name: name, streams: map[protocol.Token]chan net.Conn{}, signalled: make(chan struct{})}
	switch name {
	case "no-hello":
		forever()
	case "gone":
		powerOff()
	}
	var control, streams net.Listener
	if name != "no-listener" {
		control, streams = listen(protocol.ControlPort), listen(protocol.StreamPort)
		go a.serveStreams(streams)
		go a.serve(control)
	}
	a.hello()
	forever()
}

func forever() { select {} }

// powerOff ends the machine without a word.
func powerOff() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	forever()
}

// listen listens on a vsock port; what fails here fails the test by silence.
func listen(port uint32) net.Listener {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	}
	if err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		println("listen:", err.Error())
		forever()
	}
	return listener(fd)
}

type listener int

func (l listener) Accept() (net.Conn, error) {
	fd, _, err := unix.Accept(int(l))
	if err != nil {
		return nil, err
	}
	return newConn(fd), nil
}
func (l listener) Close() error   { return unix.Close(int(l)) }
func (l listener) Addr() net.Addr { return &net.UnixAddr{} }

// conn is a vsock connection, which package net does not know.
type conn struct{ *os.File }

func newConn(fd int) net.Conn                 { return conn{os.NewFile(uintptr(fd), "vsock")} }
func (conn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (conn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (conn) SetDeadline(time.Time) error      { return nil }
func (conn) SetReadDeadline(time.Time) error  { return nil }
func (conn) SetWriteDeadline(time.Time) error { return nil }

func dialHost(port uint32) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: protocol.HostCID, Port: port}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return newConn(fd), nil
}

// agent implements protocol.AgentService.
type agent struct {
	name      string
	signalled chan struct{} // closed with the first signal
	once      sync.Once

	mu      sync.Mutex
	streams map[protocol.Token]chan net.Conn
}

func (a *agent) is(name string) bool { return a.name == name }

// hello says hello, or something else.
func (a *agent) hello() {
	c, err := dialHost(protocol.HelloPort)
	if err != nil {
		return
	}
	switch a.name {
	case "hello-garbage":
		for {
			if _, err := c.Write([]byte(strings.Repeat("\x00\xff\x1b[2J", 1000))); err != nil {
				return
			}
		}
	case "hello-silent":
		forever()
	default:
		c.Write(protocol.AppendHello(nil))
	}
	c.Close()
	if a.is("dial-flood") {
		for port := uint32(0); ; port++ {
			if c, err := dialHost(port); err == nil {
				c.Write([]byte("hello again"))
			}
		}
	}
}

// serve speaks ttrpc, or something else, on the control port.
func (a *agent) serve(l net.Listener) {
	if raw, ok := rawAnswers[a.name]; ok {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go raw(c)
		}
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return
	}
	protocol.RegisterAgentService(server, a)
	server.Serve(context.Background(), l)
}

// rawAnswers are cases below the RPC library.
var rawAnswers = map[string]func(net.Conn){
	"close-at-once": func(c net.Conn) { c.Close() },
	"frame-oversized": func(c net.Conn) {
		io.ReadFull(c, make([]byte, 10))
		c.Write(append(binary.BigEndian.AppendUint32(nil, 0xffffffff), 0, 0, 0, 1, 2, 0))
		forever()
	},
	"frame-flood": func(c net.Conn) {
		go io.Copy(io.Discard, c)
		for {
			if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, 0), 0, 0, 0, 99, 2, 0)); err != nil {
				return
			}
		}
	},
	"read-nothing": func(net.Conn) { forever() },
}

// serveStreams keeps the streams by their tokens.
func (a *agent) serveStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		switch a.name {
		case "streams-closed":
			c.Close()
			continue
		case "streams-silent":
			continue
		}
		go func() {
			var t protocol.Token
			if _, err := io.ReadFull(c, t[:]); err == nil {
				a.stream(t) <- c
			}
		}()
	}
}

func (a *agent) stream(t protocol.Token) chan net.Conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams[t] == nil {
		a.streams[t] = make(chan net.Conn, 1)
	}
	return a.streams[t]
}

func (a *agent) Ready(context.Context, *protocol.ReadyRequest) (*protocol.ReadyResponse, error) {
	return &protocol.ReadyResponse{ProtocolVersion: protocol.Version}, nil
}

func (a *agent) Create(_ context.Context, r *protocol.CreateRequest) (*protocol.CreateResponse, error) {
	switch a.name {
	case "create-silent":
		forever()
	case "create-pid-0":
		return &protocol.CreateResponse{}, nil
	case "create-error-text":
		return nil, status.Error(codes.Internal, strings.Repeat("\x1b[2J\nrunv: all is well\r\x00", 100000))
	case "create-warnings":
		return &protocol.CreateResponse{Pid: 1, Warnings: make([]string, 200000)}, nil
	}
	if a.is("output-endless") {
		if t, err := protocol.ParseToken(r.Stdio.GetStdout()); err == nil {
			go func() {
				c := <-a.stream(t)
				for {
					if _, err := c.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			}()
		}
	}
	return &protocol.CreateResponse{Pid: 42}, nil
}

func (a *agent) Start(context.Context, *protocol.StartRequest) (*protocol.StartResponse, error) {
	switch a.name {
	case "start-silent":
		forever()
	case "start-gone":
		powerOff()
	}
	return &protocol.StartResponse{}, nil
}

func (a *agent) Wait(ctx context.Context, r *protocol.WaitRequest) (*protocol.WaitResponse, error) {
	switch a.name {
	case "exit-code-256":
		return &protocol.WaitResponse{ExitCode: 256}, nil
	case "exit-signal-99":
		return &protocol.WaitResponse{Signal: 99}, nil
	case "exit-undrained":
		return &protocol.WaitResponse{ExitCode: 3, StdoutBytes: 1 << 63}, nil
	case "exit-forged-oom":
		return &protocol.WaitResponse{Signal: 9, OomKilled: true}, nil
	case "exit-two-answers":
		if r.Undrained {
			return &protocol.WaitResponse{ExitCode: 7}, nil
		}
		return &protocol.WaitResponse{ExitCode: 300, Signal: 300}, nil
	}
	if a.is("signal-silent") {
		<-a.signalled
		return &protocol.WaitResponse{ExitCode: 3}, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (a *agent) Exec(context.Context, *protocol.ExecRequest) (*protocol.ExecResponse, error) {
	return &protocol.ExecResponse{Pid: 1 << 31}, nil
}
func (a *agent) Delete(context.Context, *protocol.DeleteRequest) (*protocol.DeleteResponse, error) {
	return &protocol.DeleteResponse{}, nil
}

// Signal is acknowledged, and nothing else comes of it.
func (a *agent) Signal(ctx context.Context, _ *protocol.SignalRequest) (*protocol.SignalResponse, error) {
	a.once.Do(func() { close(a.signalled) })
	if a.is("signal-silent") || a.is("signal-stuck") {
		<-ctx.Done()
	}
	return &protocol.SignalResponse{}, nil
}
func (a *agent) Resize(context.Context, *protocol.ResizeRequest) (*protocol.ResizeResponse, error) {
	return &protocol.ResizeResponse{}, nil
}
func (a *agent) Pause(context.Context, *protocol.PauseRequest) (*protocol.PauseResponse, error) {
	return &protocol.PauseResponse{}, nil
}
func (a *agent) Resume(context.Context, *protocol.ResumeRequest) (*protocol.ResumeResponse, error) {
	return &protocol.ResumeResponse{}, nil
}

func (a *agent) Suspend(ctx context.Context, _ *protocol.SuspendRequest) (*protocol.SuspendResponse, error) {
	switch a.name {
	case "suspend-more": // than was ever written
		return &protocol.SuspendResponse{StdoutBytes: 1 << 63, TerminalBytes: 1 << 63}, nil
	case "suspend-silent":
		<-ctx.Done()
	case "suspend-gone":
		powerOff()
	}
	return &protocol.SuspendResponse{}, nil
}
func (a *agent) Attach(ctx context.Context, _ *protocol.AttachRequest) (*protocol.AttachResponse, error) {
	switch a.name {
	case "attach-silent":
		<-ctx.Done()
	case "attach-error":
		return nil, status.Error(codes.Internal, "\x1b[2J\nno")
	}
	return &protocol.AttachResponse{StdoutBytes: 1 << 63, Warnings: make([]string, 1000)}, nil
}
func (a *agent) Update(context.Context, *protocol.UpdateRequest) (*protocol.UpdateResponse, error) {
	return &protocol.UpdateResponse{}, nil
}

// Processes lists a great many, with names that a terminal would obey.
func (a *agent) Processes(context.Context, *protocol.ProcessesRequest) (*protocol.ProcessesResponse, error) {
	r := &protocol.ProcessesResponse{}
	for range 20000 {
		r.Processes = append(r.Processes, &protocol.Process{Pid: 1 << 31, Args: []string{"\x1b[2J\n", "evil"}})
	}
	return r, nil
}
func (a *agent) Stats(context.Context, *protocol.StatsRequest) (*protocol.StatsResponse, error) {
	return &protocol.StatsResponse{}, nil
}
func (a *agent) SetNetwork(context.Context, *protocol.SetNetworkRequest) (*protocol.SetNetworkResponse, error) {
	return &protocol.SetNetworkResponse{}, nil
}
func (a *agent) SetTime(context.Context, *protocol.SetTimeRequest) (*protocol.SetTimeResponse, error) {
	return &protocol.SetTimeResponse{}, nil
}
func (a *agent) AddEntropy(context.Context, *protocol.AddEntropyRequest) (*protocol.AddEntropyResponse, error) {
	return &protocol.AddEntropyResponse{}, nil
}
func (a *agent) Shutdown(context.Context, *protocol.ShutdownRequest) (*protocol.ShutdownResponse, error) {
	return &protocol.ShutdownResponse{}, nil
}
