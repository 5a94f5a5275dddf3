package main

import (
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"relaygate/server"
)

// newLog returns a log that writes one line per event to w. A goroutine of its own writes them, so that nothing
// waits for whoever reads the log; flush writes what is left. Lines of the access log do not depend on level.
func newLog(cfg server.Config, level zap.AtomicLevel, w io.Writer) (log *zap.Logger, flush func()) {
	ec := zap.NewProductionEncoderConfig()
	ec.TimeKey = "time"
	ec.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	encoder := zapcore.NewJSONEncoder(ec)
	if cfg.LogFormat == "console" {
		ec.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(ec)
	}
	lines := newLineWriter(w)
	core := zapcore.NewCore(encoder, zapcore.AddSync(lines), level)
	log = zap.New(splitCore{core, zapcore.NewCore(encoder, zapcore.AddSync(accessLines{lines}), zapcore.InfoLevel)})
	lines.start(func(n int) { log.Warn("lines of the log are lost: it is read too slowly", zap.Int("lines", n)) })
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

const (
	// maxAccessLines and maxLines are how many bytes of lines may wait to be written: an access line is lost when
	// the first are waiting, any other when the second are. So access lines leave room for the others.
	maxAccessLines = 1 << 20
	maxLines       = 2 << 20

	lostPause    = 10 * time.Second // between two lines that tell of lost ones
	flushTimeout = time.Second
)

// lineWriter writes lines from a goroutine. Write never blocks: lines that come when too many wait are lost, and
// counted.
type lineWriter struct {
	out  io.Writer
	lost func(n int) // called from the goroutine; static after start
	done chan struct{}

	mu      sync.Mutex // guards what follows
	more    *sync.Cond
	waiting []byte
	missed  int // lines lost since lost was called
	told    time.Time
	closed  bool
}

func newLineWriter(out io.Writer) *lineWriter {
	w := &lineWriter{out: out, done: make(chan struct{})}
	w.more = sync.NewCond(&w.mu)
	return w
}

func (w *lineWriter) start(lost func(n int)) {
	w.lost = lost
	go w.run()
}

// Write takes one line.
func (w *lineWriter) Write(line []byte) (int, error) { return w.take(line, maxLines) }

// accessLines takes lines of the access log.
type accessLines struct{ *lineWriter }

func (w accessLines) Write(line []byte) (int, error) { return w.take(line, maxAccessLines) }

func (w *lineWriter) take(line []byte, most int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting)+len(line) > most || w.closed {
		w.missed++
		return len(line), nil
	}
	w.waiting = append(w.waiting, line...)
	w.more.Signal()
	return len(line), nil
}

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
		missed, now := 0, time.Now()
		if w.missed > 0 && now.Sub(w.told) >= lostPause {
			missed, w.missed, w.told = w.missed, 0, now
		}
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

// close tells of lost lines and writes what waits, for flushTimeout at most.
func (w *lineWriter) close() {
	w.mu.Lock()
	missed := w.missed
	w.missed = 0
	w.mu.Unlock()
	if missed > 0 {
		w.lost(missed)
	}
	w.mu.Lock()
	w.closed = true
	w.more.Signal()
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-time.After(flushTimeout):
	}
}
