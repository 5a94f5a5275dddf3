package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"relaygate/bench/load"
)

// patience bounds every wait; only a failure reaches it.
const patience = 90 * time.Second

// Loopback networks, 127.0.x.0/24: the balancers connect from one, the clients from another.
const (
	balancerNetwork = 1
	clientNetwork   = 3
	strangerNetwork = 9
)

// relay is one running relaygate.
type relay struct {
	cmd  *exec.Cmd
	addr netip.AddrPort
	exit chan struct{} // closed when it has ended

	mu      sync.Mutex
	faults  []string       // lines of its log at error level, and what is no line of a log
	stopped map[string]any // the counters of its last line
}

// startRelay starts a relay, and returns when it serves.
func startRelay(binary string, environ ...string) (*relay, error) {
	r := &relay{cmd: exec.Command(binary), exit: make(chan struct{})}
	r.cmd.Env = append([]string{"HOST=127.0.0.1"}, environ...)
	log, err := r.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	started := make(chan string, 1)
	go r.collect(log, started)
	select {
	case address := <-started:
		r.addr, err = netip.ParseAddrPort(address)
		return r, err
	case <-r.exit:
		return nil, fmt.Errorf("the relay ended before it served: %s", strings.Join(r.faults, "; "))
	case <-time.After(patience):
		r.kill()
		return nil, fmt.Errorf("the relay has not started after %v", patience)
	}
}

// collect reads the log up to the relay's end.
func (r *relay) collect(log io.Reader, started chan<- string) {
	in := bufio.NewScanner(log)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var line struct {
			Level, Msg, Address string
			Counters            map[string]any
		}
		err := json.Unmarshal(in.Bytes(), &line)
		r.mu.Lock()
		switch {
		case err != nil || line.Level == "error":
			r.faults = append(r.faults, in.Text())
		case line.Msg == "started":
			started <- line.Address
		case line.Msg == "stopped":
			r.stopped = line.Counters
		}
		r.mu.Unlock()
	}
	_ = r.cmd.Wait()
	close(r.exit)
}

func (r *relay) kill() {
	_ = r.cmd.Process.Kill()
	<-r.exit
}

func (r *relay) terminate() { _ = r.cmd.Process.Signal(syscall.SIGTERM) }

// await waits for the relay's end, and fails unless it was orderly.
func (r *relay) await() error {
	select {
	case <-r.exit:
	case <-time.After(patience):
		return fmt.Errorf("the relay has not ended %v after SIGTERM", patience)
	}
	switch status := r.cmd.ProcessState.ExitCode(); {
	case status != 0:
		return fmt.Errorf("the relay ended with status %d: %s", status, strings.Join(r.faults, "; "))
	case len(r.faults) > 0:
		return fmt.Errorf("the relay logged: %s", strings.Join(r.faults, "; "))
	case r.stopped == nil:
		return fmt.Errorf("the relay's log has no counters at its stop")
	}
	return nil
}

// addCounters adds the relay's counters, such as accepted and closed.peer.
func (r *relay) addCounters(sum map[string]int64) {
	for name, v := range r.stopped {
		switch v := v.(type) {
		case float64:
			sum[name] += int64(v)
		case map[string]any:
			for label, n := range v {
				n, _ := n.(float64)
				sum[name+"."+label] += int64(n)
			}
		}
	}
}

// resident is the process's resident memory in bytes; 0 if it has ended.
func (r *relay) resident() int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", r.cmd.Process.Pid))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(f[1])
	return pages * os.Getpagesize()
}

// listeners is the number of sockets that listen on a port of 127.0.0.1.
func listeners(port uint16) int {
	const listening = " 00000000:0000 0A "
	b, _ := os.ReadFile("/proc/net/tcp")
	return strings.Count(string(b), fmt.Sprintf(" 0100007F:%04X%s", port, listening))
}

// balancer is one running HAProxy.
type balancer struct {
	cmd    *exec.Cmd
	exit   chan struct{}
	door   *target
	socket string
	log    strings.Builder
}

// startBalancer starts the n-th HAProxy in front of two relays.
func startBalancer(haproxy, config, dir string, n int, relays [2]netip.AddrPort) (*balancer, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b := &balancer{
		cmd: exec.Command(haproxy, "-db", "-f", config), exit: make(chan struct{}), socket: filepath.Join(dir, fmt.Sprintf("haproxy%d", n)),
		door: &target{name: fmt.Sprintf("balancer %d", n), addr: l.Addr().(*net.TCPAddr).AddrPort()},
	}
	b.cmd.ExtraFiles = []*os.File{file} // descriptor 3
	b.cmd.Env = append(os.Environ(), "LISTEN=fd@3", "BALANCE=source", "FROM="+sourceAddr(balancerNetwork, n).String(),
		"RELAY_A="+relays[0].String(), "RELAY_B="+relays[1].String(), "STATS_SOCKET="+b.socket)
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = b.cmd.Wait(); close(b.exit) }()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if b.states() == [2]string{"UP", "UP"} {
			return b, nil
		}
		select {
		case <-b.exit:
			return nil, fmt.Errorf("HAProxy ended: %s", b.log.String())
		default:
		}
		if time.Now().After(end) {
			b.kill()
			return nil, fmt.Errorf("HAProxy does not find both relays ready: %s", b.log.String())
		}
	}
}

func (b *balancer) kill() {
	_ = b.cmd.Process.Kill()
	<-b.exit
}

// tell gives HAProxy's runtime API a command.
func (b *balancer) tell(command string) ([]string, error) {
	c, err := net.Dial("unix", b.socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	fmt.Fprintln(c, command)
	answer, err := io.ReadAll(c)
	return strings.Split(string(answer), "\n"), err
}

// states are what HAProxy says of the two servers: UP, DOWN, or in between while checks differ from what they were:
// such as "UP 1/2", which still gets connections. Before its first check a server has none.
func (b *balancer) states() (states [2]string) {
	lines, _ := b.tell("show stat") // an error is an HAProxy that has not begun
	for _, line := range lines {
		// pxname, svname, …, status in column 17, …, check_status in column 36
		if f := strings.Split(line, ","); len(f) > 36 && f[0] == "relaygate" && (f[1] == "a" || f[1] == "b") && strings.HasPrefix(f[36], "L") {
			states[f[1][0]-'a'] = f[17]
		}
	}
	return states
}

// downs is how often HAProxy has held one of the servers for down.
func (b *balancer) downs() (n int) {
	lines, _ := b.tell("show stat")
	for _, line := range lines {
		if f := strings.Split(line, ","); len(f) > 22 && f[0] == "relaygate" && (f[1] == "a" || f[1] == "b") {
			down, _ := strconv.Atoi(f[22]) // column chkdown
			n += down
		}
	}
	return n
}

// serves returns the server of each source that has a connection.
func (b *balancer) serves() (map[netip.Addr]int, error) {
	lines, err := b.tell("show sess")
	served := map[netip.Addr]int{}
	for _, line := range lines {
		_, from, _ := strings.Cut(line, " src=")
		from, _, _ = strings.Cut(from, " ")
		_, server, found := strings.Cut(line, " srv=")
		if addr, err := netip.ParseAddrPort(from); err == nil && found && (server[0] == 'a' || server[0] == 'b') {
			served[addr.Addr()] = int(server[0] - 'a')
		}
	}
	return served, err
}

// othersCPU is the CPU time that all processes but ours have used since the machine was started, in steps of 10 ms.
func (s *soak) othersCPU() time.Duration {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n") // cpu, user, nice, system, idle, iowait, irq, softirq, steal
	var busy time.Duration
	for i, f := range strings.Fields(line) {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && i != 4 && i != 5 && i <= 8 {
			busy += time.Duration(n) * 10 * time.Millisecond
		}
	}
	busy -= seconds(load.CPUSeconds(os.Getpid())) + s.endedCPU()
	for _, r := range s.relays {
		busy -= seconds(load.CPUSeconds(r.cmd.Process.Pid))
	}
	for _, b := range s.balancers {
		busy -= seconds(load.CPUSeconds(b.cmd.Process.Pid))
	}
	return busy
}

// endedCPU is what our processes that have ended have used.
func (s *soak) endedCPU() (used time.Duration) {
	for _, r := range s.all {
		select {
		case <-r.exit:
			used += r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()
		default:
		}
	}
	return used
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
