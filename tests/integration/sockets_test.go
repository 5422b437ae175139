//go:build integration

package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// inNamespace runs a busybox command on the host in a network namespace.
func inNamespace(t *testing.T, name string, args ...string) string {
	t.Helper()
	return ip(t, append([]string{"netns", "exec", name, "busybox"}, args...)...)
}

// serving starts a container in a namespace with a web server on an address,
// and waits until that listens.
func serving(t *testing.T, name, address string) *background {
	t.Helper()
	script := fmt.Sprintf("busybox httpd -p %s -h /etc && echo listening && read end", address)
	b := inBackground(t, "run", "-b", bundle(t, []string{"sh", "-c", script}, inNetns(name)), newID())
	b.out.wait(t, "listening")
	return b
}

// stop lets a serving container end.
func (b *background) stop(t *testing.T) {
	t.Helper()
	fmt.Fprintln(b.in)
	if status := b.end(t); status != 0 {
		t.Errorf("status %d: %s", status, b.stderr.String())
	}
}

const ofTheImage = "of the image\n"

// TestServer: what listens in a guest is reached where its network namespace is.
func TestServer(t *testing.T) {
	noLeaks(t)
	name := netns(t)
	b := serving(t, name, "8080")
	for _, host := range []string{"127.0.0.1", "10.9.8.7", "[::1]", "[fd09:8::7]"} {
		if got := inNamespace(t, name, "wget", "-q", "-O", "-", "http://"+host+":8080/motd"); got != ofTheImage {
			t.Errorf("%s: %q; want %q", host, got, ofTheImage)
		}
	}
	b.stop(t)
	out, err := exec.Command("ip", "netns", "exec", name, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/motd").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "refused") {
		t.Errorf("after the container: %v: %s; want a refused connection", err, out)
	}
}

// TestPod: two containers of a network namespace, in two VMs, reach each other on
// the loopback device and cannot have the same port.
func TestPod(t *testing.T) {
	noLeaks(t)
	name := netns(t)
	b := serving(t, name, "127.0.0.1:8080")
	program := "busybox wget -q -O - http://127.0.0.1:8080/motd; busybox httpd -p 127.0.0.1:8080; echo status $?"
	r := runv(t, nil, "run", "-b", bundle(t, []string{"sh", "-c", program}, inNetns(name)), newID())
	r.expect(t, ofTheImage+"status 1\n", "*", 0)
	if !strings.Contains(r.stderr, "Address already in use") {
		t.Errorf("stderr %q", r.stderr)
	}
	b.stop(t)
}

// TestOwnLoopback: without any network but its own, a program still reaches
// itself, and nothing else.
func TestOwnLoopback(t *testing.T) {
	noLeaks(t)
	program := `busybox httpd -p 127.0.0.1:8080 -h /etc; busybox wget -q -O - http://localhost:8080/motd; busybox wget -q -O - http://10.1.2.3/`
	dir := bundle(t, []string{"sh", "-c", "echo 127.0.0.1 localhost >/etc/hosts; " + program}, func(s *specs.Spec) {
		s.Process.User = specs.User{}
	})
	r := runv(t, nil, "run", "-b", dir, newID())
	r.expect(t, ofTheImage, "*", 1)
	if !strings.Contains(r.stderr, "Network is unreachable") {
		t.Errorf("stderr %q", r.stderr)
	}
}
