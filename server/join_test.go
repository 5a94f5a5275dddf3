package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A peer that has read its 101 is a member: everything that is sent from then on
// reaches it. The defect that these tests are for (a 101 that left before its peer
// was in the room) showed only with two loops, and most often on busy cores.

// joins is the number of newcomers in each test: fewer where one loop does all in order.
func joins() int {
	if raceEnabled || testing.Short() || testLoops == 1 {
		return 2500
	}
	return 25_000
}

// TestOpenMeansSubscribed has newcomers join rooms one after the other, on idle and on busy
// cores. As soon as one has read its 101, a member that was there before sends a message,
// which the newcomer must receive. Every second newcomer sends a message in the same segment as
// its request instead, which the member must receive.
func TestOpenMeansSubscribed(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprintf("busy=%v", busy), func(t *testing.T) {
			s := start(t)
			if busy {
				keepCoresBusy(t)
			}
			const lanes = 8
			var group sync.WaitGroup
			var failed atomic.Bool
			for lane := range lanes {
				group.Go(func() {
					if err := joinOneAfterTheOther(s, fmt.Sprint("lane", lane), joins()/lanes, &failed); err != nil {
						failed.Store(true)
						t.Error(err)
					}
				})
			}
			group.Wait()
		})
	}
}

func joinOneAfterTheOther(s *Server, relay string, n int, failed *atomic.Bool) error {
	member, memberIn, err := quickOpen(s, relay, "member", nil)
	if err != nil {
		return err
	}
	defer member.Close()
	for i := 0; i < n && !failed.Load(); i++ {
		want := fmt.Sprint(i)
		var first []byte
		if i%2 == 1 {
			first = text(want)
		}
		newcomer, newcomerIn, err := quickOpen(s, relay, "newcomer", first)
		if err != nil {
			return err
		}
		receiver := memberIn
		if first == nil {
			receiver = newcomerIn
			if _, err := member.Write(text(want)); err != nil {
				return err
			}
		}
		if got, err := quickRead(receiver); err != nil || got != want {
			return fmt.Errorf("newcomer %d of %s (its own message first: %v): got %q, %v; want %q", i, relay, first != nil, got, err, want)
		}
		_ = newcomer.SetLinger(0) // no TIME_WAIT, or the ports run out
		newcomer.Close()
		_ = member.SetDeadline(time.Now().Add(patience))
	}
	return nil
}

// quickOpen is open for goroutines other than the test's.
func quickOpen(s *Server, relay, peer string, with []byte) (*net.TCPConn, *bufio.Reader, error) {
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(append([]byte(upgradeRequest(relay, peer)), with...)); err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, fmt.Errorf("status %d, want 101", res.StatusCode)
	}
	return c.(*net.TCPConn), in, nil
}

// quickRead reads one short frame.
func quickRead(in *bufio.Reader) (string, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		return "", err
	}
	payload := make([]byte, head[1])
	_, err := io.ReadFull(in, payload)
	return string(payload), err
}

// keepCoresBusy runs two processes for each core that do nothing but compute, until the test
// ends. They are processes, since goroutines would compete inside Go's scheduler as well.
func keepCoresBusy(t *testing.T) {
	t.Helper()
	for range 2 * runtime.NumCPU() {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = busy.Process.Kill()
			_ = busy.Wait()
		})
	}
}
