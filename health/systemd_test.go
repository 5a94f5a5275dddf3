package health

import (
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
)

// TestWatchdogIsNotFed while the process is not alive.
func TestWatchdogIsNotFed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	var asked, fed atomic.Int64
	s := NewSystemd(zap.NewNop())
	s.FeedWatchdog(func(within time.Duration) bool {
		if within != 10*time.Millisecond {
			t.Errorf("half of the interval is %v, want 10ms", within)
		}
		n := asked.Add(1)
		if n%3 == 0 {
			fed.Add(1)
		}
		return n%3 == 0
	})
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 64)
	for told := range int64(5) {
		n, err := c.Read(b)
		if err != nil || string(b[:n]) != "WATCHDOG=1" {
			t.Fatalf("told %q, %v; want WATCHDOG=1", b[:n], err)
		}
		if told+1 > fed.Load() {
			t.Errorf("fed %d times, alive %d times", told+1, fed.Load())
		}
	}
	s.Close()
	if n := asked.Load(); n < 15 {
		t.Errorf("asked %d times for 5 times alive, want 15", n)
	}
}

// Without systemd nothing is asked or told.
func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	s := NewSystemd(zap.NewNop())
	s.FeedWatchdog(func(time.Duration) bool {
		t.Error("asked whether it is alive")
		return true
	})
	s.Ready()
	s.Stopping(time.Second)
	s.Close()
}
