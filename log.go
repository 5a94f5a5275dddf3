package main

import (
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"relaygate/server"
)

// newLog returns a log that writes one line per event to w. The lines of ACCESS_LOG are written by a goroutine
// of their own, since there may be thousands a second, and event loops must not wait for w. flush writes what
// is left of them.
func newLog(cfg server.Config, w io.Writer) (log *zap.Logger, flush func()) {
	ec := zap.NewProductionEncoderConfig()
	ec.TimeKey = "time"
	ec.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(ec)
	if cfg.LogFormat == "console" {
		ec.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(ec)
	}
	out := zapcore.Lock(zapcore.AddSync(w))
	core := zapcore.NewCore(encoder, out, cfg.LogLevel)
	if !cfg.AccessLog {
		return zap.New(core), func() {}
	}
	lines := newLineWriter(out)
	log = zap.New(splitCore{core, zapcore.NewCore(encoder, lines, zapcore.InfoLevel)})
	lines.lost = func(n int) {
		log.Warn("lines of the access log are lost: the log is read too slowly", zap.Int("lines", n))
	}
	return log, lines.close
}

// splitCore sends the lines of one logger to a core of their own.
type splitCore struct {
	zapcore.Core
	access zapcore.Core
}

func (c splitCore) With(fields []zapcore.Field) zapcore.Core {
	return splitCore{c.Core.With(fields), c.access.With(fields)}
}

func (c splitCore) Enabled(level zapcore.Level) bool {
	return c.Core.Enabled(level) || c.access.Enabled(level)
}

func (c splitCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.LoggerName == server.AccessLogger {
		return c.access.Check(e, to)
	}
	return c.Core.Check(e, to)
}

// maxLines is the number of bytes of lines that may wait to be written.
const maxLines = 1 << 20

// lineWriter writes lines from a goroutine. Write never blocks: lines that come when maxLines wait are lost,
// and counted.
type lineWriter struct {
	out  io.Writer
	lost func(n int) // called from the goroutine; static after the first Write
	done chan struct{}

	mu      sync.Mutex // guards what follows
	more    *sync.Cond
	waiting []byte
	missed  int // lines lost since lost was called
	closed  bool
}

func newLineWriter(out io.Writer) *lineWriter {
	w := &lineWriter{out: out, done: make(chan struct{})}
	w.more = sync.NewCond(&w.mu)
	go w.run()
	return w
}

// Write takes one line.
func (w *lineWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting)+len(line) > maxLines || w.closed {
		w.missed++
		return len(line), nil
	}
	w.waiting = append(w.waiting, line...)
	w.more.Signal()
	return len(line), nil
}

// Sync implements zapcore.WriteSyncer.
func (w *lineWriter) Sync() error { return nil }

func (w *lineWriter) run() {
	defer close(w.done)
	var lines []byte
	for {
		w.mu.Lock()
		for len(w.waiting) == 0 && !w.closed {
			w.more.Wait()
		}
		closed := w.closed
		lines, w.waiting = w.waiting, lines[:0]
		missed := w.missed
		w.missed = 0
		w.mu.Unlock()
		if len(lines) > 0 {
			_, _ = w.out.Write(lines) // there is nowhere to report that a log cannot be written
		}
		if missed > 0 {
			w.lost(missed)
		}
		if closed {
			return
		}
	}
}

// close writes what waits, for a second at most.
func (w *lineWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.more.Signal()
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-time.After(time.Second):
	}
}
