package main

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

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

// Lines of the access log that cannot be written are lost, but for 1 MiB, and the log says how many.
func TestAccessLogDoesNotBlock(t *testing.T) {
	var g gate
	lost := make(chan int, 100)
	w := newLineWriter(&g)
	w.lost = func(n int) { lost <- n }
	line := append(bytes.Repeat([]byte("x"), 1023), '\n')
	g.mu.Lock() // nothing can be written
	const lines = 4000
	for range lines {
		if n, err := w.Write(line); n != len(line) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	g.mu.Unlock()
	w.close()
	close(lost)
	missed := 0
	for n := range lost {
		missed += n
	}
	written := bytes.Count(g.buf.Bytes(), []byte("\n"))
	if written+missed != lines || written < maxLines/1024 || written > 2*maxLines/1024 {
		t.Errorf("%d lines are written and %d lost of %d; want at least %d written", written, missed, lines, maxLines/1024)
	}
	if g.buf.Len() != written*1024 {
		t.Error("a part of a line is written")
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
		log, flush := newLog(cfg, io.Writer(&out))
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
