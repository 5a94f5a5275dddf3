// Package page holds the pages that people open in a browser: one document each, with its style and script
// inside, and nothing from elsewhere. What a page asks for is up to its script.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

//go:embed common.css try dashboard
var files embed.FS

// Document is a page, ready to be sent. It is static, and shared by all who send it.
type Document struct {
	Body   []byte // UTF-8
	Gzip   []byte // Body, compressed
	Header string // header lines, each with CRLF, that belong to the page; those on its length and type are not among them
}

// Try is the page of the public port on which the relay can be tried out.
var Try = sync.OnceValue(func() *Document { return assemble("try", "qr.js", "peer.js", "script.js") })

// Dashboard is the page for operators. It shows what /history.json of the same server tells.
var Dashboard = sync.OnceValue(func() *Document { return assemble("dashboard", "chart.js", "script.js") })

// ServeHTTP makes a Document an http.Handler.
func (d *Document) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for line := range strings.SplitSeq(strings.TrimSuffix(d.Header, "\r\n"), "\r\n") {
		name, value, _ := strings.Cut(line, ": ")
		w.Header().Set(name, value)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(d.Body)))
	_, _ = w.Write(d.Body)
}

// assemble makes a page of dir's index.html: it fills in the style, which is common.css and dir's style.css,
// and the script, which is dir's scripts one after another.
func assemble(dir string, scripts ...string) *Document {
	style := "\n" + read("common.css") + read(dir+"/style.css")
	script := "\n"
	for _, name := range scripts {
		script += read(dir + "/" + name)
	}
	body := strings.NewReplacer(
		"<style></style>", "<style>"+style+"</style>",
		`<script type="module"></script>`, `<script type="module">`+script+"</script>",
	).Replace(read(dir + "/index.html"))
	return &Document{
		Body:   []byte(body),
		Gzip:   compress(body),
		Header: header(policy(style, script)),
	}
}

func read(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(b)
}

func compress(body string) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // fails only for an unknown level
	_, _ = w.Write([]byte(body))                          // a bytes.Buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// policy returns a Content-Security-Policy. The page's own style and script, named by their hashes, are all
// that the browser applies and runs. The page talks only to where it comes from, by HTTP and WebSocket. Only
// its icon is a picture. With Trusted Types, text cannot become markup by mistake.
func policy(style, script string) string {
	return "default-src 'none'" +
		"; style-src " + hash(style) +
		"; script-src " + hash(script) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" +
		"; require-trusted-types-for 'script'; trusted-types 'none'"
}

// hash names an inline style or script (CSP level 3 §6.7.3.3).
func hash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// header returns the lines that belong to a page whatever answers with it. A cache must ask for the page each
// time, since another version of the process may serve another one.
func header(policy string) string {
	return "Content-Security-Policy: " + policy + "\r\n" +
		"X-Content-Type-Options: nosniff\r\n" +
		"Referrer-Policy: no-referrer\r\n" +
		"Cache-Control: no-cache\r\n"
}
