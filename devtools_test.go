//go:build browser

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// tab is a page in a headless browser, driven by the Chrome DevTools Protocol.
type tab struct {
	t *testing.T
	c *websocket.Conn

	mu         sync.Mutex
	calls      int
	answers    map[int]chan answer
	complaints []string
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// newTab starts a browser with an empty page, which lives until the test ends.
func newTab(t *testing.T) *tab {
	t.Helper()
	profile := browse(t, "about:blank")
	var port string
	eventually(t, "the browser names its port", func() bool {
		b, err := os.ReadFile(filepath.Join(profile, "DevToolsActivePort"))
		port, _, _ = strings.Cut(string(b), "\n")
		return err == nil && port != ""
	})
	var target string
	eventually(t, "the browser has a page", func() bool {
		res, err := http.Get("http://127.0.0.1:" + port + "/json/list")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		var targets []struct{ Type, WebSocketDebuggerURL string }
		_ = json.NewDecoder(res.Body).Decode(&targets)
		for _, at := range targets {
			if at.Type == "page" {
				target = at.WebSocketDebuggerURL
			}
		}
		return target != ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	b := &tab{t: t, c: c, answers: make(map[int]chan answer)}
	go b.read()
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil)
	}
	return b
}

// read takes answers, and what the console says.
func (b *tab) read() {
	for {
		_, message, err := b.c.Read(context.Background())
		if err != nil {
			return // the end of the test
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			answer
		}
		_ = json.Unmarshal(message, &m)
		b.mu.Lock()
		switch m.Method {
		case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded":
			b.complaints = append(b.complaints, string(m.Params))
		}
		if waiter := b.answers[m.ID]; waiter != nil {
			delete(b.answers, m.ID)
			waiter <- m.answer
		}
		b.mu.Unlock()
	}
}

func (b *tab) call(method string, params any) json.RawMessage {
	b.t.Helper()
	got := make(chan answer, 1)
	b.mu.Lock()
	b.calls++
	id := b.calls
	b.answers[id] = got
	b.mu.Unlock()
	if params == nil {
		params = struct{}{}
	}
	message, err := json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.c.Write(ctx, websocket.MessageText, message); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case a := <-got:
		if a.Error != nil {
			b.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		return a.Result
	case <-ctx.Done():
		b.t.Fatalf("%s: no answer", method)
		return nil
	}
}

// eval runs an expression in the page and returns its value, as JSON has it. Promises are awaited.
func (b *tab) eval(format string, args ...any) (value any) {
	b.t.Helper()
	expression := fmt.Sprintf(format, args...)
	var got struct {
		Result struct {
			Value any
		}
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	raw := b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true})
	if err := json.Unmarshal(raw, &got); err != nil || got.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s %v", expression, raw, err)
	}
	return got.Result.Value
}

// await polls until an expression is true.
func (b *tab) await(format string, args ...any) {
	b.t.Helper()
	expression := fmt.Sprintf(format, args...)
	eventually(b.t, expression, func() bool {
		is, _ := b.eval("Boolean(%s)", expression).(bool)
		return is
	})
}

func (b *tab) open(url string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": url})
	b.await("document.readyState === 'complete' && location.href !== 'about:blank'")
}

// look sets the window's size in CSS pixels and whether the user likes it dark.
func (b *tab) look(width, height int, dark bool) {
	b.t.Helper()
	b.call("Emulation.setScrollbarsHidden", map[string]any{"hidden": true})
	scheme := map[bool]string{true: "dark", false: "light"}[dark]
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}})
}

// press presses a key that has no character.
func (b *tab) press(key string) {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key})
	}
}

// clickAt clicks with the mouse.
func (b *tab) clickAt(selector string) {
	b.t.Helper()
	at := b.eval("(({x, y, width, height}) => [x + width / 2, y + height / 2])(document.querySelector(%s).getBoundingClientRect())", quote(selector)).([]any)
	for _, kind := range []string{"mousePressed", "mouseReleased"} {
		b.call("Input.dispatchMouseEvent", map[string]any{"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1})
	}
}

// shot returns the page as a PNG or, if it is not nil, a part of it: x, y, width, height and scale.
func (b *tab) shot(clip map[string]any) []byte {
	b.t.Helper()
	params := map[string]any{"captureBeyondViewport": true}
	if clip != nil {
		params["clip"] = clip
	}
	var shot struct{ Data []byte }
	if err := json.Unmarshal(b.call("Page.captureScreenshot", params), &shot); err != nil {
		b.t.Fatal(err)
	}
	return shot.Data
}

// picture writes the page as a PNG to the directory that RELAYGATE_PICTURES names, if it is set.
func (b *tab) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("RELAYGATE_PICTURES")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), b.shot(nil), 0o600); err != nil {
		b.t.Error(err)
	}
}

// wantQuiet wants nothing in the console but lines that contain one of expected. That includes what the
// Content-Security-Policy has kept from loading or running.
func (b *tab) wantQuiet(expected ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
lines:
	for _, line := range b.complaints {
		for _, e := range expected {
			if strings.Contains(line, e) {
				continue lines
			}
		}
		b.t.Errorf("the console has %s", line)
	}
}

// wantFits wants no element to be wider than the window.
func (b *tab) wantFits() {
	b.t.Helper()
	wide := b.eval(`(() => {
  const width = document.documentElement.clientWidth
  const names = document.documentElement.scrollWidth > width ? ['the document'] : []
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect()
    if (box.width > 1 && (box.right > width + 0.5 || box.left < -0.5)) names.push(e.tagName + '.' + e.className)
  }
  return names.join(' ')
})()`)
	if wide != "" {
		b.t.Errorf("wider than the window: %v", wide)
	}
}
