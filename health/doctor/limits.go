package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
)

// The kernel's documentation of most of them is in Documentation/admin-guide/sysctl and
// Documentation/networking/ip-sysctl.rst.

// enoughAtOnce is how many connections that come in one moment have to find room in a queue of the kernel. It is the
// default of somaxconn since Linux 5.4. A queue that is full drops SYNs, which clients repeat after a second.
const enoughAtOnce = 4096

// noLimit is a number of files or bytes that nobody reaches. Kernels say "no limit" by several numbers above it.
const noLimit = 1 << 50

// limit makes the Limit called name, which is a sysctl unless told otherwise. needed is the value that wanted
// connections need.
func limit(name string, found, allows, needed int64, note string) Limit {
	return Limit{
		Name: name, Found: number(found), Allows: max(allows, 0), Note: note,
		Raise: fmt.Sprintf("sysctl -w %s=%d", name, needed),
	}
}

func failed(name string, err error) Limit { return Limit{Name: name, Err: err} }

// files returns the open-file limit that wanted connections need.
func (h *Host) files(wanted int64) int64 {
	return int64(sort.Search(noLimit, func(n int) bool { return int64(h.Connections(uint64(n))) >= wanted }))
}

func (h *Host) allowed(files int64) int64 {
	if files >= noLimit {
		return Any
	}
	return int64(h.Connections(uint64(max(files, 0))))
}

func (h *Host) openFiles(wanted int64) Limit {
	const name = "open files of a process"
	text, err := fs.ReadFile(h.Root, "proc/self/limits")
	if err != nil {
		return failed(name, err)
	}
	soft, hard, err := parseOpenFiles(string(text))
	if err != nil {
		return failed(name, fmt.Errorf("/proc/self/limits: %w", err))
	}
	n := h.files(wanted)
	return Limit{
		Name: name, Found: fmt.Sprintf("soft %s, hard %s", number(soft), number(hard)), Allows: h.allowed(hard),
		Note:  "that of this shell; a service has its own. The relay raises the soft limit to the hard one",
		Raise: fmt.Sprintf("LimitNOFILE=%d (systemd), --ulimit nofile=%d:%[1]d (Docker), or as root ulimit -Hn %[1]d", n, n),
	}
}

// parseOpenFiles finds the line "Max open files" in /proc/self/limits.
func parseOpenFiles(limits string) (soft, hard int64, err error) {
	for l := range strings.Lines(limits) {
		values, found := strings.CutPrefix(l, "Max open files")
		if !found {
			continue
		}
		f := strings.Fields(values)
		if len(f) < 2 {
			return 0, 0, errors.New("no two limits of open files")
		}
		if soft, err = parseNumber(f[0]); err == nil {
			hard, err = parseNumber(f[1])
		}
		return soft, hard, err
	}
	return 0, 0, errors.New("no limit of open files")
}

func (h *Host) mostOpenFiles(wanted int64) Limit {
	const name = "fs.nr_open"
	n, err := h.sysctl(name)
	if err != nil {
		return failed(name, err)
	}
	return limit(name, n[0], h.allowed(n[0]), h.files(wanted), "the highest hard limit of open files")
}

func (h *Host) filesOfAll(wanted int64) Limit {
	const name = "fs.file-max"
	most, err := h.sysctl(name)
	if err != nil {
		return failed(name, err)
	}
	used, err := h.sysctl("fs.file-nr")
	if err != nil {
		return failed(name, err)
	}
	return limit(name, most[0], h.allowed(most[0]-used[0]), used[0]+h.files(wanted),
		fmt.Sprintf("open files of all processes; %s are in use", number(used[0])))
}

func (h *Host) epollWatches(wanted int64) Limit {
	const name = "fs.epoll.max_user_watches"
	n, err := h.sysctl(name)
	if err != nil {
		return failed(name, err)
	}
	return limit(name, n[0], n[0], wanted+wanted/10, "descriptors that the processes of a user may await")
}

func (h *Host) acceptQueue(wanted int64) Limit {
	const name = "net.core.somaxconn"
	n, err := h.sysctl(name)
	if err != nil {
		return failed(name, err)
	}
	return atOnce(name, n[0], wanted, "connections that may wait to be accepted; the relay reads it when it starts")
}

func (h *Host) handshakes(wanted int64) Limit {
	const name = "net.ipv4.tcp_max_syn_backlog"
	n, err := h.sysctl(name)
	if err != nil {
		return failed(name, err)
	}
	cookies, err := h.sysctl("net.ipv4.tcp_syncookies")
	if err == nil && cookies[0] > 0 {
		return limit(name, n[0], Any, 0, "handshakes under way; more are served too, by tcp_syncookies")
	}
	return atOnce(name, n[0], wanted, "handshakes that may be under way, since tcp_syncookies is off")
}

// atOnce judges a queue: what matters is how many come at once.
func atOnce(name string, found, wanted int64, note string) Limit {
	allows := found
	if found >= enoughAtOnce {
		allows = Any
	}
	return limit(name, found, allows, min(wanted, enoughAtOnce), note)
}

// socketMemory counts a page for each connection, the least that the kernel charges a socket that holds data.
func (h *Host) socketMemory(wanted int64) Limit {
	const name = "net.ipv4.tcp_mem"
	n, err := h.sysctl(name, 3)
	if err != nil {
		return failed(name, err)
	}
	l := limit(name, 0, n[2], 0, "pages of memory for the data in all sockets: one for each connection is the least")
	l.Found = triple(n)
	l.Raise = fmt.Sprintf(`sysctl -w %s="%d %d %d"`, name, wanted/2, wanted/3*2, wanted) // in the kernel's own proportions
	return l
}

func (h *Host) tracked(wanted int64) Limit {
	const name = "net.netfilter.nf_conntrack_max"
	most, err := h.sysctl(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Limit{Name: name, Found: "connections are not tracked", Allows: Any}
	}
	if err != nil {
		return failed(name, err)
	}
	used, err := h.sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		return failed(name, err)
	}
	return limit(name, most[0], most[0]-used[0], used[0]+wanted+wanted/4,
		fmt.Sprintf("connections that the firewall tracks; %s are in use, perhaps by a relay that runs", number(used[0])))
}

func (h *Host) memory(wanted int64) Limit {
	const name = "memory"
	text, err := fs.ReadFile(h.Root, "proc/meminfo")
	if err != nil {
		return failed(name, err)
	}
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "MemAvailable:" && f[2] == "kB" {
			n, err := parseNumber(f[1])
			if err != nil {
				return failed(name, fmt.Errorf("/proc/meminfo: %w", err))
			}
			return h.memoryLimit(name, "available", n<<10, wanted, "a larger machine; no setting raises it")
		}
	}
	return failed(name, errors.New("/proc/meminfo: no MemAvailable"))
}

// memoryLimit judges bytes of memory.
func (h *Host) memoryLimit(name, found string, bytes, wanted int64, raise string) Limit {
	needed := (wanted*h.PeerBytes + h.FixedBytes + 1<<20 - 1) >> 20
	return Limit{
		Name: name, Found: fmt.Sprintf("%s MiB %s", number(bytes>>20), found), Allows: max((bytes-h.FixedBytes)/h.PeerBytes, 0),
		Note:  fmt.Sprintf("%s bytes for each silent peer, here and in the kernel; messages come on top", number(h.PeerBytes)),
		Raise: fmt.Sprintf("%d MiB, by %s", needed, raise),
	}
}

// cgroupMemory finds the lowest limit of this process's control group and of those that contain it.
func (h *Host) cgroupMemory(wanted int64) Limit {
	const name = "memory of the control group"
	text, err := fs.ReadFile(h.Root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return Limit{Name: name, Found: "no control groups", Allows: Any}
	}
	if err != nil {
		return failed(name, err)
	}
	least := int64(Any)
	for l := range strings.Lines(string(text)) {
		file, group := cgroupFile(strings.TrimSpace(l))
		if file == "" {
			continue
		}
		base, leaf := path.Split(file)
		for {
			b, err := fs.ReadFile(h.Root, path.Join(base, group, leaf))
			if err == nil {
				n, err := parseNumber(strings.TrimSpace(string(b)))
				if err != nil {
					return failed(name, fmt.Errorf("/%s: %w", path.Join(base, group, leaf), err))
				}
				least = min(least, n)
			}
			if group == "/" {
				break
			}
			group = path.Dir(group)
		}
	}
	if least >= noLimit {
		return Limit{Name: name, Found: "no limit", Allows: Any}
	}
	return h.memoryLimit(name, "at most", least, wanted, "MemoryMax= (systemd), --memory (Docker), resources.limits.memory (Kubernetes)")
}

// cgroupFile returns the file of the memory limit, but for the group, that a line of /proc/self/cgroup names:
// "0::/group" in version 2, "4:memory:/group" in version 1. group begins with a slash.
func cgroupFile(line string) (file, group string) {
	f := strings.SplitN(line, ":", 3)
	if len(f) < 3 {
		return "", ""
	}
	group = path.Clean("/" + f[2])
	switch {
	case f[0] == "0" && f[1] == "":
		return "sys/fs/cgroup/memory.max", group
	case f[1] == "memory":
		return "sys/fs/cgroup/memory/memory.limit_in_bytes", group
	}
	return "", ""
}

func (h *Host) receiveBuffers(int64) Limit {
	return h.buffers("net.ipv4.tcp_rmem", "that send while they are not read, at once")
}

func (h *Host) sendBuffers(int64) Limit {
	return h.buffers("net.ipv4.tcp_wmem", "that read nothing of what is sent to them, at once")
}

// buffers says how many connections whose buffers are at their largest fill tcp_mem. The line lowers that size.
func (h *Host) buffers(name, who string) Limit {
	n, err := h.sysctl(name, 3)
	if err != nil {
		return failed(name, err)
	}
	pages, err := h.sysctl("net.ipv4.tcp_mem", 3)
	if err != nil {
		return failed(name, err)
	}
	l := limit(name, 0, pages[2]*h.PageBytes/max(n[2], 1), 0, "peers "+who+"; then all sockets get less")
	l.Found, l.Advice = triple(n), true
	l.Raise = fmt.Sprintf(`sysctl -w %s="%d %d %d"`, name, n[0], n[1], max(n[1], 256<<10))
	return l
}

// ports is a limit of a balancer, not of the relay.
func (h *Host) ports(int64) Limit {
	const name = "net.ipv4.ip_local_port_range"
	n, err := h.sysctl(name, 2)
	if err != nil {
		return failed(name, err)
	}
	return Limit{
		Name: name, Found: fmt.Sprintf("%d to %d", n[0], n[1]), Allows: max(n[1]-n[0]+1, 0), Advice: true,
		Note:  "from a balancer on this host to one relay, for each address that it connects from; no limit without one",
		Raise: fmt.Sprintf(`sysctl -w %s="1024 65535", and more source addresses`, name),
	}
}

// sysctl reads the numbers of a sysctl, of which there must be so many (1 if not told).
func (h *Host) sysctl(name string, count ...int) ([]int64, error) {
	file := path.Join("proc/sys", strings.ReplaceAll(name, ".", "/"))
	text, err := fs.ReadFile(h.Root, file)
	if err != nil {
		return nil, err
	}
	least := append(count, 1)[0]
	var all []int64
	for _, word := range strings.Fields(string(text)) {
		n, err := parseNumber(word)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", file, err)
		}
		all = append(all, n)
	}
	if len(all) < least {
		return nil, fmt.Errorf("/%s: %d numbers, want %d", file, len(all), least)
	}
	return all, nil
}

// parseNumber reads a number that is not negative, or how the kernel says that there is no limit. A number that is too
// large is none, either.
func parseNumber(s string) (int64, error) {
	if s == "unlimited" || s == "max" {
		return Any, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && n > Any {
		return Any, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return int64(n), nil
}

func triple(n []int64) string { return fmt.Sprintf("%d %d %d", n[0], n[1], n[2]) }
