package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows what runs, what is left and the last figure: one rewritten line on a terminal, plain lines elsewhere.
type progress struct {
	out      io.Writer
	terminal bool
	width    int
	total    int
	count    int
	planned  float64 // seconds
	over     float64 // planned seconds of what is over
	began    time.Time
	now      string // what runs
	seconds  float64
	figure   string // the last one
}

func newProgress(f *os.File) *progress {
	p := &progress{out: f, width: 80, began: time.Now()}
	if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
		p.terminal = true
		if ws.Col > 20 {
			p.width = int(ws.Col)
		}
	}
	return p
}

func (p *progress) plan(measurements int, seconds float64) {
	p.total, p.planned, p.began = measurements, seconds, time.Now()
	p.line("%d measurements, about %s", measurements, round(seconds))
}

// line prints something that stays.
func (p *progress) line(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.out, format+"\n", args...)
	p.show()
}

// status says what is going on before the measurements.
func (p *progress) status(format string, args ...any) {
	p.now = fmt.Sprintf(format, args...)
	if p.terminal {
		p.show()
	} else {
		fmt.Fprintln(p.out, p.now)
	}
}

// begin starts something that counts for a number of measurements.
func (p *progress) begin(seconds float64, measurements int, format string, args ...any) {
	p.count += measurements
	p.seconds = seconds
	p.now = fmt.Sprintf("[%d/%d] %s", p.count, p.total, fmt.Sprintf(format, args...))
	p.show()
}

// detail adds a word to what runs, on a terminal.
func (p *progress) detail(format string, args ...any) {
	if !p.terminal {
		return
	}
	was := p.now
	p.now += ", " + fmt.Sprintf(format, args...)
	p.show()
	p.now = was
}

// end records the figure just seen.
func (p *progress) end(figure string) {
	p.over += p.seconds
	p.figure = figure
	if !p.terminal {
		fmt.Fprintf(p.out, "%s: %s (%s left)\n", p.now, figure, p.left())
	} else {
		p.show()
	}
}

// skip passes over a number of measurements, each planned for so many seconds.
func (p *progress) skip(measurements int, seconds float64) {
	p.count += measurements
	p.over += float64(measurements) * seconds
}

// left scales the plan by how it went so far.
func (p *progress) left() string {
	rest := p.planned - p.over
	if p.over > 0 {
		rest *= time.Since(p.began).Seconds() / p.over
	}
	return round(max(rest, 0))
}

func round(seconds float64) string {
	return (time.Duration(seconds) * time.Second).String()
}

func (p *progress) show() {
	if !p.terminal || p.now == "" {
		return
	}
	text := p.now
	if p.total > 0 {
		text += " | " + p.left() + " left"
	}
	if p.figure != "" {
		text += " | last: " + p.figure
	}
	if r := []rune(text); len(r) >= p.width {
		text = string(r[:p.width-2]) + "…"
	}
	p.clear()
	fmt.Fprint(p.out, text)
}

func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width-1)+"\r")
	}
}

func (p *progress) done() {
	p.clear()
	p.now = ""
}
