//go:build browser

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// testPage opens two WebSockets with a secret, lets them exchange a broadcast, a direct
// message and a ping, asks for /v1 across origins, and posts what it saw.
const testPage = `<!doctype html><script>
const relay = %q, secret = %q, seen = [];
const done = text => fetch('/result', {method: 'POST', body: text});
const fail = what => done('failed: ' + what + ' after ' + seen);
function open(id, onmessage) {
  return new Promise(resolve => {
    const ws = new WebSocket('ws://' + relay + '/v1?relayId=a%%20room&peerId=' + encodeURIComponent(id), [secret]);
    ws.onerror = () => fail('error of ' + id);
    ws.onmessage = e => onmessage(e.data);
    ws.onopen = () => { if (ws.protocol !== secret) fail('protocol'); resolve(ws); };
  });
}
(async () => {
  let next;
  const heard = () => new Promise(resolve => { next = resolve; });
  const note = id => data => { seen.push(id + ' ' + data); next(); };
  const a = await open('peer a', note('a')), b = await open('é+b', note('b'));
  const step = async action => { const h = heard(); action(); await h; };
  await step(() => b.send('ping'));
  await step(() => a.send('to all'));
  await step(() => b.send(JSON.stringify({targetPeerId: 'peer a', n: 1})));
  await step(() => a.send(JSON.stringify({targetPeerId: 'é+b', n: 2})));
  const version = await (await fetch('http://' + relay + '/v1')).json();
  done(seen.join('; ') + '; public ' + version.isPublic);
})().catch(e => fail(e));
</script>`

func TestBrowser(t *testing.T) {
	t.Parallel()
	const secret = "s3cret-token"
	results := make(chan string, 1)
	mux := http.NewServeMux()
	web := httptest.NewServer(mux)
	defer web.Close()
	r := startRelay(t, "ADMIN_SECRET="+secret, "ALLOWED_ORIGINS="+web.URL)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, testPage, r.addr, secret)
	})
	mux.HandleFunc("POST /result", func(_ http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		select {
		case results <- string(b):
		default: // the first one counts
		}
	})
	browse(t, web.URL)
	select {
	case got := <-results:
		const want = `b pong; b to all; a {"targetPeerId":"peer a","n":1}; b {"targetPeerId":"é+b","n":2}; public false`
		if got != want {
			t.Errorf("the page saw %s\nwant %s", got, want)
		}
	case <-time.After(2 * time.Minute):
		t.Error("the page has not reported")
	}
}

// TestClientInBrowser: README.md's client stays for several heartbeats, and comes
// back after its connection is cut and further attempts failed.
func TestClientInBrowser(t *testing.T) {
	t.Parallel()
	r := startRelay(t, clientEnviron...)
	g := startGateway(t, r)
	script := readmeClient(t, g.Addr().String())
	heard := make(chan string, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><script>console.log = text => fetch('/heard', {method: 'POST', body: text})\n%s</script>", script)
	})
	mux.HandleFunc("POST /heard", func(_ http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		heard <- string(b)
	})
	web := httptest.NewServer(mux)
	defer web.Close()
	w := newWitness(t, r)
	browse(t, web.URL)
	r.awaitConnected(t, 2)
	w.awaitHeartbeats()
	say(t, w.c, "are you there?")
	wantHeard(t, "the page", heard, "are you there?")
	g.cut(2)
	r.awaitConnected(t, 3)
	say(t, w.c, "and again?")
	wantHeard(t, "the page", heard, "and again?")
	wantNoneEvicted(t, r)
}

// browse opens a page in a headless browser until the test ends. It returns the directory of the browser's
// profile.
func browse(t *testing.T, url string) (profile string) {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("apt-get install chromium: %v", err)
	}
	profile = t.TempDir()
	c := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--remote-debugging-port=0", "--host-resolver-rules=MAP relay.test 127.0.0.1", "--user-data-dir="+profile, url)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // the group: it starts children
		_ = c.Wait()
	})
	return profile
}
