package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A trouble has a line when it begins, one a minute, and one when it has been over for a while.
func TestTroubleIsLoggedSeldom(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	log := zap.New(core)
	var count int64
	tr := &trouble{what: "it burns", count: func() int64 { return count }, err: func() error { return errors.New("fire") }, over: troubleOver}
	now := time.Unix(1000, 0)
	pass := func(seconds int, each int64) {
		for range seconds {
			now = now.Add(time.Second)
			count += each
			tr.look(now, log)
		}
	}
	var lines []string
	wants := func(more ...string) {
		t.Helper()
		lines = append(lines, more...)
		var got []string
		for _, e := range logged.All() {
			got = append(got, fmt.Sprint(e.Level, " ", e.Message, " ", e.ContextMap()))
		}
		if strings.Join(got, "\n") != strings.Join(lines, "\n") {
			t.Fatalf("after %v:\n%s\nwant:\n%s", now.Sub(time.Unix(1000, 0)), strings.Join(got, "\n"), strings.Join(lines, "\n"))
		}
	}
	pass(100, 0)
	wants()
	pass(1, 5)
	wants("warn it burns map[error:fire times:5]")
	pass(59, 2)
	wants()
	pass(1, 2)
	wants("warn it burns map[error:fire times:120]")
	pass(9, 0)
	wants()
	pass(1, 3) // it was not over
	pass(9, 0)
	wants()
	pass(1, 0)
	wants("info over: it burns map[lasted:1m10s times:128]")
	pass(100, 0)
	wants()
	pass(1, 1) // and again
	wants("warn it burns map[error:fire times:1]")
	pass(10, 0)
	wants("info over: it burns map[lasted:0s times:1]")
}

func TestRefusalsAreLogged(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	s := startWith(t, zap.New(core), "MAX_ROOM_PEERS=1")
	join(t, s, "r", "a")
	c := dial(t, s)
	c.send([]byte(upgradeRequest("r", "b")))
	if r, _ := c.response(); r.StatusCode != 503 {
		t.Fatalf("status %d, want 503", r.StatusCode)
	}
	_ = c.Close()
	eventually(t, "it is logged", func() bool {
		all := logged.FilterMessage("upgrades are refused: MAX_ROOM_PEERS").All()
		return len(all) == 1 && all[0].ContextMap()["times"] == int64(1)
	})
}
