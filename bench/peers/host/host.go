// Package host is what surrounds the library in each comparison relay: the environment, the listener, the plain
// requests and the signals. Of WebSocket it knows no more than the address of an upgrade.
package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// MaxMessageBytes is the largest message a relay accepts.
const MaxMessageBytes = 1 << 20

// defaultMaxQueueBytes lets a peer lag by a few of the largest messages, or some ten thousand small ones.
const defaultMaxQueueBytes = 4 << 20

// Settings come from environment variables named as relaygate's own.
type Settings struct {
	Addr          string        // HOST and PORT; default port 8080 on all addresses
	CheckInterval time.Duration // CONNECTION_CHECK_INTERVAL; default 30 s
	MaxQueueBytes int           // MAX_QUEUE_BYTES waiting for one peer; default 4 MiB
}

// Start reads the settings and prepares the process. A fault ends it with status 2.
func Start() Settings {
	s := Settings{
		Addr:          net.JoinHostPort(os.Getenv("HOST"), valueOr("PORT", "8080")),
		CheckInterval: 30 * time.Second,
		MaxQueueBytes: defaultMaxQueueBytes,
	}
	if v := os.Getenv("CONNECTION_CHECK_INTERVAL"); v != "" {
		d, err := parseMilliseconds(v)
		if err != nil || d < time.Millisecond {
			fail("CONNECTION_CHECK_INTERVAL", v)
		}
		s.CheckInterval = d
	}
	if v := os.Getenv("MAX_QUEUE_BYTES"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < MaxMessageBytes+64<<10 {
			fail("MAX_QUEUE_BYTES", v)
		}
		s.MaxQueueBytes = n
	}
	raiseOpenFiles()
	return s
}

func valueOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// parseMilliseconds takes a plain number, as the contract has it, or a Go duration.
func parseMilliseconds(v string) (time.Duration, error) {
	if n, err := strconv.Atoi(v); err == nil {
		return time.Duration(n) * time.Millisecond, nil
	}
	return time.ParseDuration(v)
}

func fail(name, value string) {
	fmt.Fprintf(os.Stderr, "%s: invalid value %q\n", name, value)
	os.Exit(2)
}

// raiseOpenFiles lifts the soft limit to the hard one. The Go runtime does so as well; a relay should not depend on it.
func raiseOpenFiles() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}

// Listen is net.Listen without TCP keep-alive: Go's default of 15 s would be the main traffic of 100,000 silent sockets,
// and the heartbeat does the same work. It hands out bare *net.TCPConn.
func Listen(network, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1}
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), network, addr)
}

// Upgrade takes over a connection that asks for WebSocket. The two ids are its own copies, free of the request.
type Upgrade func(w http.ResponseWriter, r *http.Request, relayID, peerID string)

// Handler answers plain requests itself and hands upgrades on.
func Handler(upgrade Upgrade) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, `{"message":"This relay is a benchmark's comparison target."}`)
	})
	v1 := func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			writeJSON(w, `{"version":"v1.0","isPublic":true}`)
			return
		}
		q := r.URL.Query()
		relayID, peerID := q.Get("relayId"), q.Get("peerId")
		if relayID == "" || peerID == "" {
			http.Error(w, "relayId and peerId are required", http.StatusBadRequest)
			return
		}
		upgrade(w, r, strings.Clone(relayID), strings.Clone(peerID))
	}
	mux.HandleFunc("GET /v1", v1)
	mux.HandleFunc("GET /v1/{$}", v1)
	return mux
}

func writeJSON(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = io.WriteString(w, body)
}

// Serve runs net/http until a signal ends the process.
func Serve(s Settings, upgrade Upgrade) {
	l, err := Listen("tcp", s.Addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv := &http.Server{Handler: Handler(upgrade), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() { _ = srv.Serve(l) }()
	AwaitSignal()
	_ = srv.Close()
}

// AwaitSignal blocks until SIGTERM or SIGINT.
func AwaitSignal() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	<-c
}
