// Command peers is a v1 relay as it would be written with one of several WebSocket libraries: what relaygate is compared
// with. Its first argument names the library.
//
// The room table (room.go), the plain requests and the settings are shared, so that what a measurement tells apart is the
// library and the style it asks for: a handler and a goroutine per connection (gws.go), two goroutines and a channel
// between them (gorilla.go), an event loop (nbhttp.go). None of them negotiates compression.
package main

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

// maxMessageBytes is the largest message a relay accepts.
const maxMessageBytes = 1 << 20

// settings come from environment variables named as relaygate's own.
type settings struct {
	addr          string
	checkInterval time.Duration
}

// upgrade takes over a connection that asks for WebSocket.
type upgrade func(w http.ResponseWriter, r *http.Request, relayID, peerID string)

func main() {
	s := settings{addr: net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")), checkInterval: 30 * time.Second}
	if ms, err := strconv.Atoi(os.Getenv("CONNECTION_CHECK_INTERVAL")); err == nil && ms > 0 {
		s.checkInterval = time.Duration(ms) * time.Millisecond
	}
	r := &relay{settings: s, rooms: map[string]*room{}}
	libraries := map[string]func(*relay) error{
		"gws": serveGWS, "gorilla": serveGorilla, "nbhttp": serveNBHTTP,
	}
	if len(os.Args) != 2 || libraries[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peers gws|gorilla|nbhttp")
		os.Exit(2)
	}
	go r.heartbeat(context.Background())
	go func() {
		fmt.Fprintln(os.Stderr, libraries[os.Args[1]](r))
		os.Exit(1)
	}()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
}

// listen is net.Listen without TCP keep-alive: Go's default of 15 s would be the main traffic of 100,000 silent sockets,
// and the heartbeat does the same work. It hands out bare *net.TCPConn.
func listen(network, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1}
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), network, addr)
}

// serve runs net/http.
func serve(s settings, u upgrade) error {
	l, err := listen("tcp", s.addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler(u), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	return srv.Serve(l)
}

// handler answers plain requests itself and hands upgrades on.
func handler(u upgrade) http.Handler {
	mux := http.NewServeMux()
	v1 := func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		relayID, peerID := q.Get("relayId"), q.Get("peerId")
		switch {
		case !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
			io.WriteString(w, `{"version":"v1.0","isPublic":true}`)
		case relayID == "" || peerID == "":
			http.Error(w, "relayId and peerId are required", http.StatusBadRequest)
		default:
			u(w, r, strings.Clone(relayID), strings.Clone(peerID)) // copies of their own, free of the request
		}
	}
	mux.HandleFunc("GET /v1", v1)
	mux.HandleFunc("GET /v1/{$}", v1)
	return mux
}
