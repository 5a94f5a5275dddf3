package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var stormPeers = flag.Int("storm", 0, "peers of a large TestStorm, whose times are checked, too")

// stormVariable is set in the environment of the process that is the storm, to a stormOrder in JSON.
const stormVariable = "RELAYGATE_STORM"

// stormOrder is what the process that is the storm is told.
type stormOrder struct {
	Addr      string
	Peers     int
	Handshake time.Duration // HANDSHAKE_TIMEOUT
	Second    time.Duration // how long a second of Retry-After is taken to be
	Nice      bool          // let others go first, as clients do that have machines of their own
}

// stormResult is what the process that is the storm has seen of its return.
type stormResult struct {
	Refused [3]int // peers that were refused never, once, more often
	Tenths  []int  // peers let in, by tenth of HANDSHAKE_TIMEOUT
	Failed  string
}

// TestStorm cuts off many peers at once, and all return at once, from a process of their own. They come back at
// CONNECT_RATE: at the higher rate all wait for their turn, at the lower one some are refused, but none twice. A
// pair that stayed loses nothing.
//
// With -storm N it is as in operation, and takes a minute or two. By default times are shorter, so that all of this
// holds however busy the machine is. At 1,100/s 1,100 can wait at once. So at most 400 are neither waiting nor let
// in, and by the time that one comes back, 0.4 s later at the soonest, 440 have left the queue: it has room for all.
//
//	go test -run TestStorm -v . -storm 15000
func TestStorm(t *testing.T) {
	t.Parallel()
	order := stormOrder{Peers: 1500, Handshake: time.Second, Second: time.Second / 5}
	rates, burst := []int{2000, 1100}, 100
	if n := *stormPeers; n > 0 {
		order = stormOrder{Peers: n, Handshake: 10 * time.Second, Second: time.Second, Nice: true}
		rates, burst = []int{n / 7, n / 25}, n/25
	}
	for _, rate := range rates {
		t.Run(fmt.Sprint("rate=", rate), func(t *testing.T) {
			r := startRelay(t, fmt.Sprint("CONNECT_RATE=", rate), fmt.Sprint("CONNECT_BURST=", burst), fmt.Sprint("HANDSHAKE_TIMEOUT=", order.Handshake))
			order.Addr = r.addr
			storm := startStorm(t, order)
			pair := newPair(t, r.addr)
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				pair.talk(stop)
			}()
			res := storm.comeBack(t)
			close(stop)
			<-stopped
			_, p99 := pair.times(t)
			t.Logf("%d peers at %d/s: %d let in at once or in turn, %d refused once, %d more often; let in by tenth of HANDSHAKE_TIMEOUT: %v",
				order.Peers, rate, res.Refused[0], res.Refused[1], res.Refused[2], res.Tenths)
			if *stormPeers > 0 && p99 > 50*time.Millisecond {
				t.Errorf("99%% of the pair's round trips took up to %v, want at most 50ms", p99)
			}
			if res.Refused[2] > 0 {
				t.Errorf("%d peers were refused twice, want none", res.Refused[2])
			}
			perTenth := float64(rate) * order.Handshake.Seconds() / 10
			if 10*perTenth >= float64(order.Peers) && res.Refused[1] > 0 {
				t.Errorf("%d peers were refused though all can have their turn in time", res.Refused[1])
			}
			sum := 0
			for i, n := range res.Tenths {
				most := burst + int(perTenth*(float64(i)+1.1))
				if sum += n; sum > most {
					t.Errorf("%d were let in within %d tenths of HANDSHAKE_TIMEOUT, want at most %d", sum, i+1, most)
				}
			}
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it drains", func() bool { return strings.Contains(r.logs.text(), `"draining"`) })
			if n := r.logLine(t, "draining")["peers"]; n != float64(order.Peers+2) || sum != order.Peers {
				t.Errorf("%d of %d peers have come back, and with the pair %v are there", sum, order.Peers, n)
			}
		})
	}
}

// stormProcess is the process that is the storm, as its parent has it.
type stormProcess struct {
	in  io.Writer
	out *json.Decoder
}

// startStorm starts it until the test ends, and waits until its peers have connected.
func startStorm(t *testing.T, order stormOrder) *stormProcess {
	t.Helper()
	told, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), stormVariable+"="+string(told))
	c.Stderr = os.Stderr
	in, _ := c.StdinPipe()
	out, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	p := &stormProcess{in, json.NewDecoder(out)}
	p.next(t)
	return p
}

// comeBack has all be cut off and come back, and waits for that.
func (p *stormProcess) comeBack(t *testing.T) stormResult {
	t.Helper()
	fmt.Fprintln(p.in, "go")
	return p.next(t)
}

func (p *stormProcess) next(t *testing.T) (res stormResult) {
	t.Helper()
	if err := p.out.Decode(&res); err != nil || res.Failed != "" {
		t.Fatalf("the storm: %v %s", err, res.Failed)
	}
	return res
}

// beStorm is the process that is the storm. It connects its peers and says so, cuts all off and comes back when it
// is told to, says how that went, and stays until its parent ends it.
func beStorm(told string) (status int) {
	s := new(storm)
	if err := json.Unmarshal([]byte(told), &s.stormOrder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if s.Nice {
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10)
	}
	s.peers = make([]net.Conn, s.Peers)
	s.dialing = make(chan struct{}, s.Peers/30)
	say := json.NewEncoder(os.Stdout)
	in := bufio.NewReader(os.Stdin)
	s.all(100, func(i int) error {
		_, err := s.connect(i)
		return err
	})
	_ = say.Encode(s.res)
	_, _ = in.ReadString('\n')
	for _, c := range s.peers {
		if c != nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
	s.began = time.Now()
	s.all(s.Peers, s.comeBack)
	_ = say.Encode(s.res)
	_, _ = io.Copy(io.Discard, in)
	runtime.KeepAlive(s.peers) // or the collector closes them
	return 0
}

// storm is the state of the process that is the storm.
type storm struct {
	stormOrder
	peers []net.Conn
	// Not all dial at the same moment, so that each sends its request right after: it must come within
	// HANDSHAKE_TIMEOUT, however busy the machine is.
	dialing chan struct{} // holds one for each that dials
	began   time.Time     // of the return

	mu  sync.Mutex // guards res
	res stormResult
}

// all calls f for every peer, atOnce at a time.
func (s *storm) all(atOnce int, f func(i int) error) {
	var group sync.WaitGroup
	next := make(chan int, s.Peers)
	for i := range s.Peers {
		next <- i
	}
	close(next)
	for range atOnce {
		group.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					s.mu.Lock()
					s.res.Failed = fmt.Sprintf("peer %d: %v", i, err)
					s.mu.Unlock()
				}
			}
		})
	}
	group.Wait()
}

// comeBack opens peer i, and tries again as often as it is refused.
func (s *storm) comeBack(i int) error {
	for refused := 0; ; refused++ {
		pause, err := s.connect(i)
		if err != nil {
			return err
		}
		if pause == 0 {
			tenth := int(10 * time.Since(s.began) / s.Handshake)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.res.Refused[min(refused, 2)]++
			for len(s.res.Tenths) <= tenth {
				s.res.Tenths = append(s.res.Tenths, 0)
			}
			s.res.Tenths[tenth]++
			return nil
		}
		time.Sleep(pause) // as it was told to
	}
}

// connect opens peer i. If it is refused, pause is what Retry-After says.
func (s *storm) connect(i int) (pause time.Duration, err error) {
	s.dialing <- struct{}{}
	c, err := net.DialTimeout("tcp", s.Addr, time.Minute)
	if err == nil {
		_, err = fmt.Fprint(c, upgradeRequest(fmt.Sprint("r", i/10), fmt.Sprint("p", i)))
	}
	<-s.dialing
	if err != nil {
		return 0, err
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
	if err != nil {
		c.Close()
		return 0, err
	}
	switch res.StatusCode {
	case http.StatusSwitchingProtocols:
		s.peers[i] = c
		return 0, nil
	case http.StatusServiceUnavailable:
		c.Close()
		seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
		return time.Duration(seconds) * s.Second, err
	}
	c.Close()
	return 0, fmt.Errorf("status %d", res.StatusCode)
}
