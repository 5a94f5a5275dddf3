package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"relaygate/server"
)

// configured is a relay with a CONFIG_FILE.
type configured struct {
	*relay
	path    string
	reloads int
}

func startConfigured(t *testing.T, settings string, environ ...string) *configured {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relaygate.conf")
	if err := os.WriteFile(path, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return &configured{relay: startRelay(t, append(environ, "CONFIG_FILE="+path)...), path: path}
}

// reload replaces the settings, and returns the log's line about it.
func (r *configured) reload(t *testing.T, settings string) (line map[string]any) {
	t.Helper()
	if err := os.WriteFile(r.path, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	r.reloads++
	eventually(t, "it says what has changed", func() bool {
		n := 0
		for text := range strings.SplitSeq(r.logs.text(), "\n") {
			var fields map[string]any
			if json.Unmarshal([]byte(text), &fields) != nil {
				continue
			}
			if msg, _ := fields["msg"].(string); strings.HasPrefix(msg, "reloaded") || strings.HasPrefix(msg, "not reloaded") {
				line = fields
				n++
			}
		}
		return n == r.reloads
	})
	return line
}

// wantChanges compares the line of a reload with "variable: old -> new" in changed and needs_restart.
func wantChanges(t *testing.T, line map[string]any, changed, pending map[string]any) {
	t.Helper()
	if fmt.Sprint(line["changed"]) != fmt.Sprint(changed) || fmt.Sprint(line["needs_restart"]) != fmt.Sprint(pending) || line["msg"] != "reloaded" {
		t.Errorf("the log says %v; want changed %v, needs_restart %v", line, changed, pending)
	}
}

type fields = map[string]any

// status tries an upgrade with a secret.
func (r *relay) status(t *testing.T, secret string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, "ws://"+r.addr+"/v1?relayId=visit&peerId=p", &websocket.DialOptions{Subprotocols: []string{secret}})
	if res == nil {
		t.Fatal(err)
	}
	if err == nil {
		_ = c.CloseNow()
	}
	return res.StatusCode
}

// chat keeps a pair talking, message by message, until stop is closed. Each must arrive.
func (r *relay) chat(t *testing.T, relayID, secret string, stop <-chan struct{}, running *sync.WaitGroup) (messages *atomic.Int64) {
	t.Helper()
	a, b := r.join(t, relayID, "a", secret), r.join(t, relayID, "b", secret)
	messages = new(atomic.Int64)
	running.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			text := fmt.Sprint("message ", n)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			err := a.Write(ctx, websocket.MessageText, []byte(text))
			var got []byte
			if err == nil {
				_, got, err = b.Read(ctx)
			}
			cancel()
			if err != nil || string(got) != text {
				t.Errorf("relay %s: got %q, %v; want %q", relayID, got, err, text)
				return
			}
			messages.Add(1)
		}
	})
	return messages
}

// TestReload: a secret is replaced beside load, a rate is set and taken back, and a faulty file changes nothing.
func TestReload(t *testing.T) {
	for _, loops := range []string{"EVENT_LOOPS=1", "EVENT_LOOPS=2"} {
		t.Run(loops, func(t *testing.T) {
			r := startConfigured(t, "ADMIN_SECRET=old\n", loops)
			stop := make(chan struct{})
			var running sync.WaitGroup
			defer running.Wait()
			defer close(stop)
			var counts []*atomic.Int64
			for i := range 4 {
				counts = append(counts, r.chat(t, fmt.Sprint("room", i), "old", stop, &running))
			}
			goOn := func() {
				t.Helper()
				for i, n := range counts {
					before := n.Load()
					eventually(t, fmt.Sprint("pair ", i, " goes on"), func() bool { return n.Load() > before+20 || t.Failed() })
				}
			}
			f := func(secret string, want int) {
				t.Helper()
				if got := r.status(t, secret); got != want {
					t.Errorf("the secret %q is answered with %d, want %d", secret, got, want)
				}
			}
			goOn()
			wantChanges(t, r.reload(t, "ADMIN_SECRET=new,old"), fields{"ADMIN_SECRET": "*** -> ***,***"}, fields{})
			f("old", 101)
			f("new", 101)
			f("other", 401)
			goOn()
			wantChanges(t, r.reload(t, "ADMIN_SECRET=new"), fields{"ADMIN_SECRET": "***,*** -> ***"}, fields{})
			f("old", 401)
			f("new", 101)
			goOn()

			wantChanges(t, r.reload(t, "ADMIN_SECRET=new\nMESSAGE_RATE=100\nMESSAGE_BURST=1\nPORT=1\nMAX_CONNECTIONS_PER_IP=5"),
				fields{"MESSAGE_RATE": "0 -> 100", "MESSAGE_BURST": "0 -> 1"},
				fields{"MAX_CONNECTIONS_PER_IP": "0 -> 5"}) // PORT is in the environment
			before, began := counts[0].Load(), time.Now()
			goOn()
			if n, most := counts[0].Load()-before, int64(time.Since(began).Seconds()*100)+3; n > most {
				t.Errorf("%d messages in %v, want at most 100 per second", n, time.Since(began))
			}

			line := r.reload(t, "ADMIN_SECRET=newer\nMESSAGE_RATE=0\nMAX_ROOM_PEERS=-1\nROOM_PEERS=1\nLOG_LEVEL=loud\n")
			var faults []string
			if all, ok := line["faults"].([]any); ok {
				for _, x := range all {
					faults = append(faults, strings.ReplaceAll(x.(string), r.path, "FILE"))
				}
			}
			if want := []string{
				`CONFIG_FILE: FILE:4: "ROOM_PEERS" is no setting; the nearest is MAX_ROOM_PEERS`,
				`LOG_LEVEL: "loud" is none of debug, info, warn and error (FILE:5)`,
				`MAX_ROOM_PEERS: -1 is not from 0 to 1000000000 (FILE:3)`,
			}; !slices.Equal(faults, want) || line["level"] != "error" {
				t.Errorf("the log says %v; want the faults %q", line, want)
			}
			f("newer", 401)
			f("new", 101)
			before, began = counts[0].Load(), time.Now()
			goOn()
			if n, most := counts[0].Load()-before, int64(time.Since(began).Seconds()*100)+3; n > most {
				t.Errorf("%d messages in %v: the rate holds no more", n, time.Since(began))
			}
			wantChanges(t, r.reload(t, "ADMIN_SECRET=new"), fields{"MESSAGE_RATE": "100 -> 0", "MESSAGE_BURST": "1 -> 0"}, fields{})
			goOn()
			if s := r.logs.text(); strings.Contains(s, `"new`) || strings.Contains(s, "old\"") {
				t.Errorf("the log holds a secret: %s", s)
			}
		})
	}
}

// TestReloadSecretFile: a secret that is in a file of its own is replaced, too.
func TestReloadSecretFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put := func(secret string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("old\n")
	r := startConfigured(t, "# nothing\n", "ADMIN_SECRET_FILE="+path)
	put("new\n")
	if status := r.status(t, "old"); status != http.StatusSwitchingProtocols {
		t.Errorf("status %d before SIGHUP, want 101", status)
	}
	wantChanges(t, r.reload(t, "# nothing\n"), fields{"ADMIN_SECRET": "*** -> ***"}, fields{})
	if status := r.status(t, "old"); status != http.StatusUnauthorized {
		t.Errorf("status %d after SIGHUP, want 401", status)
	}
	put("")
	if line := r.reload(t, "# nothing\n"); !strings.Contains(fmt.Sprint(line["faults"]), path+" is empty") {
		t.Errorf("the log says %v, want that %s is empty", line, path)
	}
	if status := r.status(t, "new"); status != http.StatusSwitchingProtocols {
		t.Errorf("status %d, want 101", status)
	}
}

// TestReloadOfTheProcess: the log's level, the times of the drain, and the defaults that depend on the host.
func TestReloadOfTheProcess(t *testing.T) {
	r := startConfigured(t, "# nothing\n", "MEMORY_BUDGET=50%", "DRAIN_PERIOD=") // the others unset it
	wantChanges(t, r.reload(t, "# nothing, again\n"), fields{}, fields{})
	if r.join(t, "room", "a"); strings.Contains(r.logs.text(), "peer connected") {
		t.Error("debug lines at the level info")
	}
	wantChanges(t, r.reload(t, "LOG_LEVEL=debug\nDRAIN_PERIOD=10ms\nMAX_CONNECTIONS=1000\nLOG_FORMAT=console"), fields{
		"LOG_LEVEL": "info -> debug", "DRAIN_PERIOD": "5s -> 10ms", "MAX_CONNECTIONS": fmt.Sprint(r.maxConnections(t), " -> 1000"),
	}, fields{"LOG_FORMAT": "json -> console"})
	r.join(t, "room", "b")
	eventually(t, "debug lines", func() bool { return strings.Contains(r.logs.text(), "peer connected") })
	wantChanges(t, r.reload(t, "LOG_LEVEL=error\nDRAIN_PERIOD=10ms"), fields{
		"LOG_LEVEL": "debug -> error", "MAX_CONNECTIONS": fmt.Sprint("1000 -> ", r.maxConnections(t)),
	}, fields{})
	r.join(t, "room", "c")
	wantChanges(t, r.reload(t, "DRAIN_PERIOD=10ms"), fields{"LOG_LEVEL": "error -> info"}, fields{})
	if n := strings.Count(r.logs.text(), "peer connected"); n != 1 {
		t.Errorf("%d debug lines of peers, want that of b alone: a and c came at other levels", n)
	}
	if status := r.stop(t, syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
	if line := r.logLine(t, "draining"); line["period"] != "10ms" {
		t.Errorf("the drain begins with %v, want a period of 10ms", line)
	}
	settings, _ := r.logLine(t, "stopped")["settings"].(map[string]any)
	if settings["DRAIN_PERIOD"] != "10ms" || settings["LOG_LEVEL"] != "info" {
		t.Errorf("stopped with the settings %v, want the last ones", settings)
	}
}

// TestReloadKeepsSecret: a line that is lost from the file must not let everybody in.
func TestReloadKeepsSecret(t *testing.T) {
	r := startConfigured(t, "ADMIN_SECRET=one\n")
	for _, settings := range []string{"# nothing\n", "ADMIN_SECRET=\n"} {
		if line := r.reload(t, settings); !strings.HasPrefix(line["msg"].(string), "not reloaded") || !strings.Contains(fmt.Sprint(line["faults"]), "ADMIN_SECRET: ") {
			t.Errorf("%q: %v; want that it is not reloaded", settings, line)
		}
	}
	res, err := http.Get("http://" + r.addr + "/v1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); !strings.Contains(string(b), `"isPublic":false`) {
		t.Errorf("GET /v1 answers %s", b)
	}
}

// maxConnections returns what MAX_CONNECTIONS was at the start.
func (r *relay) maxConnections(t *testing.T) string {
	t.Helper()
	settings, _ := r.logLine(t, "started")["settings"].(map[string]any)
	return fmt.Sprintf("%.0f", settings["MAX_CONNECTIONS"])
}

// TestHangupWhileStopping changes nothing, and ends nothing.
func TestHangupWhileStopping(t *testing.T) {
	r := startConfigured(t, "DRAIN_DELAY=500ms\n")
	r.join(t, "room", "a")
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it drains", func() bool { return strings.Contains(r.logs.text(), `"draining"`) })
	if status := r.stop(t, syscall.SIGHUP); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}
}

// TestReloadMarks: README.md marks the settings that -help marks.
func TestReloadMarks(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	inReadme, inHelp := make(map[string]bool), make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| ((?:`[A-Z_]+`(?:, )?)+)( ↻)? \\|").FindAllStringSubmatch(string(readme), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			inReadme[strings.Trim(name, "`")] = row[2] != ""
		}
	}
	for _, line := range regexp.MustCompile(`(?m)^  ([A-Z_]+) \(default: .*\)( \*)?$`).FindAllStringSubmatch(server.Usage(), -1) {
		inHelp[line[1]] = line[2] != ""
	}
	if !maps.Equal(inReadme, inHelp) || len(inHelp) < 30 {
		t.Errorf("README.md has the settings, and marks:\n%v\n-help:\n%v", inReadme, inHelp)
	}
}
