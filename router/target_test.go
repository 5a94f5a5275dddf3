package router

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"runtime"
	"strings"
	"testing"
	"time"
)

var routeNames = [...]string{Broadcast: "Broadcast", Direct: "Direct", Nobody: "Nobody"}

func TestPeekBroadcast(t *testing.T) {
	var p Peeker
	f := func(text string) {
		t.Helper()
		if route, target := p.Peek([]byte(text)); route != Broadcast || target != nil {
			t.Errorf("Peek(%.200q): got %s %q, want Broadcast", text, routeNames[route], target)
		}
	}

	// Not JSON at all, or no object.
	f(``)
	f(` `)
	f(`hello`)
	f(`targetPeerId`)
	f(`"targetPeerId"`)
	f(`["targetPeerId","p"]`)
	f(`[{"targetPeerId":"p"}]`)
	f(`null`)

	// No such member, or not at the top.
	f(`{}`)
	f(` { } `)
	f(`{"a":"targetPeerId"}`)
	f(`{"targetpeerid":"p"}`)
	f(`{"targetPeerId ":"p"}`)
	f(`{"xtargetPeerId":"p"}`)
	f(`{"a":{"targetPeerId":"p"}}`)
	f(`{"a":[{"targetPeerId":"p"}]}`)
	f(`{"a":{"b":1,"targetPeerId":"p"},"c":[]}`)
	f(`{"__proto__":{"targetPeerId":"p"}}`)
	f(`{"targetPeerId\u0000":"p"}`)
	f(`{"\u0054argetPeerId":"p"}`)
	f(`{"targetPeerI\\u0064":"p"}`)
	f(`{"targetPeerI\ud800\u0064":"p"}`)
	f(`{"\u0074argetPeerId":""}`)

	// Falsy values.
	f(`{"targetPeerId":""}`)
	f(`{"targetPeerId":null}`)
	f(`{"targetPeerId":false}`)
	f(`{"targetPeerId":0}`)
	f(`{"targetPeerId":-0}`)
	f(`{"targetPeerId":0.0}`)
	f(`{"targetPeerId":-0.00e+7}`)
	f(`{"targetPeerId":0e9}`)
	f(`{"targetPeerId":0E-9}`)
	f(`{"targetPeerId":0e999999999999999999999}`)
	f(`{"targetPeerId":1e-400}`)
	f(`{"targetPeerId":-1e-400}`)
	f(`{"targetPeerId":2e-324}`)
	f(`{"targetPeerId":2.4703282292062327e-324}`)
	f(`{"targetPeerId":0.` + strings.Repeat("0", 400) + `1}`)
	f(`{"targetPeerId":0.` + strings.Repeat("0", 200_000) + `1}`)
	f(`{"targetPeerId":"p","targetPeerId":""}`)
	f(`{"targetPeerId":"p","targetPeerId":null}`)
	f(`{"targetPeerId":"p","\u0074argetPeerId":0}`)

	// Invalid JSON: whatever is wrong, wherever it is.
	f(`{"targetPeerId":"p"`)
	f(`{"targetPeerId":"p`)
	f(`{"targetPeerId":"p\`)
	f(`{"targetPeerId":"p\"}`)
	f(`{"targetPeerId":`)
	f(`{"targetPeerId"`)
	f(`{"targetPeerId`)
	f(`{"targetPeerId":}`)
	f(`{"targetPeerId","p"}`)
	f(`{"targetPeerId"}`)
	f(`{targetPeerId:"p"}`)
	f(`{'targetPeerId':'p'}`)
	f(`{"targetPeerId":"p",}`)
	f(`{,"targetPeerId":"p"}`)
	f(`{"targetPeerId":"p",,"a":1}`)
	f(`{"targetPeerId":"p" "a":1}`)
	f(`{"targetPeerId":"p"}}`)
	f(`{"targetPeerId":"p"}x`)
	f(`{"targetPeerId":"p"}{}`)
	f(`{"targetPeerId":"p"};`)
	f("{\"targetPeerId\":\"p\"}\x00")
	f("\ufeff" + `{"targetPeerId":"p"}`)
	f(`{"targetPeerId":"p"}` + "\ufeff")
	f(`{` + "\u00a0" + `"targetPeerId":"p"}`)
	f(`{` + "\v" + `"targetPeerId":"p"}`)
	f(`{` + "\f" + `"targetPeerId":"p"}`)
	f(`{/**/"targetPeerId":"p"}`)
	f(`{"targetPeerId":"p` + "\n" + `"}`)
	f(`{"targetPeerId":"p` + "\x1f" + `"}`)
	f(`{"targetPeerId":"p","a":"0123456` + "\x00" + `89"}`)
	f(`{"targetPeerId":"\x41"}`)
	f(`{"targetPeerId":"\'"}`)
	f(`{"targetPeerId":"\u004"}`)
	f(`{"targetPeerId":"\u004g"}`)
	f(`{"targetPeerId":"\U0041"}`)
	f(`{"targetPeerId":tru}`)
	f(`{"targetPeerId":truely}`)
	f(`{"targetPeerId":True}`)
	f(`{"targetPeerId":undefined}`)
	f(`{"targetPeerId":"p","a":NaN}`)
	f(`{"targetPeerId":"p","a":Infinity}`)
	f(`{"targetPeerId":"p","a":01}`)
	f(`{"targetPeerId":"p","a":+1}`)
	f(`{"targetPeerId":"p","a":-}`)
	f(`{"targetPeerId":"p","a":.5}`)
	f(`{"targetPeerId":"p","a":5.}`)
	f(`{"targetPeerId":"p","a":5.e1}`)
	f(`{"targetPeerId":"p","a":5e}`)
	f(`{"targetPeerId":"p","a":5e+}`)
	f(`{"targetPeerId":"p","a":0x5}`)
	f(`{"targetPeerId":"p","a":[}`)
	f(`{"targetPeerId":"p","a":[1}}`)
	f(`{"targetPeerId":"p","a":[1,]}`)
	f(`{"targetPeerId":"p","a":[,1]}`)
	f(`{"targetPeerId":"p","a":[1 2]}`)
	f(`{"targetPeerId":"p","a":[1:2]}`)
	f(`{"targetPeerId":"p","a":["b":2]}`)
	f(`{"targetPeerId":"p","a":{]}`)
	f(`{"targetPeerId":"p","a":{"b":1]}`)
	f(`{"targetPeerId":"p","a":{"b":1,}}`)
	f(`{"targetPeerId":"p","a":{"b"}}`)
	f(`{"targetPeerId":"p","a":{1:2}}`)
	f(`{"targetPeerId":"p","a":[[{}]}]}`)
	f(`{"targetPeerId":"p","a":[` + strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200) + `}`)
}

func TestPeekDirect(t *testing.T) {
	var p Peeker
	f := func(text, want string) {
		t.Helper()
		if route, target := p.Peek([]byte(text)); route != Direct || string(target) != want {
			t.Errorf("Peek(%.200q): got %s %q, want Direct %q", text, routeNames[route], target, want)
		}
	}

	f(`{"targetPeerId":"p"}`, "p")
	f(" \t\r\n{ \"targetPeerId\"\t:\r\"p\" \n} \t\r\n", "p")
	f(`{"targetPeerId":"p","a":[1,-2.5e+3,true,false,null,{},[],{"b":"c"},{"d":[{}]}]}`, "p")
	f(`{"a":{"targetPeerId":"inner"},"targetPeerId":"p"}`, "p")
	f(`{"targetPeerId":"p","a":{"targetPeerId":"inner"}}`, "p")
	f(`{"":"","targetPeerId":" "}`, " ")
	f(`{"targetPeerId":"0"}`, "0")
	f(`{"targetPeerId":"null"}`, "null")
	f(`{"targetPeerId":"żółw 🐢"}`, "żółw 🐢")
	f(`{"targetPeerId":"`+"\u2028\u2029\x7f\ufeff"+`"}`, "\u2028\u2029\x7f\ufeff")
	f(`{"targetPeerId":"p","a":"🐢 \"\\\/\b\f\n\r\t\u12aB\ud800 q"}`, "p")

	// The last of repeated keys.
	f(`{"targetPeerId":"p","targetPeerId":"q"}`, "q")
	f(`{"targetPeerId":null,"targetPeerId":"q","a":1}`, "q")
	f(`{"targetPeerId":{"targetPeerId":"p"},"targetPeerId":"q"}`, "q")
	f(`{"\u0074argetPeerId":"p","targetPeerId":"q"}`, "q")
	f(`{"targetPeerId":"p","\u0074argetPeerId":"q"}`, "q")

	// Escapes.
	f(`{"target\u0050eer\u0049d":"p"}`, "p")
	f(`{"\u0074\u0061\u0072\u0067\u0065\u0074\u0050\u0065\u0065\u0072\u0049\u0064":"p"}`, "p")
	f(`{"\u0074\u0061\u0072\u0067\u0065\u0074\u0050\u0065\u0065\u0072\u0049\u0064":"\u0070"}`, "p")
	f(`{"targetPeerId":"\""}`, `"`)
	f(`{"targetPeerId":"\\"}`, `\`)
	f(`{"targetPeerId":"\\\""}`, `\"`)
	f(`{"targetPeerId":"\\u0041"}`, `\u0041`)
	f(`{"targetPeerId":"a\"b\\c\/d\be\ff\ng\rh\ti\u0041"}`, "a\"b\\c/d\be\ff\ng\rh\tiA")
	f(`{"targetPeerId":"\u0000"}`, "\x00")
	f(`{"targetPeerId":"\u00e9\u00C9\u20ac\uffff\ufffd"}`, "éÉ€\uffff\ufffd")
	f(`{"targetPeerId":"\ud83d\udc22"}`, "🐢")
	f(`{"targetPeerId":"a\uD83D\uDC22\uDBFF\uDFFFz"}`, "a🐢\U0010ffffz")
	f(`{"targetPeerId":"\\ud800"}`, `\ud800`)

	// As long as a peerId can be.
	f(`{"targetPeerId":"`+strings.Repeat("p", 1024)+`"}`, strings.Repeat("p", 1024))
	f(`{"targetPeerId":"`+strings.Repeat(`\u0070`, 1024)+`"}`, strings.Repeat("p", 1024))
	f(`{"targetPeerId":"`+strings.Repeat(`\ud83d\udc22`, 256)+`"}`, strings.Repeat("🐢", 256))
}

func TestPeekNobody(t *testing.T) {
	var p Peeker
	f := func(text string) {
		t.Helper()
		if route, target := p.Peek([]byte(text)); route != Nobody || target != nil {
			t.Errorf("Peek(%.200q): got %s %q, want Nobody", text, routeNames[route], target)
		}
	}

	f(`{"targetPeerId":true}`)
	f(`{"targetPeerId":{}}`)
	f(`{"targetPeerId":[]}`)
	f(`{"targetPeerId":[""]}`)
	f(`{"targetPeerId":{"targetPeerId":"p"}}`)
	f(`{"targetPeerId":"p","targetPeerId":["q"]}`)
	f(`{"targetPeerId":1}`)
	f(`{"targetPeerId":-1.5E+3}`)
	f(`{"targetPeerId":1e400}`)
	f(`{"targetPeerId":-1e400}`)
	f(`{"targetPeerId":1e99999999999999999999}`)
	f(`{"targetPeerId":5e-324}`)
	f(`{"targetPeerId":2.4703282292062328e-324}`)
	f(`{"targetPeerId":0.` + strings.Repeat("0", 300) + `1}`)
	f(`{"targetPeerId":1` + strings.Repeat("0", 200_000) + `}`)

	// Half of a surrogate pair.
	f(`{"targetPeerId":"\ud800"}`)
	f(`{"targetPeerId":"\uDFFF"}`)
	f(`{"targetPeerId":"p\ud83d"}`)
	f(`{"targetPeerId":"\ud83dp"}`)
	f(`{"targetPeerId":"\ud83d\n"}`)
	f(`{"targetPeerId":"\ud83d\u0070"}`)
	f(`{"targetPeerId":"\ud83d\\udc22"}`)
	f(`{"targetPeerId":"\ud83d\ud83d\udc22"}`)
	f(`{"targetPeerId":"\udc22\ud83d"}`)
	f(`{"targetPeerId":"\ud83d\udc22\udc22"}`)

	// Longer than a peerId can be.
	f(`{"targetPeerId":"` + strings.Repeat("p", 1025) + `"}`)
	f(`{"targetPeerId":"` + strings.Repeat(`\u0070`, 1025) + `"}`)
	f(`{"targetPeerId":"` + strings.Repeat(`\n`, 1025) + `"}`)
	f(`{"targetPeerId":"` + strings.Repeat(`\u20ac`, 342) + `"}`)
}

// Every byte at every place among eight, between neighbours that are nearly special themselves.
func TestSpecial(t *testing.T) {
	for b := range 256 {
		for place := range 8 {
			for _, neighbour := range []byte(" !#[]\x7f\x80\xa0\xa2\xdc\xff\"\\\x1f\x00") {
				eight := bytes.Repeat([]byte{neighbour}, 8)
				eight[place] = byte(b)
				want := 8
				for i, c := range eight {
					if c < ' ' || c == '"' || c == '\\' {
						want = i
						break
					}
				}
				if got := bits.TrailingZeros64(special(binary.LittleEndian.Uint64(eight))) / 8; got != want {
					t.Fatalf("the first special byte of %q: got %d, want %d", eight, got, want)
				}
			}
		}
	}
}

// A target without escapes is the text's own bytes, which the caller has; one with escapes is the Peeker's. In neither
// case can appending to the target overwrite what follows it.
func TestPeekTargetOwner(t *testing.T) {
	var p Peeker
	text := []byte(`{"targetPeerId":"peer"}`)
	_, target := p.Peek(text)
	if &target[0] != &text[len(`{"targetPeerId":"`)] {
		t.Error("a plain target is a copy, want it to alias the text")
	}
	if cap(target) != len(target) {
		t.Errorf("the capacity of the target is %d, want its length, %d", cap(target), len(target))
	}

	text = []byte(`{"targetPeerId":"\u0070eer"}`)
	before := string(text)
	if _, target = p.Peek(text); string(target) != "peer" || string(text) != before {
		t.Errorf("got %q and left %q, want %q and an untouched text", target, text, "peer")
	}
}

// TestPeekHostile feeds messages made to cost time by their length squared, or stack or memory by their depth.
func TestPeekHostile(t *testing.T) {
	const deep, n = 16 << 20, 2 << 20
	var p Peeker
	f := func(name, text string, want Route) {
		t.Helper()
		var before, after runtime.MemStats
		in := []byte(text)
		runtime.ReadMemStats(&before)
		start := time.Now()
		route, _ := p.Peek(in)
		took := time.Since(start)
		runtime.ReadMemStats(&after)

		if route != want {
			t.Errorf("%s: got %s, want %s", name, routeNames[route], routeNames[want])
		}
		if limit := 20 * time.Second; took > limit { // a hundred times what it takes, a hundredth of the square
			t.Errorf("%s: took %v, want at most %v", name, took, limit)
		}
		// One bit for each level, and that doubled and copied as it grows; or one copy of a number.
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(3*len(in)); got > limit {
			t.Errorf("%s: allocated %d bytes, want at most %d", name, got, limit)
		}
		if kept := 8 * cap(p.open.levels); kept > maxScratchBytes {
			t.Errorf("%s: keeps %d bytes of scratch, want at most %d", name, kept, maxScratchBytes)
		}
	}

	f("open arrays behind the key", `{"targetPeerId":`+strings.Repeat(`[`, deep), Broadcast)
	f("deep arrays behind the target", `{"targetPeerId":"p","a":`+strings.Repeat(`[`, deep)+strings.Repeat(`]`, deep)+`}`, Direct)
	open, shut := strings.Repeat(`[`, n), strings.Repeat(`]`, n)
	f("open arrays before the key", `{"a":`+open+`"targetPeerId":"p"}`, Broadcast)
	f("arrays as the target", `{"targetPeerId":`+open[:n/2]+shut[:n/2]+`}`, Nobody)
	f("one end too few", `{"targetPeerId":"p","a":`+open[:n/2]+shut[:n/2-1]+`}`, Broadcast)
	f("objects behind the target", `{"targetPeerId":"p","a":`+strings.Repeat(`{"":`, n/5)+`0`+strings.Repeat(`}`, n/5)+`}`, Direct)
	f("open objects", `{"targetPeerId":`+strings.Repeat(`{"targetPeerId":`, n/16), Broadcast)
	f("spaces", `{"targetPeerId":"p"`+strings.Repeat(" ", n)+`}`, Direct)
	f("quotes", `{"targetPeerId":"p","a":"`+strings.Repeat(`\"`, n/2)+`"}`, Direct)
	f("escaped backslashes as the target", `{"targetPeerId":"`+strings.Repeat(`\\`, n/2)+`"}`, Nobody)
	f("repeated keys", `{`+strings.Repeat(`"\u0074argetPeerId":0,`, n/22)+`"targetPeerId":"p"}`, Direct)
	f("a long key", `{"\u0074`+strings.Repeat("a", n)+`":0,"targetPeerId":"p"}`, Direct)
	f("a long number as the target", `{"targetPeerId":`+strings.Repeat("9", n)+`}`, Nobody)
	f("a long exponent", `{"targetPeerId":1e`+strings.Repeat("9", n)+`}`, Nobody)
}

func TestPeekAllocs(t *testing.T) {
	var p Peeker
	f := func(text string, want Route) {
		t.Helper()
		in := []byte(text)
		if route, _ := p.Peek(in); route != want { // also warms the scratch up
			t.Errorf("Peek(%q): got %s, want %s", text, routeNames[route], routeNames[want])
		}
		if allocs := testing.AllocsPerRun(100, func() { p.Peek(in) }); allocs != 0 {
			t.Errorf("Peek(%q): got %v allocations, want 0", text, allocs)
		}
	}

	f(`hello`, Broadcast)
	f(`{"type":"move","x":1,"y":2}`, Broadcast)
	f(`{"targetPeerId":"","x":"\u00e9"}`, Broadcast)
	f(`{"targetPeerId":0}`, Broadcast)
	f(`{"targetPeerId":1e-400}`, Broadcast)
	f(`{"targetPeerId":12.5}`, Nobody)
	f(`{"targetPeerId":"\ud800"}`, Nobody)
	f(`{"targetPeerId":"p","a":[[{"b":[1,2,3]}]]}`, Direct)
	f(`{"targetPeerId":"\ud83d\udc22 \u0070\n"}`, Direct)
	f(`{"target\u0050eerId":"\u0070"}`, Direct)
	f(`{"targetPeerId":"p","a":`+strings.Repeat("[", 9999)+strings.Repeat("]", 9999)+`}`, Direct)
}

func benchmarkPeek(b *testing.B, text string, want Route) {
	var p Peeker
	in := []byte(text)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if route, _ := p.Peek(in); route != want {
			b.Fatalf("got %s, want %s", routeNames[route], routeNames[want])
		}
	}
}

func BenchmarkPeekText(b *testing.B) {
	benchmarkPeek(b, strings.Repeat("a line of chat, ", 8), Broadcast)
}

func BenchmarkPeekWithoutKey(b *testing.B) {
	benchmarkPeek(b, `{"type":"move","entity":4711,"position":{"x":12.5,"y":-3.25},"state":"running","comment":"none at all"}`, Broadcast)
}

func BenchmarkPeekSmallDirect(b *testing.B) {
	benchmarkPeek(b, `{"targetPeerId":"4f1c9a52-peer","type":"move","entity":4711,"position":{"x":12.5,"y":-3.25}}`, Direct)
}

func BenchmarkPeekEscapedDirect(b *testing.B) {
	benchmarkPeek(b, `{"targetPeerId":"4f1c9a52-\u0070eer","type":"move","entity":4711,"position":{"x":12.5,"y":-3.25}}`, Direct)
}

func BenchmarkPeekBigWithoutKey(b *testing.B) {
	benchmarkPeek(b, `{"file":"`+strings.Repeat("bG9yZW0gaXBzdW0g", 256<<10/16)+`"}`, Broadcast)
}

func BenchmarkPeekBigDirect(b *testing.B) {
	benchmarkPeek(b, `{"file":"`+strings.Repeat("bG9yZW0gaXBzdW0g", 256<<10/16)+`","targetPeerId":"4f1c9a52-peer"}`, Direct)
}

// Many short tokens: the most that a byte can cost, escaped keys aside.
func BenchmarkPeekBigTokens(b *testing.B) {
	benchmarkPeek(b, `{"points":[`+string(bytes.Repeat([]byte(`{"x":1,"y":[2]},`), 256<<10/16))+`0],"targetPeerId":"4f1c9a52-peer"}`, Direct)
}
