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
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

var stormPeers = flag.Int("storm", 0, "peers of TestStorm; 0 leaves it out")

const stormAddress = "RELAYGATE_STORM" // in the environment of the process that is the storm

// stormResult is what the process that is the storm has seen of its return.
type stormResult struct {
	Refused [3]int // peers that were refused never, once, more often
	Seconds []int  // peers let in, by second
	Failed  string
}

// TestStorm cuts off as many peers as -storm says at once, and all return at once, in a process of its own. They
// come back at CONNECT_RATE: at the higher rate all wait for their turn, at the lower one some are refused, but
// none twice. A pair that stayed is served meanwhile.
//
//	go test -run TestStorm -v . -storm 15000
func TestStorm(t *testing.T) {
	if *stormPeers == 0 {
		t.Skip("only with -storm 15000 or another number of peers; a smaller one is in package server")
	}
	const handshake = 10
	for _, rate := range []int{*stormPeers / 7, *stormPeers / 25} {
		t.Run(fmt.Sprint("rate=", rate), func(t *testing.T) {
			r := startRelay(t, fmt.Sprint("CONNECT_RATE=", rate), fmt.Sprintf("HANDSHAKE_TIMEOUT=%ds", handshake))
			a, b := r.join(t, "pair", "a"), r.join(t, "pair", "b")
			storm := exec.Command(os.Args[0], "-test.run=^TestStormProcess$", "-storm", fmt.Sprint(*stormPeers))
			storm.Env = append(os.Environ(), stormAddress+"="+r.addr)
			in, _ := storm.StdinPipe()
			pipe, _ := storm.StdoutPipe()
			storm.Stderr = os.Stderr
			if err := storm.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = storm.Process.Kill(); _ = storm.Wait() }()
			out := bufio.NewReader(pipe)
			if line, err := out.ReadString('\n'); line != "connected\n" {
				t.Fatalf("the storm did not connect: %q, %v", line, err)
			}
			fmt.Fprintln(in, "go")
			done := make(chan stormResult, 1)
			go func() {
				var res stormResult
				if err := json.NewDecoder(out).Decode(&res); err != nil {
					res.Failed = err.Error()
				}
				done <- res
			}()
			var took []time.Duration
			var res stormResult
			for running := true; running; {
				select {
				case res = <-done:
					running = false
				default:
					sent := time.Now()
					say(t, a, "x")
					hear(t, b, "x")
					took = append(took, time.Since(sent))
					time.Sleep(time.Millisecond) // a pair that chats, not one that takes a core
				}
			}
			if res.Failed != "" {
				t.Fatal(res.Failed)
			}
			slices.Sort(took)
			p99 := took[len(took)*99/100]
			t.Logf("%d peers at %d/s: %d let in at once or in turn, %d refused once, %d more often; let in by second: %v",
				*stormPeers, rate, res.Refused[0], res.Refused[1], res.Refused[2], res.Seconds)
			t.Logf("%d messages of the pair: median %v, 99%% %v, slowest %v", len(took), took[len(took)/2], p99, took[len(took)-1])
			if res.Refused[2] > 0 {
				t.Errorf("%d peers were refused twice, want none", res.Refused[2])
			}
			if most := rate*handshake + rate; most >= *stormPeers && res.Refused[1] > 0 {
				t.Errorf("%d peers were refused though all can have their turn in time", res.Refused[1])
			}
			sum := 0
			for second, n := range res.Seconds {
				if sum += n; sum > rate*(second+2)+rate/10 { // the burst, too
					t.Errorf("%d were let in within %d s, more than %d/s", sum, second+1, rate)
				}
			}
			if p99 > 50*time.Millisecond {
				t.Errorf("99%% of the pair's messages took up to %v, want at most 50ms", p99)
			}
		})
	}
}

// TestStormProcess is the process that TestStorm starts.
func TestStormProcess(t *testing.T) {
	addr := os.Getenv(stormAddress)
	if addr == "" {
		t.Skip("started by TestStorm")
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10) // clients have machines of their own
	n := *stormPeers
	peers := make([]net.Conn, n)
	var failed error
	var mu sync.Mutex
	all := func(atOnce int, connect func(i int) error) {
		var group sync.WaitGroup
		next := make(chan int, n)
		for i := range n {
			next <- i
		}
		close(next)
		for range atOnce {
			group.Go(func() {
				for i := range next {
					if err := connect(i); err != nil {
						mu.Lock()
						failed = fmt.Errorf("peer %d: %w", i, err)
						mu.Unlock()
					}
				}
			})
		}
		group.Wait()
	}
	all(100, func(i int) (err error) {
		_, err = stormConnect(addr, i, &peers[i])
		return err
	})
	fmt.Println("connected")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	for _, c := range peers {
		if c != nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}
	var res stormResult
	began := time.Now()
	all(n, func(i int) error {
		for refused := 0; ; refused++ {
			wait, err := stormConnect(addr, i, &peers[i])
			if err != nil {
				return err
			}
			if wait == 0 {
				second := int(time.Since(began) / time.Second)
				mu.Lock()
				defer mu.Unlock()
				res.Refused[min(refused, 2)]++
				for len(res.Seconds) <= second {
					res.Seconds = append(res.Seconds, 0)
				}
				res.Seconds[second]++
				return nil
			}
			time.Sleep(wait)
		}
	})
	if failed != nil {
		res.Failed = failed.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(res)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// stormConnect opens peer i. If it is refused with 503, wait is what Retry-After says.
func stormConnect(addr string, i int, keep *net.Conn) (wait time.Duration, err error) {
	c, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(c, "GET /v1?relayId=r%d&peerId=p%d HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n", i/10, i)
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
	if err != nil {
		c.Close()
		return 0, err
	}
	switch res.StatusCode {
	case http.StatusSwitchingProtocols:
		*keep = c
		return 0, nil
	case http.StatusServiceUnavailable:
		c.Close()
		seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
		return time.Duration(seconds) * time.Second, err
	}
	c.Close()
	return 0, fmt.Errorf("status %d", res.StatusCode)
}
