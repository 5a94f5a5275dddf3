// Command relaygate is a WebSocket relay: a peer's message reaches all others in its relay, or the one peer
// that it names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"go.uber.org/zap"

	"relaygate/health"
	"relaygate/server"
	"relaygate/server/page"
)

// version is defined only here, since not every copy of the source has the git tags. CHANGELOG.md lists the
// changes of each version.
const version = "0.1.0"

// commit is the commit that make build was run on. The linker sets it.
var commit string

// enoughFiles is the open-file limit below which a warning is logged.
const enoughFiles = 100_000

func main() {
	os.Exit(run(signalled(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// signalled returns a context that ends at the first SIGTERM or SIGINT. The second ends the process, as if it
// were not caught.
func signalled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cancel()
		second := <-signals
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), second.(syscall.Signal))
	}()
	return ctx
}

// options is the command line.
type options struct {
	version, check, probe, doctor bool

	connections int64  // for doctor: the number that is wanted
	root        string // for doctor: the host's root directory
}

// parseOptions reads the command line.
func parseOptions(args []string) (o options, err error) {
	flags := flag.NewFlagSet("relaygate", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.version, "version", false, "")
	flags.BoolVar(&o.check, "check", false, "")
	flags.BoolVar(&o.probe, "probe", false, "")
	flags.BoolVar(&o.doctor, "doctor", false, "")
	flags.Int64Var(&o.connections, "connections", 100_000, "")
	flags.StringVar(&o.root, "root", "/", "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	flags.Visit(func(f *flag.Flag) {
		if !o.doctor && (f.Name == "connections" || f.Name == "root") {
			err = fmt.Errorf("-%s belongs to -doctor", f.Name)
		}
	})
	if flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, err
}

// run is the whole program. It returns the exit status: 0, or 1 if serving failed or the answer to a question is
// no, or 2 if the command line or the configuration is wrong.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "relaygate: %v; -help lists what there is\n", err)
		return 2
	case o.version:
		fmt.Fprintf(stdout, "relaygate %s (%s)\n", version, strings.Join(builtFrom(), ", "))
		return 0
	case o.probe:
		return probe(ctx, environ, stdout, stderr)
	}
	cfg, err := server.ParseConfig(environ)
	if err != nil {
		fmt.Fprintf(stderr, "relaygate: invalid configuration\n%v\n", err)
		return 2
	}
	switch {
	case o.doctor:
		return diagnose(&cfg, os.DirFS(o.root), o.connections, stdout, stderr)
	case o.check:
		for _, w := range cfg.Warnings() {
			fmt.Fprintf(stderr, "relaygate: warning: %s\n", w)
		}
		fmt.Fprintln(stdout, "relaygate: the configuration is valid")
		return 0
	}
	level := zap.NewAtomicLevelAt(cfg.LogLevel)
	log, flush := newLog(cfg, level, stderr)
	defer flush()
	return serve(ctx, cfg, &reloader{environ: environ, level: level, log: log})
}

// builtFrom names the commit, if it is known, and Go's version.
func builtFrom() (parts []string) {
	if c := revision(); c != "" {
		parts = append(parts, "commit "+c)
	}
	return append(parts, runtime.Version())
}

// revision returns the commit that this was built from, with "-dirty" appended if files were changed since.
// Without make build it is the commit that go build recorded, which it does only in a plain clone. It is
// empty if there was no git.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if commit != "" || !ok {
		return commit
	}
	return noted(info.Settings)
}

// noted returns the commit that go build recorded.
func noted(settings []debug.BuildSetting) (revision string) {
	dirty := ""
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(8, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + dirty
}

func usage(w io.Writer) {
	fmt.Fprintf(w, `relaygate is a WebSocket relay: what a peer sends reaches everyone else in its
relay, or the one peer it names.

usage: relaygate [-help | -version | -check | -probe]
       relaygate -doctor [-connections N] [-root DIR]

  -help     print this and exit
  -version  print the version and exit
  -check    validate the configuration and exit: status 0, or 2 with all faults
  -probe    ask the relay that runs with this configuration whether it is ready,
            and exit: status 0, or 1 with the reasons
  -doctor   say which limits of this host stand in the way of how many
            connections, and what raises them: status 0 if N fit (100000), or 1;
            proc and sys are read in DIR (/)

It is configured by environment variables, and by the file that CONFIG_FILE
names. At SIGHUP the files are read again; those marked * change then without
a restart.

%s`, server.Usage())
}

// spareProcessor lets Go run one goroutine more than there are loops. A loop that waits for events holds a
// processor, as Go counts them. If no other is idle, Go's monitor thread takes it away every 20 µs. That cost
// a seventh to a quarter of all CPU time per delivery on one core (bench, pair and fanout-10). GOMAXPROCS in
// the environment has precedence. Then EVENT_LOOPS should be one less; its default is the same number.
func spareProcessor(loops int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(loops + 1)
	}
}

// limitConnections sets MAX_CONNECTIONS, if it is not set, to what the open-file limit allows, and warns if it
// is set to more.
func limitConnections(cfg *server.Config, files uint64, log *zap.Logger) {
	most := server.ConnectionLimit(files, cfg.EventLoops)
	switch {
	case cfg.MaxConnections == server.UnsetConnections:
		cfg.MaxConnections = most
	case cfg.MaxConnections > most:
		log.Warn("MAX_CONNECTIONS is more than the open-file limit allows",
			zap.Int("max_connections", cfg.MaxConnections), zap.Uint64("open_files", files), zap.Int("allowed", most))
	}
}

// serve runs the relay until ctx ends, then drains it. At SIGHUP r reads the settings again.
func serve(ctx context.Context, cfg server.Config, r *reloader) int {
	log := r.log
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for _, w := range cfg.Warnings() {
		log.Warn(w)
	}
	files, err := server.RaiseFileLimit()
	if err != nil {
		log.Warn("cannot raise the open-file limit", zap.Error(err))
	}
	if files < enoughFiles {
		log.Warn("the open-file limit is low: each connection takes one descriptor",
			zap.Uint64("open_files", files), zap.Int("wanted", enoughFiles))
	}
	if err := server.ResolveBudget(&cfg); err != nil {
		log.Warn("there is no memory budget", zap.Error(err))
	}
	r.files, r.cores = files, runtime.GOMAXPROCS(0)
	r.resolve(&cfg)
	server.LimitMemory(cfg.MemoryBudget)
	spareProcessor(cfg.EventLoops)
	operators, err := listenForOperators(cfg, log)
	if err != nil {
		log.Error("cannot start", zap.Error(err))
		return 1
	}
	defer operators.Close()
	s, err := listen(cfg, log)
	if err != nil {
		log.Error("cannot start", zap.Error(err))
		return 1
	}
	operators.Started(s)
	systemd := health.NewSystemd(log)
	systemd.FeedWatchdog(s.Alive)
	systemd.Ready()
	log.Info("started", zap.String("version", version), zap.String("commit", revision()), zap.Stringer("address", s.Addr()),
		zap.Stringer("health_address", operators), zap.Int("loops", s.Loops()), zap.Uint64("open_files", files), zap.Object("settings", cfg))
	r.untilDone(ctx, hangup, s, systemd)

	cfg = s.Config()
	systemd.Stopping(cfg.DrainTime())
	if cfg.ReusePort {
		operators.Close() // the next process has this port as well
	}
	st := s.Stats()
	begin := time.Now()
	deadline, cancel := context.WithTimeout(context.Background(), cfg.DrainTime())
	defer cancel()
	if err := s.Drain(deadline); err != nil {
		log.Warn("not all peers took leave", zap.Error(err))
	}
	systemd.Close()
	log.Info("stopped", zap.String("version", version), zap.Stringer("address", s.Addr()),
		zap.Int("peers_at_signal", st.Peers), zap.Duration("drained_in", time.Since(begin)), zap.Int64("left", s.Stats().Left),
		zap.Object("counters", s.Stats()), zap.Object("settings", cfg))
	return 0
}

// listenForOperators serves HEALTH_ADDR. If that is off it returns nil, which does nothing. If another process
// listens on the default address, the relay starts without: two on one host should not need settings.
func listenForOperators(cfg server.Config, log *zap.Logger) (*health.HTTP, error) {
	if cfg.HealthAddress == "" {
		return nil, nil
	}
	h, err := health.ListenHTTP(health.HTTPOptions{
		Address: string(cfg.HealthAddress), ReusePort: cfg.ReusePort, Version: version, Commit: revision(), Debug: cfg.Debug, DebugIDs: cfg.DebugIDs,
		Page: page.Dashboard(),
	}, log)
	if errors.Is(err, syscall.EADDRINUSE) && !cfg.HealthAddressChosen() {
		log.Warn("nothing is served for operators: set HEALTH_ADDR to a free address", zap.Error(err))
		return nil, nil
	}
	return h, err
}

// listen starts the relay on the socket that systemd has passed or, if there is none, on the address of cfg.
func listen(cfg server.Config, log *zap.Logger) (*server.Server, error) {
	passed := activation.Files(true)
	if passed == nil {
		return server.Listen(cfg, log)
	}
	log.Info("listening on the socket that systemd passed: HOST, PORT and REUSE_PORT have no effect")
	return server.ListenOn(passed, cfg, log)
}
