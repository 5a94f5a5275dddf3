package server

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"relaygate/server/page"
	"relaygate/server/upgrade"
)

// Settings that change while the relay runs. A Config in use is never written to. A reload makes another one,
// which the loops get by a task: between two tasks nothing changes for them, and reading a setting costs them
// no more than reading a field. Whoever is connected stays; a limit holds for what comes next.

// config returns the settings that hold now. Loops have their own, for what they need with every frame.
func (s *Server) config() *Config { return s.current.Load() }

// Config returns the settings that hold now.
func (s *Server) Config() Config { return *s.config() }

// Change is a setting that another value was given.
type Change struct {
	Variable string
	Old, New string // secrets are hidden
}

// Reload makes those settings of next hold that can be changed now. It returns which of them differ from before,
// and which others do: those need a restart. It waits until every loop has the settings, or ctx ends;
// MEMORY_BUDGET holds from the next budgetTick on. next must come from ParseConfig and ResolveBudget. Drain must
// not have been called.
func (s *Server) Reload(ctx context.Context, next Config) (changed, pending []Change) {
	before := s.Config()
	now := before
	from, to := reflect.ValueOf(next), reflect.ValueOf(&now).Elem()
	for f := range fields() {
		value, kept := from.FieldByIndex(f.Index), to.FieldByIndex(f.Index)
		if reflect.DeepEqual(value.Interface(), kept.Interface()) {
			continue
		}
		c := Change{f.Tag.Get("env"), fmt.Sprint(kept.Interface()), fmt.Sprint(value.Interface())}
		if f.Tag.Get("reload") == "" || s.needsRestart(c.Variable, &next) {
			pending = append(pending, c)
			continue
		}
		kept.Set(value)
		changed = append(changed, c)
	}
	if len(changed) > 0 {
		s.apply(ctx, &before, &now)
	}
	return changed, pending
}

// needsRestart reports whether a setting that can be changed in general cannot be now.
func (s *Server) needsRestart(variable string, next *Config) bool {
	switch variable {
	case "MAX_CONNECTIONS_PER_IP": // what is open was not counted
		return !s.countsIPs
	case "MAX_ROOMS_PER_IP":
		return !s.countsIPRooms
	case "TRUSTED_PROXIES": // the list is for another mode
		return next.ProxyProtocol != s.config().ProxyProtocol
	}
	return false
}

// apply makes the settings now hold instead of before.
func (s *Server) apply(ctx context.Context, before, now *Config) {
	s.current.Store(now)
	s.table.LimitRooms(now.MaxRoomPeers)
	was, is := newRates(before), newRates(now)
	if was.roomBytes != is.roomBytes || was.roomBurst != is.roomBurst {
		at := time.Since(s.began)
		for _, r := range s.table.All() {
			r.SetOff(at)
		}
	}
	gate := s.newGate()
	done := make(chan struct{}, len(s.loops))
	for i, l := range s.loops {
		l.post(task{do: func(l *loop, _ *peer) {
			defer func() { done <- struct{}{} }()
			l.cfg = now
			l.handshaker.SetGate(gate)
			if is != was {
				l.changeRates()
			}
			if i == 0 && (now.ConnectRate != before.ConnectRate || now.ConnectBurst != before.ConnectBurst) {
				s.waiting.limit(now.ConnectRate, now.ConnectBurst)
			}
		}})
	}
	s.resumeAccepting()
	for range s.loops {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// changeRates applies l.cfg's rates. Each peer may send a whole burst then: what it has sent before is forgotten.
func (l *loop) changeRates() {
	if l.pacer != nil {
		l.pacer.end()
	}
	l.pacer = newPacer(l)
}

// newGate returns what decides upgrades by the settings that hold now.
func (s *Server) newGate() *upgrade.Gate {
	cfg := s.config()
	gate := upgrade.NewGate(cfg.AdminSecrets, cfg.AllowedOrigins)
	gate.Unready = s.Unready
	if cfg.TryPage {
		gate.Page = page.Try()
	}
	return gate
}
