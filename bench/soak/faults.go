package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// fault is one way to treat the relay badly, and what is promised for it.
type fault struct {
	name   string
	direct *target    // past the balancer; nil: through it
	from   netip.Addr // of direct ones
	first  []byte     // sent when the connection is made
	then   []byte     // sent after the 101
	drip   []byte     // sent one byte at a time after first
	slow   bool       // after the 101 nothing is read, until it is woken
	want   ending     // what its client has to see; opened is not looked at
	counts []string   // the relay's counters that it moves, beside upgraded
}

// trial is one client that commits a fault.
type trial struct {
	crowd *crowd
	kind  *fault
	c     *conn
}

// try begins n trials of a fault, evenly over a time.
func (w *crowd) try(kind *fault, n int, over time.Duration, open *trials) {
	for i := range n {
		open.left++
		w.after(over*time.Duration(i)/time.Duration(n), func() { w.tryOne(kind, w.sourceOf(i), w.doors[i%len(w.doors)], open) })
	}
}

// sourceOf spreads faults over the sources of the healthy: they share the balancers' servers.
func (w *crowd) sourceOf(i int) netip.Addr { return sourceAddr(clientNetwork, i%len(w.servers)) }

// trials are those of a phase: it is over when each has ended as it has to.
type trials struct {
	left  int
	begun []*trial
}

func (w *crowd) tryOne(kind *fault, from netip.Addr, to *target, open *trials) {
	if kind.direct != nil {
		from, to = kind.from, kind.direct
	}
	t := &trial{crowd: w, kind: kind}
	t.c = w.add(&conn{client: &watched{t, open}, to: to, from: from, first: kind.first, small: kind.slow})
	open.begun = append(open.begun, t)
	if err := w.begin(t.c); err != nil {
		w.surprise("client failed", "%v", err)
	}
	if next := 0; len(kind.drip) > 0 {
		w.every(100*time.Millisecond, func() bool {
			if t.c.state == asking {
				t.c.out = append(t.c.out, kind.drip[next])
				w.touch(t.c)
				next++
			}
			return t.c.state != gone && next < len(kind.drip)
		})
	}
}

// wake has slow readers read on, so that they see their end.
func (ts *trials) wake() {
	for _, t := range ts.begun {
		if t.c.deaf {
			t.c.deaf = false
			t.crowd.read(t.c, true)
		}
	}
}

// watched is a trial that is counted among others.
type watched struct {
	*trial
	of *trials
}

func (t *watched) opened(c *conn) {
	w := t.crowd
	w.counts["upgraded"]++
	c.out = append(c.out, t.kind.then...)
	w.touch(c)
	if c.deaf = t.kind.slow; c.deaf { // it says something, so that the heartbeat does not find it first
		w.every(time.Second, func() bool {
			if c.state == open {
				c.frame(opText, []byte("pong"))
				w.touch(c)
			}
			return c.deaf && c.state == open
		})
	}
}

func (t *watched) message(*conn, []byte)  {}
func (t *watched) text(*conn, []byte)     {}
func (t *watched) closing(*conn, *ending) {}
func (t *watched) ended(c *conn, how ending) {
	w, want := t.crowd, t.kind.want
	if reason := busyReason(how); reason != "" { // it comes back later, as the healthy do
		w.counts["refused."+reason]++
		w.counts["closed.http"]++
		w.remove(c)
		w.after(time.Duration(w.rng.Int64N(int64(time.Second))), func() { w.tryOne(t.kind, c.from, c.to, t.of) })
		return
	}
	t.of.left--
	if how.status != want.status || how.code != want.code {
		w.surprise("fault ended otherwise", "%s: %v, want %v", t.kind.name, how, want)
	}
	for _, counter := range t.kind.counts {
		w.counts[counter]++
	}
	w.remove(c)
}

// garbage is what comes through the balancer and is no request, or no frame.
func garbage() []*fault {
	refused := func(name, counter string, status int, first []byte) *fault {
		return &fault{name: name, first: first, want: ending{status: status}, counts: []string{"refused." + counter, "closed.http"}}
	}
	broken := func(name, counter string, code int, then []byte) *fault {
		return &fault{
			name: name, first: request("/v1", "garbage", "g"), then: then,
			want: ending{code: code}, counts: []string{"closed." + counter},
		}
	}
	noise := make([]byte, 700)
	for i := range noise {
		noise[i] = 0x80 | byte(i*131)
	}
	header := func(first byte, n uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{first, 0xff}, n), 1, 2, 3, 4)
	}
	get := func(lines string) []byte { return []byte("GET /v1?relayId=g&peerId=g HTTP/1.1\r\nHost: a\r\n" + lines) }
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
	return []*fault{
		refused("random bytes", "not_http", 400, noise),
		refused("TLS client hello", "not_http", 400, []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
		refused("header line without a colon", "head", 400, get("nonsense\r\n\r\n")),
		refused("two hosts", "head", 400, get("Host: b\r\n\r\n")),
		refused("header of 20 KiB", "head_size", 431, get("X: "+string(bytes.Repeat([]byte("x"), 20<<10)))),
		refused("HTTP/3.0", "http_version", 505, []byte("GET / HTTP/3.0\r\nHost: a\r\n\r\n")),
		refused("unknown path", "path", 404, request("/v2", "g", "g")),
		refused("no peerId", "id", 400, request("/v1", "g", "")),
		refused("no key", "key", 400, get(upgrade+"\r\n")),
		refused("version 12", "version", 426, bytes.Replace(request("/v1", "g", "g"), []byte("Version: 13"), []byte("Version: 12"), 1)),
		broken("unmasked frame", "protocol", 1002, []byte{0x82, 1, 'x'}),
		broken("reserved bit", "protocol", 1002, []byte{0xc2, 0x81, 1, 2, 3, 4, 'x'}),
		broken("reserved opcode", "protocol", 1002, []byte{0x83, 0x81, 1, 2, 3, 4, 'x'}),
		broken("fragmented ping", "protocol", 1002, []byte{0x09, 0x81, 1, 2, 3, 4, 'x'}),
		broken("text that is not UTF-8", "utf8", 1007, []byte{0x81, 0x81, 0, 0, 0, 0, 0xff}),
		broken("frame of 2 MiB", "message_too_big", 1009, header(0x82, 2<<20)),
		broken("frame of 2^62 bytes", "message_too_big", 1009, header(0x82, 1<<62)),
	}
}

// proxyV2 is a header of the PROXY protocol, version 2, for a TCP connection over IPv4, with length bytes of addresses
// announced.
func proxyV2(command byte, length uint16) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, 0x11)
	b = binary.BigEndian.AppendUint16(b, length)
	return append(b, 192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 0, 80)
}

// pastBalancer is what comes to a relay's own port, with or without the address of a balancer.
func pastBalancer(relay *target) []*fault {
	trusted, stranger := sourceAddr(balancerNetwork, 99), sourceAddr(strangerNetwork, 0)
	bad := func(name string, first []byte) *fault {
		return &fault{name: name, direct: relay, from: trusted, first: first, counts: []string{"closed.proxy_header"}}
	}
	return []*fault{
		bad("no PROXY header", request("/v1", "g", "g")),
		bad("random bytes for a PROXY header", []byte("\x80\x81\x82\x83 and so on, and so on")),
		bad("PROXY version 1 with nonsense", []byte("PROXY BANANA 1 2 3\r\n")),
		bad("PROXY version 3", proxyV2(0x31, 12)),
		bad("PROXY with an unknown command", proxyV2(0x2f, 12)),
		bad("PROXY with half an address", proxyV2(0x21, 6)),
		{
			name: "PROXY header of a stranger", direct: relay, from: stranger,
			first: append(proxyV2(0x21, 12), request("/v1", "g", "g")...), counts: []string{"closed.untrusted_proxy"},
		},
	}
}

// halfOpen is handshakes that begin and do not end.
func halfOpen(relay *target) []*fault {
	trusted := sourceAddr(balancerNetwork, 99)
	whole := request("/v1", "half", "h")
	late := func(name string, first, drip []byte) *fault {
		return &fault{name: name, first: first, drip: drip, counts: []string{"closed.handshake_timeout"}}
	}
	all := []*fault{
		late("half a request", whole[:60], nil),
		late("a byte of a request", whole[:1], nil),
		late("a request, byte by byte", whole[:20], append([]byte("X: "), bytes.Repeat([]byte("x"), 600)...)),
	}
	for _, first := range [][]byte{nil, proxyV2(0x21, 12)[:9], proxyV2(0x21, 12), append(proxyV2(0x21, 12), whole[:60]...)} {
		f := late(fmt.Sprintf("%d bytes, past the balancer", len(first)), first, nil)
		f.direct, f.from = relay, trusted
		all = append(all, f)
	}
	return all
}

// mute is a peer that does not answer pings.
func mute() *fault {
	return &fault{name: "mute", first: request("/v1", "mute", "m"), want: ending{code: 1001}, counts: []string{"closed.heartbeat_timeout"}}
}

// slowReader joins a relay and does not read.
func slowReader(relayID string) *fault {
	return &fault{name: "slow reader", first: request("/v1", relayID, "slow"), slow: true, counts: []string{"closed.slow"}}
}
