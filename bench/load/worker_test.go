package load

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestReceivingAllocatesNothing runs the receiving half on a frame as it comes from a socket.
func TestReceivingAllocatesNothing(t *testing.T) {
	w, err := newWorker(0, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.build(Shape{Rooms: 1, Peers: 2, Senders: 1, Window: 1, Size: 128})
	for i := range w.conns {
		w.conns[i].fd, w.conns[i].state = 1<<30, open
	}
	frame := serverFrame(0x81, w.led.streams[0].message)
	w.dirty = make([]int32, 0, 4)
	w.traffic = traffic{running: true, closed: true}
	w.conns[0].out = make([]byte, 0, 4096)
	w.send(0, 0)
	seq := w.led.streams[0].next - 1
	got := testing.AllocsPerRun(200, func() {
		stamp(frame[len(frame)-128+w.led.numbers:], seq, 0)
		if err := w.consume(1, frame); err != nil {
			t.Fatal(err)
		}
		seq++
		w.conns[0].out = w.conns[0].out[:0]
	})
	if got != 0 {
		t.Errorf("%v allocations per message, want 0", got)
	}
	if v := w.led.v; v.Total() != 0 || w.marks.Delivered < 200 {
		t.Errorf("delivered %v, violations %+v", w.marks.Delivered, v)
	}
}

// TestFleetIsRefused: where nobody listens, every connection fails and the first reason is told.
func TestFleetIsRefused(t *testing.T) {
	f, err := Start([]int{0, 0})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.Connect(t.Context(), 10*time.Second, &Target{
		Host: "x", Path: "/v1?", Addr: netip.MustParseAddrPort("127.0.0.1:1"),
	}, Shape{Rooms: 3, Peers: 2, Senders: 1, Window: 1, Size: 128}, 4)
	if err == nil || !strings.Contains(err.Error(), "connections failed: connection refused") {
		t.Errorf("got %v, want refused connections", err)
	}
}
