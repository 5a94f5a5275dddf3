package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"relaygate/bench/load"
	"relaygate/bench/report"
)

// loader is one load process.
type loader struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan load.Reply // closed when the process ends
	errors  lockedBuffer
}

// fleet is the load processes of one measurement.
type fleet struct {
	b       *bench
	loaders []*loader
	relay   string // prefix of relay ids
	conns   int    // connections asked for so far: decides source addresses
	rooms   uint32
}

// lockedBuffer collects what a process writes to its standard error.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newFleet starts n load processes on the load's CPUs.
func (b *bench) newFleet(n int) (*fleet, error) {
	b.fleets++
	f := &fleet{b: b, relay: fmt.Sprintf("bench-%d-%d", os.Getpid(), b.fleets)}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for range n {
		cmd, err := pinnedCommand(b.opt.loadCPUs, self, "-worker")
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		l := &loader{cmd: cmd, replies: make(chan load.Reply, 1)}
		cmd.Stderr = &l.errors
		l.in, err = cmd.StdinPipe()
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		if err := b.spawn.start(cmd); err != nil {
			return nil, errors.Join(fmt.Errorf("start a load process: %w", err), f.close())
		}
		go func() {
			d := json.NewDecoder(out)
			for {
				var r load.Reply
				if d.Decode(&r) != nil {
					close(l.replies)
					return
				}
				l.replies <- r
			}
		}()
		f.loaders = append(f.loaders, l)
	}
	return f, nil
}

// close ends the load processes; their sockets are reset.
func (f *fleet) close() error {
	for _, l := range f.loaders {
		l.in.Close()
	}
	for _, l := range f.loaders {
		done := make(chan struct{})
		go func() {
			for range l.replies {
			}
			l.cmd.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			l.cmd.Process.Kill()
			<-done
		}
	}
	return nil
}

// each sends every load process its command and waits for all answers. A nil command skips that process.
func (f *fleet) each(ctx context.Context, limit time.Duration, command func(i int, l *loader) *load.Command) ([]load.Reply, error) {
	asked := make([]bool, len(f.loaders))
	for i, l := range f.loaders {
		c := command(i, l)
		if c == nil {
			continue
		}
		c.Timeout = int64(limit)
		line, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		if _, err := l.in.Write(append(line, '\n')); err != nil {
			return nil, f.lost(l)
		}
		asked[i] = true
	}
	// The process gives up by itself; the margin is for one that hangs.
	timer := time.NewTimer(limit + 10*time.Second)
	defer timer.Stop()
	replies := make([]load.Reply, 0, len(f.loaders))
	for i, l := range f.loaders {
		if !asked[i] {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return nil, fmt.Errorf("a load process did not answer within %s", limit+10*time.Second)
		case r, ok := <-l.replies:
			if !ok {
				return nil, f.lost(l)
			}
			if r.Error != "" {
				return nil, fmt.Errorf("load process: %s", r.Error)
			}
			replies = append(replies, r)
		}
	}
	return replies, nil
}

func (f *fleet) lost(l *loader) error {
	return fmt.Errorf("a load process ended: %s", l.errors.String())
}

// all sends the same command to every process and sums the answers.
func (f *fleet) all(ctx context.Context, limit time.Duration, c load.Command) (load.Reply, error) {
	replies, err := f.each(ctx, limit, func(int, *loader) *load.Command {
		copied := c
		return &copied
	})
	if err != nil {
		return load.Reply{}, err
	}
	return sum(replies), nil
}

// sum adds counters; CPU and wall time of the first process stand for the moment, the load's own CPU is added up.
func sum(replies []load.Reply) load.Reply {
	var t load.Reply
	for i, r := range replies {
		t.Opened += r.Opened
		t.Failed += r.Failed
		if t.Why == "" {
			t.Why = r.Why
		}
		t.Took = max(t.Took, r.Took)
		t.Violations.Add(r.Violations)
		m := &t.Marks
		if i == 0 {
			m.Wall, m.ServerCPU = r.Marks.Wall, r.Marks.ServerCPU
		}
		m.CPU += r.Marks.CPU
		m.Sent += r.Marks.Sent
		m.Delivered += r.Marks.Delivered
		m.Bytes += r.Marks.Bytes
		m.Reads += r.Marks.Reads
		m.Joins += r.Marks.Joins
		m.Pings += r.Marks.Pings
		m.Dropped += r.Marks.Dropped
		m.Cut += r.Marks.Cut
		m.Open += r.Marks.Open
		m.Latency = report.Merge(m.Latency, r.Marks.Latency)
		m.Lag = report.Merge(m.Lag, r.Marks.Lag)
	}
	return t
}

// connect opens the rooms of a shape, spread over the processes, and fails unless all connections opened.
func (f *fleet) connect(ctx context.Context, u *target, shape load.Shape) (load.Reply, error) {
	n := len(f.loaders)
	replies, err := f.each(ctx, f.b.opt.timeout, func(i int, l *loader) *load.Command {
		part := shape
		part.Rooms = shape.Rooms*(i+1)/n - shape.Rooms*i/n
		if part.Rooms == 0 {
			return nil
		}
		c := &load.Command{
			Do: load.DoConnect, Shape: &part, Host: u.hostHeader, Path: u.path, Query: u.query, Secret: f.b.opt.secret,
			Relay: f.relay, First: f.rooms, Parallel: max(128/n, 1), Routes: u.routes(f.conns, part.Conns()), PID: u.pid,
		}
		f.rooms += uint32(part.Rooms)
		f.conns += part.Conns()
		return c
	})
	if err != nil {
		return load.Reply{}, err
	}
	t := sum(replies)
	if t.Failed > 0 {
		return t, fmt.Errorf("%d of %d connections failed: %s", t.Failed, shape.Conns(), t.Why)
	}
	return t, nil
}

// greet waits until the relay has taken in everyone who is connected.
func (f *fleet) greet(ctx context.Context) error {
	t, err := f.all(ctx, f.b.opt.timeout, load.Command{Do: load.DoGreet})
	if err == nil && t.Failed > 0 {
		err = fmt.Errorf("%d of %d pings were not answered", t.Failed, t.Failed+t.Opened)
	}
	return err
}
