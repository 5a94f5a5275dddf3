//go:build node

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nodeClient is a Node process that runs README.md's client.
type nodeClient struct {
	in    io.Writer   // its keyboard
	heard chan string // its lines
}

func startNodeClient(t *testing.T, script, name string) nodeClient {
	t.Helper()
	args := []string{script, name}
	if kind, err := exec.Command("node", "-p", "typeof WebSocket").Output(); err != nil {
		t.Fatal(err)
	} else if strings.TrimSpace(string(kind)) == "undefined" {
		args = append([]string{"--experimental-websocket"}, args...)
	}
	c := exec.Command("node", args...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	n := nodeClient{in, make(chan string, 16)}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-done
		_ = c.Wait()
	})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n.heard <- lines.Text()
		}
	}()
	return n
}

// TestClientInNode: two of README.md's clients stay for several heartbeats, hear each
// other, and come back after their connections are cut and further attempts failed.
func TestClientInNode(t *testing.T) {
	t.Parallel()
	r := startRelay(t, clientEnviron...)
	g := startGateway(t, r)
	script := filepath.Join(t.TempDir(), "client.js")
	if err := os.WriteFile(script, []byte(readmeClient(t, g.Addr().String())), 0o600); err != nil {
		t.Fatal(err)
	}
	alice, bob, w := startNodeClient(t, script, "alice"), startNodeClient(t, script, "bob"), newWitness(t, r)
	r.awaitConnected(t, 3)
	w.awaitHeartbeats()
	talk := func() {
		t.Helper()
		say(t, w.c, "is everybody there?") // who hears it can speak
		wantHeard(t, "alice", alice.heard, "is everybody there?")
		wantHeard(t, "bob", bob.heard, "is everybody there?")
		fmt.Fprintln(alice.in, `{"targetPeerId":"bob","text":"to bob alone"}`)
		wantHeard(t, "bob", bob.heard, `{"targetPeerId":"bob","text":"to bob alone"}`)
		fmt.Fprintln(bob.in, "to everyone else")
		wantHeard(t, "alice", alice.heard, "to everyone else")
		wantHeard(t, "the witness", w.heard, "to everyone else")
	}
	talk()
	g.cut(4)
	r.awaitConnected(t, 5)
	talk()
	wantNoneEvicted(t, r)
}
