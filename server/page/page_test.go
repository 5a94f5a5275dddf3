package page

import (
	"bytes"
	"compress/gzip"
	"io"
	"regexp"
	"strings"
	"testing"
)

// TestDocuments: a page is one document with the style and the script whose hashes stand in its policy, asks
// for nothing elsewhere, and has no handlers or styles in attributes, which the policy would keep from working.
func TestDocuments(t *testing.T) {
	f := func(d *Document) {
		t.Helper()
		body := string(d.Body)
		style, script := between(t, body, "<style>", "</style>"), between(t, body, `<script type="module">`, "</script>")
		for _, part := range []string{"style-src " + hash(style) + ";", "script-src " + hash(script) + ";"} {
			if !strings.Contains(d.Header, part) {
				t.Errorf("%q is not in %q", part, d.Header)
			}
		}
		if len(style) < 1000 || len(script) < 1000 {
			t.Errorf("a style of %d bytes, a script of %d", len(style), len(script))
		}
		forbidden := regexp.MustCompile(`(?i)\son[a-z]+=|\sstyle=|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|@import|url\(`)
		if found := forbidden.FindString(body); found != "" {
			t.Errorf("it has %q", found)
		}
		elsewhere := strings.NewReplacer("http://www.w3.org/2000/svg", "", "http://www.w3.org/1999/xhtml", "").Replace(body)
		if found := regexp.MustCompile(`https?://[^$']\S*`).FindString(elsewhere); found != "" {
			t.Errorf("it names %q", found)
		}
		for line := range strings.Lines(d.Header) {
			if name, value, ok := strings.Cut(line, ": "); !ok || name == "" || !strings.HasSuffix(value, "\r\n") {
				t.Errorf("header line %q", line)
			}
		}
		z, err := gzip.NewReader(bytes.NewReader(d.Gzip))
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := io.ReadAll(z); err != nil || !bytes.Equal(unpacked, d.Body) {
			t.Errorf("compressed is another page: %v", err)
		}
	}
	f(Try())
	f(Dashboard())
}

func between(t *testing.T, body, from, to string) string {
	t.Helper()
	if strings.Count(body, from) != 1 || strings.Count(body, to) != 1 {
		t.Fatalf("%s is not there once", from)
	}
	_, after, _ := strings.Cut(body, from)
	inside, _, _ := strings.Cut(after, to)
	return inside
}
