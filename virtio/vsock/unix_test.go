package vsock

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestParseRequest(t *testing.T) {
	for line, want := range map[string]uint32{
		"CONNECT 0": 0, "CONNECT 1024": 1024, "CONNECT 4294967294": 4294967294,
	} {
		if port, err := parseRequest(line); port != want || err != nil {
			t.Errorf("%q: %d, %v", line, port, err)
		}
	}
	for _, line := range []string{
		"", "CONNECT", "CONNECT ", "connect 1", "CONNECT  1", "CONNECT 1 ", "CONNECT -1", "CONNECT +1", "CONNECT 0x1",
		"CONNECT 1_0", "CONNECT 4294967295", "CONNECT 4294967296", "CONNECT 1\r", " CONNECT 1", "CONNECT 1\x00",
	} {
		if port, err := parseRequest(line); err == nil {
			t.Errorf("%q: %d", line, port)
		}
	}
}

// unixPair serves a Unix socket whose clients come out of the listener that
// plays the guest's port 1024.
func unixPair(t *testing.T) (path string, guest net.Listener, stop func()) {
	a, b := pair(t, Options{}, guestOptions{})
	guest, err := b.Listen(1024)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	a.Answer(7, func(w io.Writer) { io.WriteString(w, "seven") })
	go func() { done <- a.ServeUnix(ctx, l, func(p uint32) bool { return p == 1024 || p == 1025 }) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("ServeUnix = %v", err)
			}
			guest.Close()
		})
	}
	t.Cleanup(stop)
	return path, guest, stop
}

func dialUnix(t *testing.T, path, send string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	if send == "" {
		return c // a refused client could not even write nothing
	}
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnswer(t *testing.T) {
	path, _, _ := unixPair(t)
	c := dialUnix(t, path, "CONNECT 7\n")
	if got, err := io.ReadAll(c); err != nil || string(got) != "OK 7\nseven" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestServeUnixErrors(t *testing.T) {
	path, _, _ := unixPair(t)
	for send, want := range map[string]string{
		"CONNECT 1026\n":                      "ERR port 1026 is not allowed\n",
		"CONNECT 1025\n":                      "ERR connection refused\n",
		"CONNECT x\n":                         "ERR bad port \"x\"\n",
		"GET / HTTP/1.0\r\n\r\n":              "ERR expected CONNECT <port>\n",
		strings.Repeat("A", requestLine):      "ERR request too long\n",
		"CONNECT 10240000000000000000000\n":   "ERR bad port \"10240000000000000000000\"\n",
		"\n":                                  "ERR expected CONNECT <port>\n",
		"CONNECT 1024 and much more than fit": "ERR request too long\n",
	} {
		c := dialUnix(t, path, send)
		if got, err := io.ReadAll(c); string(got) != want {
			t.Errorf("%q: %q, %v; want %q", send, got, err, want)
		}
	}
	c := dialUnix(t, path, "CONN")
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "ERR end of file in the request\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// established returns both ends of a connection through the socket.
func established(t *testing.T, path string, guest net.Listener, first string) (client *net.UnixConn, r *bufio.Reader, g *Conn) {
	t.Helper()
	client = dialUnix(t, path, "CONNECT 1024\n"+first)
	r = bufio.NewReader(client)
	if line, err := r.ReadString('\n'); line != "OK 1024\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c, err := guest.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	return client, r, c.(*Conn)
}

func TestServeUnix(t *testing.T) {
	path, guest, _ := unixPair(t)
	t.Run("half-close by the client", func(t *testing.T) {
		client, r, g := established(t, path, guest, "hello")
		client.CloseWrite()
		if b, err := io.ReadAll(g); string(b) != "hello" || err != nil {
			t.Errorf("guest got %q, %v", b, err)
		}
		io.WriteString(g, "reply")
		g.CloseWrite()
		if b, err := io.ReadAll(r); string(b) != "reply" || err != nil {
			t.Errorf("client got %q, %v", b, err)
		}
		g.hungUp()
	})
	t.Run("half-close by the guest", func(t *testing.T) {
		client, r, g := established(t, path, guest, "")
		io.WriteString(g, "hello")
		g.CloseWrite()
		if b, err := io.ReadAll(r); string(b) != "hello" || err != nil {
			t.Errorf("client got %q, %v", b, err)
		}
		io.WriteString(client, "reply")
		client.CloseWrite()
		if b, err := io.ReadAll(g); string(b) != "reply" || err != nil {
			t.Errorf("guest got %q, %v", b, err)
		}
		g.hungUp()
	})
	t.Run("close by the client", func(t *testing.T) {
		client, _, g := established(t, path, guest, "")
		client.Close()
		if b, err := io.ReadAll(g); len(b) != 0 || err != nil {
			t.Errorf("guest got %q, %v", b, err)
		}
		g.hungUp()
	})
	t.Run("half-close, then close by the client", func(t *testing.T) {
		client, _, g := established(t, path, guest, "")
		client.CloseWrite()
		if b, err := io.ReadAll(g); len(b) != 0 || err != nil {
			t.Errorf("guest got %q, %v", b, err)
		}
		client.Close()
		g.hungUp()
	})
	t.Run("close by the guest", func(t *testing.T) {
		client, r, g := established(t, path, guest, "")
		io.WriteString(g, "last words")
		g.Close()
		if b, err := io.ReadAll(r); string(b) != "last words" || err != nil {
			t.Errorf("client got %q, %v", b, err)
		}
		eventually(t, func() bool { _, err := client.Write([]byte("x")); return err != nil })
	})
	t.Run("half-close, then close by the guest", func(t *testing.T) {
		client, r, g := established(t, path, guest, "")
		g.CloseWrite()
		if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
			t.Errorf("client got %q, %v", b, err)
		}
		g.Close()
		eventually(t, func() bool { _, err := client.Write([]byte("x")); return err != nil })
	})
	t.Run("the guest reads no more", func(t *testing.T) {
		client, r, g := established(t, path, guest, "")
		g.CloseRead()
		eventually(t, func() bool { _, err := client.Write([]byte("x")); return err != nil })
		io.WriteString(g, "still here")
		g.CloseWrite()
		if b, err := io.ReadAll(r); string(b) != "still here" || err != nil {
			t.Errorf("client got %q, %v", b, err)
		}
	})
}

func TestServeUnixMany(t *testing.T) {
	path, guest, stop := unixPair(t)
	go func() { // echo
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
				c.(*Conn).CloseWrite()
				io.Copy(io.Discard, c)
			}()
		}
	}()
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			data := make([]byte, 100_000)
			rng := rand.NewChaCha8([32]byte{byte(i)})
			rng.Read(data)
			c := dialUnix(t, path, "CONNECT 1024\n")
			defer c.Close()
			go func() { c.Write(data); c.CloseWrite() }()
			got, err := io.ReadAll(c)
			if want := append([]byte("OK 1024\n"), data...); err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
				t.Errorf("client %d: %d bytes of %d, %v", i, len(got), len(want), err)
			}
		})
	}
	wg.Wait()
	eventually(t, func() bool { return runtime.NumGoroutine() <= before })

	// Those that are still there when it stops.
	var clients []*net.UnixConn
	for range 3 {
		clients = append(clients, dialUnix(t, path, "CONNECT 1024\n"))
		if _, err := clients[len(clients)-1].Read(make([]byte, 8)); err != nil {
			t.Error(err)
		}
	}
	clients = append(clients, dialUnix(t, path, "CON"))
	stop()
	for _, c := range clients {
		if b, err := io.ReadAll(c); len(b) > 0 && !bytes.HasPrefix(b, []byte("ERR ")) {
			t.Errorf("after the end: %q, %v", b, err)
		}
	}
}

func TestServeUnixLimit(t *testing.T) {
	path, _, _ := unixPair(t)
	for range maxClients {
		dialUnix(t, path, "")
	}
	c := dialUnix(t, path, "")
	if b, err := io.ReadAll(c); string(b) != "ERR too many clients\n" {
		t.Errorf("%q, %v", b, err)
	}
}
