package health

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// answering serves one connection with these bytes, whatever it is asked, and returns the address. The request, and
// what came before it, is sent to asked.
func answering(t *testing.T, answer string) (address string, asked <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	lines := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		line, _ := in.ReadString('\n')
		for rest := line; rest != "\r\n" && err == nil; {
			rest, err = in.ReadString('\n')
		}
		lines <- line
		_, _ = c.Write([]byte(answer))
	}()
	return l.Addr().String(), lines
}

func TestProbe(t *testing.T) {
	f := func(answer, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		address, asked := answering(t, answer)
		err := Probe(ctx, address, []byte("hello, "))
		if got := <-asked; got != "hello, GET /readyz HTTP/1.1\r\n" {
			t.Errorf("asked with %q", got)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("answered with %.60q: %v, want %q", answer, err, want)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n", "")
	f("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\n\r\ndraining\nmemory\n", "not ready (503 Service Unavailable):\ndraining\nmemory")
	f("HTTP/1.1 503 Service Unavailable\r\n\r\n"+strings.Repeat("x", 1<<20), "not ready")
	f("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "not ready (302 Found)")
	f("", "no answer")
	f("SSH-2.0-OpenSSH\r\n", "no answer")
}

func TestProbeWithoutAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := Probe(ctx, l.Addr().String(), nil); err == nil || !strings.HasSuffix(err.Error(), "in time") {
		t.Errorf("nobody answers: %v, want that it was not in time", err)
	}
	l.Close()
	if err := Probe(context.Background(), l.Addr().String(), nil); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody listens: %v, want that it is refused", err)
	}
}
