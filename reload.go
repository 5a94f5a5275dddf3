package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"relaygate/health"
	"relaygate/server"
)

// reloader reads the settings again at SIGHUP. The environment of a process does not change, so what can be new
// are the files that it names.
type reloader struct {
	environ []string
	level   zap.AtomicLevel // of log
	log     *zap.Logger

	// Found out at the start.
	files uint64 // open-file limit
	cores int    // event loops if EVENT_LOOPS is 0
}

// untilDone reloads s at each hangup, until ctx ends.
func (r *reloader) untilDone(ctx context.Context, hangup <-chan os.Signal, s *server.Server, systemd *health.Systemd) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			systemd.Reloading()
			r.reload(ctx, s)
			systemd.Ready()
		}
	}
}

// reload makes the settings hold that can be changed now. If any setting is wrong, all stay as they are.
func (r *reloader) reload(ctx context.Context, s *server.Server) {
	cfg, err := server.ParseConfig(r.environ)
	if err == nil && len(cfg.AdminSecrets) == 0 && len(s.Config().AdminSecrets) > 0 {
		err = errors.New("ADMIN_SECRET: none is set any more; to let everybody in takes a restart")
	}
	if err == nil {
		err = server.ResolveBudget(&cfg)
	}
	if err != nil {
		r.log.Error("not reloaded: every setting stays as it is", zap.Strings("faults", strings.Split(err.Error(), "\n")))
		return
	}
	for _, w := range cfg.Warnings() {
		r.log.Warn(w)
	}
	r.resolve(&cfg)
	changed, pending := s.Reload(ctx, cfg)
	server.LimitMemory(s.Config().MemoryBudget)
	r.level.SetLevel(cfg.LogLevel)
	// Written to the core, the line is there at any level, and only when everything holds.
	_ = r.log.Core().Write(zapcore.Entry{Level: zapcore.InfoLevel, Time: time.Now(), Message: "reloaded"}, []zap.Field{
		zap.Object("changed", changes(changed)), zap.Object("needs_restart", changes(pending)),
	})
}

// resolve fills in the defaults that depend on the host.
func (r *reloader) resolve(cfg *server.Config) {
	cfg.EventLoops = cmp.Or(cfg.EventLoops, r.cores)
	limitConnections(cfg, r.files, r.log)
}

// changes are logged as "old -> new" under their variables' names.
type changes []server.Change

func (c changes) MarshalLogObject(o zapcore.ObjectEncoder) error {
	for _, x := range c {
		o.AddString(x.Variable, x.Old+" -> "+x.New)
	}
	return nil
}
