package doctor

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// large is a host with room for 100,000 connections.
var large = map[string]string{
	"proc/self/limits":                          "Limit  Soft Limit  Hard Limit  Units\nMax processes 9 9 processes\nMax open files            1024                 200000               files     \n",
	"proc/self/cgroup":                          "0::/\n",
	"proc/meminfo":                              "MemTotal:       4000000 kB\nMemAvailable:   1000000 kB\n",
	"proc/sys/fs/nr_open":                       "1048576\n",
	"proc/sys/fs/file-max":                      "9223372036854775807\n",
	"proc/sys/fs/file-nr":                       "1000\t0\t9223372036854775807\n",
	"proc/sys/fs/epoll/max_user_watches":        "500000\n",
	"proc/sys/net/core/somaxconn":               "4096\n",
	"proc/sys/net/ipv4/tcp_max_syn_backlog":     "128\n",
	"proc/sys/net/ipv4/tcp_syncookies":          "1\n",
	"proc/sys/net/ipv4/tcp_mem":                 "75000 100000 150000\n",
	"proc/sys/net/ipv4/tcp_rmem":                "4096\t131072\t6291456\n",
	"proc/sys/net/ipv4/tcp_wmem":                "4096\t16384\t4194304\n",
	"proc/sys/net/ipv4/ip_local_port_range":     "32768\t60999\n",
	"proc/sys/net/netfilter/nf_conntrack_max":   "262144\n",
	"proc/sys/net/netfilter/nf_conntrack_count": "144\n",
}

// host is large with some files changed, as name=content. Without "=" a file is missing.
func host(changes ...string) *Host {
	files := maps.Clone(large)
	for _, c := range changes {
		name, content, exists := strings.Cut(c, "=")
		if delete(files, name); exists {
			files[name] = content
		}
	}
	root := make(fstest.MapFS)
	for name, content := range files {
		root[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return &Host{
		Root: root, PageBytes: 4096, PeerBytes: 4000, FixedBytes: 1 << 20,
		Connections: func(files uint64) int { return max(int(min(files, 1<<40))-100, 1) },
	}
}

// limits returns the limits of a host by name.
func (h *Host) byName(wanted int64) map[string]Limit {
	all := make(map[string]Limit)
	for _, l := range h.Limits(wanted) {
		all[l.Name] = l
	}
	return all
}

func TestLargeHostFits(t *testing.T) {
	var text strings.Builder
	if !Report(&text, 100_000, host().Limits(100_000)) || !strings.HasSuffix(text.String(), "\n100,000 connections fit; 150,000 would\n") {
		t.Errorf("a large host is not enough:\n%s", &text)
	}
	if strings.Contains(text.String(), "raise it") {
		t.Errorf("something is to be raised:\n%s", &text)
	}
}

// What each limit allows.
func TestAllows(t *testing.T) {
	f := func(name string, want int64, changes ...string) {
		t.Helper()
		l := host(changes...).byName(100_000)[name]
		if l.Err != nil || l.Allows != want {
			t.Errorf("%s with %q: allows %d, %v; want %d", name, changes, l.Allows, l.Err, want)
		}
	}
	const files = "open files of a process"
	f(files, 199_900)
	f(files, Any, "proc/self/limits=Max open files unlimited unlimited files\n")
	f(files, 924, "proc/self/limits=Max open files 9 1024 files")
	f("fs.nr_open", 1_048_476)
	f("fs.file-max", Any)
	f("fs.file-max", 48_900, "proc/sys/fs/file-max=50000")
	f("fs.file-max", 1, "proc/sys/fs/file-max=500")
	f("fs.epoll.max_user_watches", 500_000)
	f("net.core.somaxconn", Any)
	f("net.core.somaxconn", 4095, "proc/sys/net/core/somaxconn=4095")
	f("net.ipv4.tcp_max_syn_backlog", Any)
	f("net.ipv4.tcp_max_syn_backlog", 128, "proc/sys/net/ipv4/tcp_syncookies=0")
	f("net.ipv4.tcp_max_syn_backlog", 128, "proc/sys/net/ipv4/tcp_syncookies")
	f("net.ipv4.tcp_mem", 150_000)
	f("net.netfilter.nf_conntrack_max", 262_000)
	f("net.netfilter.nf_conntrack_max", 0, "proc/sys/net/netfilter/nf_conntrack_max=100")
	f("net.netfilter.nf_conntrack_max", Any, "proc/sys/net/netfilter/nf_conntrack_max")
	f("memory", (1_000_000<<10-1<<20)/4000)
	f("memory", 0, "proc/meminfo=MemAvailable: 1 kB")
	f("net.ipv4.tcp_rmem", 97)
	f("net.ipv4.tcp_wmem", 146)
	f("net.ipv4.ip_local_port_range", 28_232)
}

func TestControlGroups(t *testing.T) {
	f := func(want int64, changes ...string) {
		t.Helper()
		l := host(changes...).byName(100_000)["memory of the control group"]
		if want != Any {
			want = (want<<20 - 1<<20) / 4000
		}
		if l.Err != nil || l.Allows != want {
			t.Errorf("with %q: allows %d, %v; want %d", changes, l.Allows, l.Err, want)
		}
	}
	f(Any)
	f(Any, "proc/self/cgroup")
	f(Any, "sys/fs/cgroup/memory.max=max\n")
	f(64, "sys/fs/cgroup/memory.max=67108864\n")
	const nested = "proc/self/cgroup=0::/a.slice/b.service\n"
	f(32, nested, "sys/fs/cgroup/a.slice/b.service/memory.max=33554432\n", "sys/fs/cgroup/a.slice/memory.max=67108864\n")
	f(64, nested, "sys/fs/cgroup/a.slice/b.service/memory.max=max\n", "sys/fs/cgroup/a.slice/memory.max=67108864\n")
	f(64, nested, "sys/fs/cgroup/memory.max=67108864\n") // as in a container that sees only its own
	f(64, "proc/self/cgroup=0::/../../b\n", "sys/fs/cgroup/b/memory.max=67108864\n")
	const v1 = "proc/self/cgroup=5:cpu,cpuacct:/x\n4:memory:/docker/x:y\n0::/\n"
	f(64, v1, "sys/fs/cgroup/memory/docker/x:y/memory.limit_in_bytes=67108864\n", "sys/fs/cgroup/memory/memory.limit_in_bytes=9223372036854771712\n")
	f(Any, v1, "sys/fs/cgroup/memory/memory.limit_in_bytes=9223372036854771712\n")
}

// TestLinesSuffice: once the lines that a report names are applied, and no sooner, the connections fit.
func TestLinesSuffice(t *testing.T) {
	apply := func(changes []string, raise string, less int) []string {
		t.Helper()
		if n, _, ok := strings.Cut(strings.TrimPrefix(raise, "LimitNOFILE="), " "); ok && strings.HasPrefix(raise, "LimitNOFILE=") {
			files, _ := strconv.Atoi(n)
			return append(changes, fmt.Sprintf("proc/self/limits=Max open files 1 %d files", files-less))
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(raise, "sysctl -w "), "=")
		if !ok {
			t.Fatalf("the line %q", raise)
		}
		words := strings.Fields(strings.Trim(value, `"`))
		last, _ := strconv.Atoi(words[len(words)-1])
		words[len(words)-1] = strconv.Itoa(last - less)
		return append(changes, "proc/sys/"+strings.ReplaceAll(name, ".", "/")+"="+strings.Join(words, " "))
	}
	for _, wanted := range []int64{1000, 100_000, 1_234_567} {
		changes := []string{
			"proc/self/limits=Max open files 1 1 files", "proc/sys/fs/nr_open=1", "proc/sys/fs/file-max=1", "proc/sys/fs/epoll/max_user_watches=1",
			"proc/sys/net/core/somaxconn=1", "proc/sys/net/ipv4/tcp_syncookies=0", "proc/sys/net/ipv4/tcp_mem=1 1 1",
			"proc/sys/net/netfilter/nf_conntrack_max=1", "proc/meminfo=MemAvailable: 100000000 kB",
		}
		raised := changes
		for _, l := range host(changes...).Limits(wanted) {
			if l.Advice || l.Allows >= wanted {
				continue
			}
			raised = apply(raised, l.Raise, 0)
			if got := host(append(changes, apply(nil, l.Raise, 0)...)...).byName(wanted)[l.Name]; got.Allows < wanted || got.Err != nil {
				t.Errorf("%s after %q: allows %d, %v; want %d", l.Name, l.Raise, got.Allows, got.Err, wanted)
			}
			if strings.HasPrefix(l.Raise, "LimitNOFILE") {
				if got := host(apply(changes, l.Raise, 1)...).byName(wanted)[l.Name]; got.Allows >= wanted {
					t.Errorf("%s: one less than %q is enough", l.Name, l.Raise)
				}
			}
		}
		var text strings.Builder
		if len(raised) != len(changes)+8 || !Report(&text, wanted, host(raised...).Limits(wanted)) {
			t.Errorf("%d lines do not suffice for %d:\n%s", len(raised)-len(changes), wanted, &text)
		}
	}
}

// What cannot be read is named, and nothing fits then.
func TestUnreadable(t *testing.T) {
	f := func(name string, changes ...string) {
		t.Helper()
		h := host(changes...)
		if l := h.byName(1)[name]; l.Err == nil {
			t.Errorf("%s with %q: %+v, want an error", name, changes, l)
		}
		var text strings.Builder
		if Report(&text, 1, h.Limits(1)) || !strings.Contains(text.String(), "?     "+name+": ") || !strings.Contains(text.String(), "is not known") {
			t.Errorf("with %q:\n%s", changes, &text)
		}
	}
	f("open files of a process", "proc/self/limits")
	f("open files of a process", "proc/self/limits=Max open files 1")
	f("open files of a process", "proc/self/limits=Max open files a b")
	f("open files of a process", "proc/self/limits=nothing")
	f("fs.nr_open", "proc/sys/fs/nr_open=")
	f("fs.nr_open", "proc/sys/fs/nr_open=-1")
	f("fs.file-max", "proc/sys/fs/file-nr")
	f("net.ipv4.tcp_mem", "proc/sys/net/ipv4/tcp_mem=1 2")
	f("net.netfilter.nf_conntrack_max", "proc/sys/net/netfilter/nf_conntrack_max=x")
	f("memory", "proc/meminfo=MemTotal: 1 kB")
	f("memory of the control group", "sys/fs/cgroup/memory.max=lots")
}

func TestReportNamesWhatIsLow(t *testing.T) {
	var text strings.Builder
	limits := host("proc/sys/net/netfilter/nf_conntrack_max=65536", "proc/self/limits=Max open files 1 1000 files").Limits(100_000)
	if Report(&text, 100_000, limits) {
		t.Error("it fits")
	}
	for _, want := range []string{
		"LOW   open files of a process            soft 1, hard 1,000                 allows 900\n",
		"raise it: LimitNOFILE=100100 (systemd), --ulimit nofile=100100:100100 (Docker), or as root ulimit -Hn 100100\n",
		"raise it: sysctl -w net.netfilter.nf_conntrack_max=125144\n",
		"\n100,000 connections do not fit, 900 do. Too low: open files of a process, net.netfilter.nf_conntrack_max\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
}

var openFilesLine = regexp.MustCompile(`(?m)^Max open files[\t ]*(\d+|unlimited|max)[\t ]+(\d+|unlimited|max)(?:[\t ].*)?$`)

// FuzzOpenFiles compares with a regular expression where the first line with that beginning is as it should be.
func FuzzOpenFiles(f *testing.F) {
	f.Add(large["proc/self/limits"])
	f.Add("Max open files 1 unlimited files\nMax open files 2 2")
	f.Add("Max open files 99999999999999999999 max")
	f.Fuzz(func(t *testing.T, text string) {
		soft, hard, err := parseOpenFiles(text)
		if err == nil && (soft < 0 || hard < 0) {
			t.Fatalf("%q: %d, %d", text, soft, hard)
		}
		i := strings.Index("\n"+text, "\nMax open files")
		if i < 0 {
			if err == nil {
				t.Fatalf("%q: %d, %d, want an error", text, soft, hard)
			}
			return
		}
		line, _, _ := strings.Cut(text[i:], "\n")
		m := openFilesLine.FindStringSubmatch(line)
		if m == nil {
			return // other blanks, or no numbers
		}
		want := func(s string) int64 {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return Any
			}
			return n
		}
		if err != nil || soft != want(m[1]) || hard != want(m[2]) {
			t.Fatalf("%q: %d, %d, %v; want %s, %s", text, soft, hard, err, m[1], m[2])
		}
	})
}

// FuzzHost: whatever a file holds, each limit is an error or a number, and a report can be written.
func FuzzHost(f *testing.F) {
	names := slices.Sorted(maps.Keys(large))
	for i, name := range names {
		f.Add(uint8(i), large[name])
	}
	f.Add(uint8(0), "4:memory:/../..//x\n0::")
	f.Fuzz(func(t *testing.T, which uint8, content string) {
		name := names[int(which)%len(names)]
		h := host(name + "=" + content)
		for _, l := range h.Limits(100_000) {
			if l.Err == nil && (l.Allows < 0 || l.Found == "") {
				t.Fatalf("%s=%q: %+v", name, content, l)
			}
		}
		Report(new(strings.Builder), 100_000, h.Limits(100_000))
	})
}
