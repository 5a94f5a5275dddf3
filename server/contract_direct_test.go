package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// direct is a direct message.
func direct(target, body string) string {
	b, err := json.Marshal(map[string]string{"targetPeerId": target, "body": body})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// directTable is one room in which a speaks, and who hears is checked.
type directTable struct {
	t        *testing.T
	s        *Server
	members  map[string]*websocket.Conn
	stranger *websocket.Conn // called "b", of another relay
	said     int
}

func newDirectTable(t *testing.T, ids ...string) *directTable {
	s := start(t)
	d := &directTable{t: t, s: s, members: make(map[string]*websocket.Conn)}
	for _, id := range ids {
		d.members[id] = join(t, s, "r", id)
	}
	d.stranger = join(t, s, "other relay", "b")
	return d
}

// say lets a say this, and wants these and no others to hear it.
func (d *directTable) say(kind websocket.MessageType, message string, want ...string) {
	d.t.Helper()
	a := d.members["a"]
	sayBytes(d.t, a, kind, []byte(message))
	// Whoever hears a message hears it before these two, which everybody gets.
	d.said++
	toOthers, toSelf := fmt.Sprintf("marker %d", d.said), direct("a", fmt.Sprintf("marker %d", d.said))
	say(d.t, a, toOthers)
	say(d.t, a, toSelf)
	for _, id := range want {
		hearBytes(d.t, d.members[id], kind, []byte(message))
	}
	for id, c := range d.members {
		if id == "a" {
			hear(d.t, c, toSelf)
		} else {
			hear(d.t, c, toOthers)
		}
	}
	hearNothing(d.t, d.s, d.stranger)
}

func TestDirect(t *testing.T) {
	d := newDirectTable(t, "a", "b", "c", "1", "true", "[object Object]", "é😀", "\ufffd", "constructor")
	f := func(message string, want ...string) {
		t.Helper()
		d.say(websocket.MessageText, message, want...)
	}
	// A non-empty string.
	f(`{"targetPeerId":"b"}`, "b")
	f(`{"targetPeerId":"a"}`, "a")
	f(`{"targetPeerId":"nobody"}`)
	f(`{"targetPeerId":"B"}`)
	f(`{"targetPeerId":"b "}`)
	f(`{"targetPeerId":" "}`)
	f(`{"targetPeerId":"constructor"}`, "constructor")
	f(`{"targetPeerId":"é😀"}`, "é😀")
	f("\n\t\r {\n\t\"targetPeerId\" \r:\t\"b\" } \n", "b")
	f(`{"type":"offer","to":["b"],"body":{"x":[1,{"y":null}]},"targetPeerId":"c"}`, "c")
	f(`{"targetPeerId":"c","body":{"targetPeerId":"b"}}`, "c")
	f(`{"targetPeerId":"` + strings.Repeat("b", 2000) + `"}`)

	// Written with escapes.
	f(`{"targetPeerId":"\u0062"}`, "b")
	f(`{"\u0074argetPeer\u0049d":"b"}`, "b")
	f(`{"\u0074\u0061\u0072\u0067\u0065\u0074\u0050\u0065\u0065\u0072\u0049\u0064":"\u00e9\uD83D\uDE00"}`, "é😀")
	f(`{"targetPeerId":"\ufffd"}`, "\ufffd")
	f(`{"targetPeerId":"\ud83d"}`) // half a surrogate pair is no peerId, and not U+FFFD

	// Other truthy values reach nobody, whatever they would be as a string.
	f(`{"targetPeerId":1}`)
	f(`{"targetPeerId":-0.5}`)
	f(`{"targetPeerId":1e400}`)
	f(`{"targetPeerId":5e-324}`)
	f(`{"targetPeerId":true}`)
	f(`{"targetPeerId":{}}`)
	f(`{"targetPeerId":[]}`)
	f(`{"targetPeerId":["b"]}`)
	f(`{"targetPeerId":{"targetPeerId":"b"}}`)

	// The last of repeated keys.
	f(`{"targetPeerId":"b","targetPeerId":"c"}`, "c")
	f(`{"targetPeerId":null,"targetPeerId":"c"}`, "c")
	f(`{"targetPeerId":"b","targetPeerI\u0064":"c"}`, "c")
	f(`{"targetPeerId":"b","targetPeerId":7}`)
}

func TestDirectBroadcasts(t *testing.T) {
	d := newDirectTable(t, "a", "b", "c")
	f := func(message string) {
		t.Helper()
		d.say(websocket.MessageText, message, "b", "c")
	}
	// Missing or falsy.
	f(`{}`)
	f(`{"body":"targetPeerId"}`)
	f(`{"targetPeerId":""}`)
	f(`{"targetPeerId":null}`)
	f(`{"targetPeerId":0}`)
	f(`{"targetPeerId":-0}`)
	f(`{"targetPeerId":0.00e9}`)
	f(`{"targetPeerId":1e-400}`)
	f(`{"targetPeerId":false}`)
	f(`{"targetPeerId":"b","targetPeerId":null}`)
	f(`{"targetPeerId":"b","targetPeerId":""}`)

	// No such key at the top level.
	f(`{"targetpeerid":"b"}`)
	f(`{"TargetPeerId":"b"}`)
	f(`{" targetPeerId":"b"}`)
	f(`{"targetPeerId\u0000":"b"}`)
	f(`{"body":{"targetPeerId":"b"}}`)
	f(`{"__proto__":{"targetPeerId":"b"}}`)

	// Not an object.
	f(`"targetPeerId"`)
	f(`["targetPeerId","b"]`)
	f(`[{"targetPeerId":"b"}]`)
	f(`null`)

	// Not JSON.
	f(`{"targetPeerId":"b"`)
	f(`{"targetPeerId":"b"}}`)
	f(`{"targetPeerId":"b"} x`)
	f(`{"targetPeerId":"b",}`)
	f(`{"targetPeerId":b}`)
	f(`{'targetPeerId':'b'}`)
	f(`{targetPeerId:"b"}`)
	f(`{"targetPeerId":"b","x":NaN}`)
	f(`{"targetPeerId":"b","x":01}`)
	f(`{"targetPeerId":"b","x":.5}`)
	f(`{"targetPeerId":"b","x":+1}`)
	f(`{"targetPeerId":"b","x":"` + "\t" + `"}`)
	f(`{"targetPeerId":"b","x":"\x"}`)
	f(`{"targetPeerId":"b"/**/}`)
	f("\ufeff" + `{"targetPeerId":"b"}`)
	f("\u00a0" + `{"targetPeerId":"b"}`)
	f(`targetPeerId`)
}

func TestDirectIsText(t *testing.T) {
	d := newDirectTable(t, "a", "b", "c")
	d.say(websocket.MessageBinary, `{"targetPeerId":"b"}`, "b", "c")
	d.say(websocket.MessageBinary, `{"targetPeerId":"nobody"}`, "b", "c")
}

// A room this large looks its members up by an index.
func TestDirectInLargeRoom(t *testing.T) {
	ids := []string{"a", "b", "c"}
	for i := range 30 {
		ids = append(ids, fmt.Sprint("member ", i))
	}
	d := newDirectTable(t, ids...)
	f := func(message string, want ...string) {
		t.Helper()
		d.say(websocket.MessageText, message, want...)
	}
	f(`{"targetPeerId":"b"}`, "b")
	f(`{"targetPeerId":"a"}`, "a")
	f(`{"targetPeerId":"member 29"}`, "member 29")
	f(`{"targetPeerId":"nobody"}`)

	// Members go and come while the index is there.
	_ = d.members["member 7"].CloseNow()
	delete(d.members, "member 7")
	eventually(t, "member 7 has left", func() bool { return d.s.Stats().Peers == len(d.members)+1 })
	f(`{"targetPeerId":"member 7"}`)
	d.members["member 7"] = join(t, d.s, "r", "member 7")
	d.members["late"] = join(t, d.s, "r", "late")
	f(`{"targetPeerId":"member 7"}`, "member 7")
	f(`{"targetPeerId":"late"}`, "late")
}

// What one peer sends, each recipient gets in the order sent, broadcasts and
// direct messages together, however they fall into the loops' rounds.
func TestOrder(t *testing.T) {
	s := start(t)
	ids := []string{"b", "c", "d"}
	members := make(map[string]*websocket.Conn)
	for _, id := range ids {
		members[id] = join(t, s, "r", id)
	}
	senders := map[string]*raw{"x": open(t, s, "r", "x"), "y": open(t, s, "r", "y")}
	want := make(map[string][]string) // by sender and recipient
	frames := make(map[string][]byte)
	const messages = 2000
	for sender := range senders {
		for i := range messages {
			n := fmt.Sprintf("%s %d", sender, i)
			if target := ids[i%3]; i%5 < 2 { // runs of both kinds
				frames[sender] = append(frames[sender], text(direct(target, n))...)
				want[sender+target] = append(want[sender+target], direct(target, n))
				continue
			}
			frames[sender] = append(frames[sender], text(n)...)
			for _, id := range ids {
				want[sender+id] = append(want[sender+id], n)
			}
		}
	}
	for len(frames["x"])+len(frames["y"]) > 0 {
		for sender, c := range senders {
			n := min(3000, len(frames[sender]))
			c.send(frames[sender][:n])
			frames[sender] = frames[sender][n:]
		}
	}
	for _, id := range ids {
		for left := len(want["x"+id]) + len(want["y"+id]); left > 0; left-- {
			got := hearAny(t, members[id])
			sender := "x"
			if strings.Contains(got, "y ") {
				sender = "y"
			}
			queue := want[sender+id]
			if len(queue) == 0 || got != queue[0] {
				t.Fatalf("%s heard %q from %s, want %.1q", id, got, sender, queue)
			}
			want[sender+id] = queue[1:]
		}
		hearNothing(t, s, members[id])
	}
}
