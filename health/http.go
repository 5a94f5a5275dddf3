package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// Relay is what an operator asks about.
type Relay interface {
	// Unready returns the reasons why no connections should be sent here, none if it is ready.
	Unready() []string

	// Alive reports whether every event loop does a task within the given time.
	Alive(within time.Duration) bool

	// Rooms returns the largest rooms and the peers that hold most memory, at most most of each, as a value to
	// be written as JSON. showIDs says whether ids appear as they are.
	Rooms(most int, showIDs bool) any

	// Read returns what the relay has and has counted.
	Read() Reading

	prometheus.Collector
}

// HTTPOptions are the settings of an HTTP server for operators.
type HTTPOptions struct {
	Address   string // host:port
	ReusePort bool   // another process may listen on the same port
	Version   string // of relaygate
	Commit    string // that it was built from, empty if unknown
	Debug     bool   // serve /debug/pprof
	DebugIDs  bool   // show ids as they are in /debug/rooms

	Page http.Handler // answers GET / with a page that shows /history.json; nil for none
}

// aliveWithin is how long a loop may take to do a task before the process counts as not alive.
const aliveWithin = time.Second

// maxOperators is the number of connections at once. More wait, so that they cannot take the relay's descriptors.
const maxOperators = 64

// headerTimeout is the time for the header of a request. Only tests change it.
var headerTimeout = 5 * time.Second

// HTTP serves an operator's requests. A nil one serves none.
type HTTP struct {
	options  HTTPOptions
	relay    atomic.Pointer[Relay] // nil until the relay has started
	registry *prometheus.Registry
	server   *http.Server
	listener net.Listener
	history  *history
	stop     chan struct{} // closed by Close
	stopping sync.Once
	listing  sync.Mutex // held by the one request for /debug/rooms that is served
}

// ListenHTTP starts to serve. Until Started is called, the process is alive but not ready.
func ListenHTTP(o HTTPOptions, log *zap.Logger) (*HTTP, error) {
	lc := net.ListenConfig{}
	if o.ReusePort {
		lc.Control = func(_, _ string, c syscall.RawConn) (err error) {
			if failed := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}); failed != nil {
				return failed
			}
			return err
		}
	}
	listener, err := lc.Listen(context.Background(), "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for operators: %w", err)
	}
	h := &HTTP{options: o, registry: prometheus.NewRegistry(), listener: listener, history: newHistory(), stop: make(chan struct{})}
	h.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(o))
	h.server = &http.Server{
		Handler:           h.routes(log),
		ErrorLog:          zap.NewStdLog(log.Named("health")),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       2 * headerTimeout,
		WriteTimeout:      2 * time.Minute, // a CPU profile takes 30 seconds
		IdleTimeout:       2 * headerTimeout,
		MaxHeaderBytes:    16 << 10,
	}
	go func() {
		if err := h.server.Serve(netutil.LimitListener(listener, maxOperators)); !errors.Is(err, http.ErrServerClosed) {
			log.Error("operators are not served any more", zap.Error(err))
		}
	}()
	return h, nil
}

// buildInfo is a metric whose labels name the build.
func buildInfo(o HTTPOptions) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "relaygate_build_info", Help: "Always 1: the labels name the build.",
		ConstLabels: prometheus.Labels{"version": o.Version, "commit": o.Commit, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}

// String returns the address that it listens on, or "off" if h is nil.
func (h *HTTP) String() string {
	if h == nil {
		return "off"
	}
	return h.listener.Addr().String()
}

// Started tells that the relay serves. It is called once. If h is nil it does nothing.
func (h *HTTP) Started(r Relay) {
	if h == nil {
		return
	}
	h.registry.MustRegister(r)
	h.relay.Store(&r)
	if h.options.Page != nil {
		go h.record(r, h.stop)
	}
}

// Close ends serving. Requests under way are cut off. It may be called again. If h is nil it does nothing.
func (h *HTTP) Close() {
	if h != nil {
		h.stopping.Do(func() { close(h.stop) })
		_ = h.server.Close()
		_ = h.listener.Close() // server does not know it yet if Serve has not been called
	}
}

func (h *HTTP) routes(log *zap.Logger) http.Handler {
	mux := http.NewServeMux()
	if h.options.Page != nil {
		mux.Handle("GET /{$}", h.options.Page)
		mux.HandleFunc("GET /history.json", h.serveHistory)
	}
	mux.HandleFunc("GET /livez", h.livez)
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.HandleFunc("GET /debug/rooms", h.rooms)
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: 4, ErrorLog: zap.NewStdLog(log.Named("health")), ErrorHandling: promhttp.ContinueOnError,
	}))
	if h.options.Debug {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// text answers one line per reason.
func text(w http.ResponseWriter, status int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

func (h *HTTP) livez(w http.ResponseWriter, _ *http.Request) {
	if r := h.relay.Load(); r != nil && !(*r).Alive(aliveWithin) {
		text(w, http.StatusServiceUnavailable, "an event loop does not answer")
		return
	}
	text(w, http.StatusOK, "alive")
}

func (h *HTTP) readyz(w http.ResponseWriter, _ *http.Request) {
	if reasons := h.unready(); len(reasons) > 0 {
		text(w, http.StatusServiceUnavailable, reasons...)
		return
	}
	text(w, http.StatusOK, "ready")
}

// unready returns the reasons why no connections should be sent here.
func (h *HTTP) unready() []string {
	r := h.relay.Load()
	if r == nil {
		return []string{"starting"}
	}
	return (*r).Unready()
}

// maxListed is how many rooms and peers /debug/rooms lists of each kind.
const maxListed = 50

func (h *HTTP) rooms(w http.ResponseWriter, _ *http.Request) {
	r := h.relay.Load()
	if r == nil {
		text(w, http.StatusServiceUnavailable, "starting")
		return
	}
	if !h.listing.TryLock() { // it takes the event loops' time
		text(w, http.StatusServiceUnavailable, "another request for it is served")
		return
	}
	defer h.listing.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode((*r).Rooms(maxListed, h.options.DebugIDs))
}
