package main

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"relaygate/server"
)

// gate is a writer that takes nothing until it is opened.
type gate struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.buf.Write(b)
}

// Lines that cannot be written are lost rather than waited for, those of the access log first, and are counted.
func TestLogDoesNotBlock(t *testing.T) {
	var g gate
	var missed atomic.Int64
	w := newLineWriter(&g)
	w.start(func(n int) { missed.Add(int64(n)) })
	line := append(bytes.Repeat([]byte("x"), 1023), '\n')
	g.mu.Lock() // nothing can be written
	const lines = 4000
	for range lines {
		if n, err := (accessLines{w}).Write(line); n != len(line) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	other := append(bytes.Repeat([]byte("y"), 1023), '\n')
	const others = maxLines/1024 - maxAccessLines/1024
	for range others {
		if _, err := w.Write(other); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	w.close() // it does not wait for ever
	if d := time.Since(began); d > patience/2 {
		t.Errorf("closing took %v", d)
	}
	g.mu.Unlock()
	<-w.done
	written, kept := bytes.Count(g.buf.Bytes(), []byte("x\n")), bytes.Count(g.buf.Bytes(), []byte("y\n"))
	if int64(written)+missed.Load() != lines || written < maxAccessLines/1024 || written > 2*maxAccessLines/1024 {
		t.Errorf("%d lines are written and %d lost of %d; want %d written or somewhat more", written, missed.Load(), lines, maxAccessLines/1024)
	}
	if kept != others || g.buf.Len() != (written+kept)*1024 {
		t.Errorf("%d of %d other lines are written, %d bytes in all", kept, others, g.buf.Len())
	}
}

// Both kinds of lines go to the same place, and no line has another in it.
func TestLogsAreOne(t *testing.T) {
	f := func(wantAccess bool, environ ...string) {
		t.Helper()
		cfg, err := server.ParseConfig(environ)
		if err != nil {
			t.Fatal(err)
		}
		var out gate
		log, flush := newLog(cfg, zap.NewAtomicLevelAt(cfg.LogLevel), io.Writer(&out))
		log.Info("one")
		log.Named(server.AccessLogger).With(zap.Int("n", 5)).Info("connection")
		log.Debug("hidden")
		log.Warn("two")
		flush()
		text := out.buf.String()
		for _, want := range []string{`"msg":"one"`, `"msg":"two"`} {
			if strings.Count(text, want) != 1 {
				t.Errorf("%s is not once in %s", want, text)
			}
		}
		if got := strings.Contains(text, `"logger":"access"`); got != wantAccess || strings.Contains(text, "hidden") {
			t.Errorf("%q: the log is %s", environ, text)
		}
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "}\n") {
				t.Errorf("%q is no line", line)
			}
		}
	}
	f(true, "ACCESS_LOG=true")
	f(true, "ACCESS_LOG=true", "LOG_LEVEL=info")
	f(true)
}
