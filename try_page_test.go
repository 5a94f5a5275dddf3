//go:build browser

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// tryPage is the page of the public port, in a browser.
type tryPage struct{ *tab }

// openTry opens the page of r for a relay.
func openTry(t *testing.T, r *relay, relayID string) tryPage {
	t.Helper()
	p := tryPage{newTab(t)}
	p.look(1280, 1000, false)
	p.open("http://" + r.addr + "/?" + url.Values{"relayId": {relayID}}.Encode())
	p.await("document.querySelector('#about').textContent.startsWith('v1.0')")
	return p
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// in is an element of peer 0 or 1, as an expression.
func (p tryPage) in(peer int, selector string) string {
	return "document.querySelectorAll('.peer')[" + string(rune('0'+peer)) + "].querySelector(" + quote(selector) + ")"
}

func (p tryPage) click(peer int, name string) {
	p.t.Helper()
	p.eval("%s.click()", p.in(peer, "[name="+name+"]"))
}

// enter types a value, as far as the page can tell.
func (p tryPage) enter(element, value string) {
	p.t.Helper()
	p.eval("(e => { e.value = %s; e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true})) })(%s)", quote(value), element)
}

func (p tryPage) say(peer int, kind, message string) {
	p.t.Helper()
	p.enter(p.in(peer, "[name=kind]"), kind)
	p.enter(p.in(peer, "[name=message]"), message)
	p.click(peer, "send")
}

// rows are a peer's log without the times, such as "← sent text 5 B hello".
func (p tryPage) rows(peer int) string {
	p.t.Helper()
	return p.eval("[...%s.children].map(li => [...li.children].slice(1).map(s => s.textContent).join(' ')).join('\\n')", p.in(peer, "ol")).(string)
}

func (p tryPage) awaitRow(peer int, row string) {
	p.t.Helper()
	eventually(p.t, "peer "+string(rune('1'+peer))+" has the row "+row, func() bool {
		return strings.Contains("\n"+p.rows(peer)+"\n", "\n"+row+"\n")
	})
}

func (p tryPage) connectBoth(a, b string) {
	p.t.Helper()
	p.enter(p.in(0, "[name=peerId]"), a)
	p.enter(p.in(1, "[name=peerId]"), b)
	p.eval("document.querySelector('#both').click()")
	for peer := range 2 {
		p.await("%s.textContent === 'Connected'", p.in(peer, ".state"))
	}
}

func TestTryPage(t *testing.T) {
	r := startRelay(t)
	p := openTry(t, r, "a room")
	p.picture("try-fresh")
	p.connectBoth("ann", "ben")
	p.say(0, "text", "hello to all")
	p.awaitRow(0, "→ text 12 B hello to all")
	p.awaitRow(1, "← text 12 B hello to all")
	p.say(1, "direct", "only for you, é")
	const direct = `{"targetPeerId":"ann","text":"only for you, é"}`
	p.awaitRow(1, "→ direct 48 B "+direct)
	p.awaitRow(0, "← direct 48 B "+direct)
	p.say(0, "binary", "de AD,be:ef 0x00")
	p.awaitRow(0, "→ binary 5 B de ad be ef 00")
	p.awaitRow(1, "← binary 5 B de ad be ef 00")
	p.say(0, "binary", "abc")
	p.await("%s.textContent !== ''", p.in(0, ".problem"))
	p.click(1, "ping")
	p.awaitRow(1, "→ ping 4 B ping")
	p.awaitRow(1, "← pong 4 B pong")
	if rows := p.rows(0); strings.Contains(rows, "pong") || strings.Count(rows, "\n") != 3 {
		t.Errorf("peer one has %q", rows)
	}
	for name, look := range map[string][2]any{"light": {1280, false}, "dark": {1280, true}, "phone": {390, false}, "phone-dark": {390, true}} {
		p.look(look[0].(int), 1000, look[1].(bool))
		p.wantFits()
		p.picture("try-" + name)
	}
	p.look(1280, 1000, false)

	p.click(0, "toggle")
	p.awaitRow(0, "· closed 1000: ended normally")
	p.await("%s.textContent === 'Closed 1000' && %s.textContent === 'Connect'", p.in(0, ".state"), p.in(0, "[name=toggle]"))
	p.click(0, "toggle")
	p.await("%s.textContent === 'Connected'", p.in(0, ".state"))
	p.enter(p.in(0, "[name=peerId]"), "anna")
	p.click(0, "again")
	eventually(t, "it is another peer", func() bool { return strings.Contains(p.rows(0), "connected as anna in ") })
	p.say(1, "direct", "still there?") // the target has followed the field
	p.awaitRow(0, `← direct 45 B {"targetPeerId":"anna","text":"still there?"}`)
	p.wantQuiet()
}

// TestTryPageCloses: the page shows the code and the reason with which the relay closes, and what may have
// been the reason of a refusal.
func TestTryPageCloses(t *testing.T) {
	r := startRelay(t, "MAX_MESSAGE_BYTES=64", "CONNECTION_CHECK_INTERVAL=2s")
	p := openTry(t, r, "r")
	p.connectBoth("ann", "ben")
	p.say(0, "text", strings.Repeat("x", 65))
	p.awaitRow(0, "· closed 1009: message too big")
	p.awaitRow(1, "→ pong 4 B pong") // the heartbeat is answered
	p.click(1, "answers")
	p.awaitRow(1, "· closed 1001: heartbeat timeout")

	p.picture("try-closed")
	p.wantQuiet()

	r = startRelay(t, "MAX_ROOM_PEERS=1")
	p.open("http://" + r.addr)
	p.click(0, "toggle")
	p.await("%s.textContent === 'Connected'", p.in(0, ".state"))
	p.click(1, "toggle")
	p.awaitRow(1, "· refused, or not reached: closed 1006. A browser does not say why.")
	p.awaitRow(1, "· most likely a limit is reached, or ALLOWED_ORIGINS does not list http://"+r.addr)
	p.await("%s.textContent === 'Refused'", p.in(1, ".state"))
	p.wantQuiet("WebSocket connection to")
}

func TestTryPageSecret(t *testing.T) {
	r := startRelay(t, "ADMIN_SECRET=hunter2")
	p := openTry(t, r, "r")
	p.await("!document.querySelector('#secretField').hidden && document.querySelector('#about').textContent.includes('needs a secret')")
	p.click(0, "toggle")
	p.awaitRow(0, "· most likely the secret is missing, or a limit is reached, or ALLOWED_ORIGINS does not list http://"+r.addr)
	p.enter("document.querySelector('#secret')", "not a token")
	p.click(0, "toggle")
	p.awaitRow(0, "· the secret has a character that no browser can send")
	p.picture("try-secret")
	p.enter("document.querySelector('#secret')", "hunter2")
	p.connectBoth("ann", "ben")
	p.say(0, "text", "hello")
	p.awaitRow(1, "← text 5 B hello")
	if link := p.eval("document.querySelector('#link').href + location.href").(string); strings.Contains(link, "hunter2") {
		t.Errorf("the secret is in the address %s", link)
	}
	p.wantQuiet("WebSocket connection to")
}

// TestTryPageShowsTextOnly: whatever comes from the address, the fields, another peer or the relay is text.
func TestTryPageShowsTextOnly(t *testing.T) {
	const evil = `</script><img src=x onerror="window.hit=1"><svg onload="window.hit=1">"'` + "`${window.hit=1}`"
	r := startRelay(t)
	p := openTry(t, r, evil)
	if got := p.eval("document.querySelector('#relayId').value"); got != evil {
		t.Errorf("relayId is %q", got)
	}
	p.connectBoth(evil+"1", evil+"2")
	p.say(0, "text", evil)
	p.awaitRow(1, fmt.Sprintf("← text %d B %s", len(evil), evil))
	p.say(1, "direct", evil)
	stranger, _, err := websocket.Dial(t.Context(), "ws://"+r.addr+"/v1?"+url.Values{"relayId": {evil}, "peerId": {evil}}.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.CloseNow()
	for _, text := range []string{`{"targetPeerId":` + quote(evil+"1") + `}`, "javascript:window.hit=1", "\u202e\x00\x1b[31m" + evil} {
		if err := stranger.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stranger.Close(4321, evil); err != nil {
		t.Error(err)
	}
	eventually(t, "all of it is shown", func() bool { return strings.Contains(p.rows(0), "\x1b[31m") })
	if got := p.eval("[window.hit ?? 'none', document.querySelectorAll('img, script:not([type])').length, document.querySelectorAll('svg').length].join()"); got != "none,0,2" {
		t.Errorf("something of it was run or became an element: %v", got)
	}
	p.look(390, 844, false)
	p.wantFits()
	p.wantQuiet()
}

// TestTryPageFlood: neither many nor large messages make the page grow, also while it is in the background,
// where nothing is drawn.
func TestTryPageFlood(t *testing.T) {
	r := startRelay(t)
	p := openTry(t, r, "r")
	p.connectBoth("ann", "ben")
	c, _, err := websocket.Dial(t.Context(), "ws://"+r.addr+"/v1?relayId=r&peerId=flooder", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for peer := range 2 { // "connected" is drawn, and no drawing is due
		p.await("%s.childElementCount === 1", p.in(peer, "ol"))
	}
	p.eval(`(() => {
  const make = document.createElement.bind(document)
  window.made = 0
  document.createElement = name => { window.made += name === 'li'; return make(name) }
  window.drawings = []
  window.requestAnimationFrame = draw => window.drawings.push(draw)
})()`)
	const messages = 5_000
	for range messages {
		if err := c.Write(t.Context(), websocket.MessageText, []byte("again and again")); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Write(t.Context(), websocket.MessageText, []byte(strings.Repeat("x", 1<<20))); err != nil {
		t.Fatal(err)
	}
	p.await("%s.textContent === '0 sent, 5,001 received'", p.in(0, ".count"))
	p.await("%s.textContent === '0 sent, 5,001 received'", p.in(1, ".count"))
	if made := p.eval("(drawings.forEach(draw => draw()), made)"); made != 600. {
		t.Errorf("%v rows were made for two logs, want 300 for each", made)
	}
	p.awaitRow(0, "← text 1.0 MiB "+strings.Repeat("x", 1000)+" … 1,047,576 more characters")
	if n := p.eval("%s.childElementCount", p.in(0, "ol")); n != 300. {
		t.Errorf("%v rows, want 300", n)
	}
	if got := p.eval("%s.textContent", p.in(0, ".dropped")); got != "4,702 older rows not shown" { // all, and "connected"
		t.Errorf("it says %q", got)
	}
	p.picture("try-flood")
	p.wantQuiet()
}

// TestTryPageLink: what a phone reads from the QR code is the link, and the link opens the same relay. The
// keyboard alone is enough to send.
func TestTryPageLink(t *testing.T) {
	r := startRelay(t)
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	p := tryPage{newTab(t)}
	p.look(1280, 1000, true)
	p.open("http://relay.test:" + port + "/")
	relayID := p.eval("document.querySelector('#relayId').value").(string)
	link := "http://relay.test:" + port + "/?relayId=" + relayID
	if got := p.eval("document.querySelector('#link').href + ' ' + location.href"); len(relayID) != 9 || got != link+" "+link {
		t.Errorf("relayId is %q, the link and the address are %v", relayID, got)
	}
	clip := p.eval("(({x, y, width, height}) => ({x, y, width, height, scale: 3}))(document.querySelector('#qr').getBoundingClientRect())").(map[string]any)
	picture, err := png.Decode(bytes.NewReader(p.shot(clip)))
	if err != nil {
		t.Fatal(err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(picture)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := qrcode.NewQRCodeReader().Decode(bitmap, nil); err != nil || read.GetText() != link {
		t.Errorf("the code is read as %v, %v; want %s", read, err, link)
	}
	p.clickAt("#copy") // a script may not copy without a click
	p.await("document.querySelector('#copy').textContent === 'Copied'")
	p.picture("try-link")
	p.eval("document.querySelector('#random').click()")
	if got := p.eval("document.querySelector('#link').href"); got == link {
		t.Error("another relay has the same link")
	}

	p.open(link)
	p.await("document.querySelector('#relayId').value === %s", quote(relayID))
	p.eval("document.querySelector('#relayId').focus()")
	p.eval("document.querySelector('.fields').requestSubmit()")
	for peer := range 2 {
		p.await("%s.textContent === 'Connected'", p.in(peer, ".state"))
	}
	p.eval("%s.focus()", p.in(0, "[name=message]"))
	p.call("Input.insertText", map[string]any{"text": "typed"})
	p.press("Enter")
	p.awaitRow(1, "← text 5 B typed")
	p.wantQuiet()
}
