package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"runv.dev/runv/tests/host/wire"
)

// relay passes frames between a host's control stream and any number of
// clients, giving each client's session a number of its own on the host.
type relay struct {
	host     *host
	shutdown chan struct{} // closed when a client asks for the end
	lost     chan struct{} // closed when the host is not to be reached any more
	stopOnce sync.Once

	mu       sync.Mutex
	clients  map[uint32]*client
	last     uint32
	lastUsed time.Time
}

// client is one connection. What the host sends it is queued, so that a slow
// client holds up nobody; credit bounds the queue.
type client struct {
	net  net.Conn
	conn *wire.Conn

	mu      sync.Mutex
	changed sync.Cond
	queue   []wire.Frame
	bytes   int
	closed  bool
}

// queueLimit is more than a client that keeps to its credit can have under way.
const queueLimit = 4 * wire.Window

func newRelay(h *host) *relay {
	return &relay{
		host: h, shutdown: make(chan struct{}), lost: make(chan struct{}),
		clients: make(map[uint32]*client), lastUsed: time.Now(),
	}
}

// fromHost hands frames to their clients until the control stream ends.
func (r *relay) fromHost() {
	for {
		f, err := r.host.conn.Read()
		if err != nil {
			fmt.Fprintf(os.Stderr, "testhost: control stream: %v\n", err)
			close(r.lost)
			return
		}
		r.mu.Lock()
		c := r.clients[f.Session]
		r.mu.Unlock()
		if c != nil {
			c.put(f)
		}
	}
}

func (r *relay) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // the listener was closed
		}
		go r.serve(conn)
	}
}

// serve passes one client's frames on. When it goes before its command, the
// command is killed.
func (r *relay) serve(conn net.Conn) {
	c := &client{net: conn, conn: wire.NewConn(conn)}
	c.changed.L = &c.mu
	defer c.close()
	if c.conn.Write(wire.Frame{Kind: wire.Hello, Payload: []byte(r.host.kind)}) != nil {
		return
	}
	r.mu.Lock()
	r.last++
	id := r.last
	r.clients[id] = c
	r.mu.Unlock()
	go c.deliver()
	for {
		f, err := c.conn.Read()
		if err != nil {
			break
		}
		if f.Kind == wire.Shutdown {
			r.stop()
			<-r.host.exited
			break
		}
		f.Session = id
		if r.host.conn.Write(f) != nil {
			break
		}
	}
	r.mu.Lock()
	delete(r.clients, id)
	r.lastUsed = time.Now()
	r.mu.Unlock()
	// The agent ignores this for a session that has ended.
	_ = r.host.conn.Write(wire.Frame{Session: id, Kind: wire.Abort})
}

func (r *relay) stop() { r.stopOnce.Do(func() { close(r.shutdown) }) }

// idle returns a channel that is closed when there was no client for limit.
func (r *relay) idle(limit time.Duration) <-chan struct{} {
	over := make(chan struct{})
	var check func()
	check = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		left := limit
		if len(r.clients) == 0 {
			left = time.Until(r.lastUsed.Add(limit))
		}
		if left <= 0 {
			close(over)
			return
		}
		time.AfterFunc(left, check)
	}
	check()
	return over
}

func (c *client) put(f wire.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, f)
	c.bytes += len(f.Payload)
	if c.bytes > queueLimit {
		c.net.Close() // it breaks the credit rules; its reader ends the session
	}
	c.changed.Broadcast()
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.net.Close()
	c.changed.Broadcast()
}

// deliver writes queued frames until the client's session ends.
func (c *client) deliver() {
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.changed.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		f := c.queue[0]
		c.queue = c.queue[1:]
		c.bytes -= len(f.Payload)
		c.mu.Unlock()
		if c.conn.Write(f) != nil {
			return
		}
		if f.Kind == wire.Exit {
			return // the client closes the connection
		}
	}
}
