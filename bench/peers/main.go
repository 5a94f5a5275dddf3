// Command peers is a v1 relay as it would be written with one of several WebSocket libraries: what relaygate is compared
// with. Its first argument names the library.
//
// The room table (room.go), the request and the environment are shared, so that what a measurement tells apart is the
// library and the style it asks for: a handler and a goroutine per connection (gws.go), two goroutines and a channel
// between them (gorilla.go), an event loop (nbhttp.go). None of them negotiates compression.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// maxMessageBytes is the largest message a relay accepts.
const maxMessageBytes = 1 << 20

// upgrade takes over a connection that asks for WebSocket.
type upgrade func(w http.ResponseWriter, r *http.Request, relayID, peerID string)

// Environment variables are named as relaygate's own.
func main() {
	interval := 30 * time.Second
	if ms, err := strconv.Atoi(os.Getenv("CONNECTION_CHECK_INTERVAL")); err == nil && ms > 0 {
		interval = time.Duration(ms) * time.Millisecond
	}
	r := &relay{addr: net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")), interval: interval, rooms: map[string]*room{}}
	libraries := map[string]func(*relay) error{
		"gws": serveGWS, "gorilla": serveGorilla, "nbhttp": serveNBHTTP,
	}
	if len(os.Args) != 2 || libraries[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peers gws|gorilla|nbhttp")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, libraries[os.Args[1]](r)) // until a signal ends the process
	os.Exit(1)
}

// listen is net.Listen without TCP keep-alive: Go's default of 15 s would be the main traffic of 100,000 silent sockets,
// and the heartbeat does the same work. It hands out bare *net.TCPConn.
func listen(network, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1}
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), network, addr)
}

// serve runs net/http.
func serve(addr string, u upgrade) error {
	l, err := listen("tcp", addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler(u), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	return srv.Serve(l)
}

// handler hands upgrades on.
func handler(u upgrade) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		relayID, peerID := q.Get("relayId"), q.Get("peerId")
		if relayID == "" || peerID == "" {
			http.Error(w, "relayId and peerId are required", http.StatusBadRequest)
			return
		}
		u(w, r, strings.Clone(relayID), strings.Clone(peerID)) // copies of their own, free of the request
	})
	return mux
}
