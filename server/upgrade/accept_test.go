package upgrade

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"relaygate/server/page"
)

// pageGate answers browsers with a page.
func pageGate(secret string, origins []string) *Gate {
	g := NewGate(slices.DeleteFunc([]string{secret}, func(s string) bool { return s == "" }), origins)
	g.Page = page.Try()
	return g
}

// root is a request for "/".
func root(method string, lines ...string) string {
	return method + " / HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")
}

const (
	chromeAccept  = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
	firefoxAccept = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
)

// Who asks for HTML, and who does not. Those who do not get, byte for byte, what they
// got without a page, but for the line that tells caches what it depends on.
func TestPageFor(t *testing.T) {
	f := func(want bool, lines ...string) {
		t.Helper()
		for _, g := range []*Gate{pageGate("", nil), pageGate("s", []string{"https://a"})} {
			for _, method := range []string{"GET", "HEAD"} {
				res, body, v := answerTo(t, g, root(method, lines...))
				if got := res.Header.Get("Content-Type") == "text/html; charset=utf-8"; got != want || v.Status != 200 || v.Next != KeepAlive {
					t.Errorf("%s with %q: %+v %v; want the page: %t", method, lines, v, res.Header, want)
				}
				if want && method == "GET" && body != string(page.Try().Body) {
					t.Errorf("%q: the body is %.80q", lines, body)
				}
				if want {
					continue
				}
				before, _, _ := NewHandshaker(&Gate{secrets: g.secrets, anyOrigin: g.anyOrigin, origins: g.origins}).Answer(nil, []byte(root(method, lines...)), 0)
				now, _, _ := NewHandshaker(g).Answer(nil, []byte(root(method, lines...)), 0)
				if now = bytes.Replace(now, []byte("Vary: Accept\r\n"), nil, 1); !bytes.Equal(now, before) {
					t.Errorf("%s with %q is answered with %.200q; without a page with %.200q", method, lines, now, before)
				}
			}
		}
	}
	f(true, chromeAccept)
	f(true, firefoxAccept)
	f(true, "Accept: text/html")
	f(true, "aCCEPT:\tTEXT/Html \t;\tq=0.001")
	f(true, "Accept: text/html;q=1.000")
	f(true, "Accept: text/html;Q=1.")
	f(true, "Accept: text/html;level=1;q=0.5;q=0")
	f(true, `Accept: text/html;x="a\",;q=0";q=0.5`)
	f(true, "Accept: ,, text/plain ,,text/html,")
	f(true, "Accept: text/plain", "Accept: text/html")
	f(true, "Accept: text/html;q=0, text/html;q=0.2")
	f(true, "Accept: text/html;q=0.2, text/html;q=0")
	f(true, "Accept: application/json;q=0.8, text/html;q=0.9")
	f(true, "Accept: text/html, application/json;q=2")

	f(false)
	f(false, "Accept:")
	f(false, "Accept: */*")
	f(false, "Accept: text/*")
	f(false, "Accept: application/json")
	f(false, "Accept: application/json, text/plain, */*") // axios
	f(false, "Accept: text/html;q=0")
	f(false, "Accept: text/html;q=0.000, */*")
	f(false, "Accept: text/html;q=0;q=1")
	f(false, "Accept: text/html;q=")
	f(false, "Accept: text/html;q=.5")
	f(false, "Accept: text/html;q=1.001")
	f(false, "Accept: text/html;q=0.1234")
	f(false, "Accept: text/html;q=-1")
	f(false, "Accept: text/html;q=0.5x")
	f(false, "Accept: text/html;q =x, text/html;q=2, text/html;q")
	f(false, "Accept: text/htmlx, xtext/html, text/html/x, text /html")
	f(false, `Accept: x/y;z="text/html, text/html, "`)
	f(false, `Accept: x/y;z="\", text/html`)
	f(false, "Accept: text/html, application/json")
	f(false, "Accept: application/json;q=0.9, text/html;q=0.9")
	f(false, "Accept: application/json", "Accept: text/html;q=0.9")
	f(false, "X-Accept: text/html")
}

func TestPageAnswer(t *testing.T) {
	f := func(line, wantEncoding string) {
		t.Helper()
		res, body, _ := answerTo(t, pageGate("s", []string{"https://a"}), root("GET", chromeAccept, line, "Origin: https://a"))
		if got := res.Header.Get("Content-Encoding"); got != wantEncoding {
			t.Errorf("%q: encoding %q; want %q", line, got, wantEncoding)
		}
		if wantEncoding == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			body = string(plain)
		}
		if body != string(page.Try().Body) {
			t.Errorf("%q: the body is %.80q", line, body)
		}
		want := http.Header{
			"Vary": {"Accept, Accept-Encoding"}, "X-Content-Type-Options": {"nosniff"}, "Referrer-Policy": {"no-referrer"},
			"Cache-Control": {"no-cache"}, "Content-Type": {"text/html; charset=utf-8"}, "Access-Control-Allow-Origin": nil,
		}
		for name, values := range want {
			if got := res.Header[name]; fmt.Sprint(got) != fmt.Sprint(values) {
				t.Errorf("%q: %s is %q; want %q", line, name, got, values)
			}
		}
		if policy := res.Header["Content-Security-Policy"]; len(policy) != 1 || !strings.HasPrefix(policy[0], "default-src 'none'; style-src 'sha256-") {
			t.Errorf("%q: the policy is %q", line, policy)
		}
	}
	f("Accept-Encoding: gzip, deflate, br, zstd", "gzip")
	f("Accept-Encoding: br;q=1, GZIP;q=0.1", "gzip")
	f("Accept-Encoding: x-gzip", "gzip")
	f("Accept-Encoding: gzip;q=0", "")
	f("Accept-Encoding: gzip;q=0.0000", "")
	f("Accept-Encoding: identity, br, gzipped", "")
	f("Accept-Encoding: *", "")
	f("Accept-Encoding:", "")
	f("X: y", "")

	head, none, _ := answerTo(t, pageGate("", nil), root("HEAD", chromeAccept, "Accept-Encoding: gzip"))
	if none != "" || head.ContentLength != int64(len(page.Try().Gzip)) || head.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("HEAD: %q, %v", none, head.Header)
	}
	for _, target := range []string{"/v1", "/readyz", "/v2"} {
		res, _, _ := answerTo(t, pageGate("", nil), strings.Replace(root("GET", chromeAccept), "/", target, 1))
		if kind := res.Header.Get("Content-Type"); strings.HasPrefix(kind, "text/html") || res.Header.Get("Vary") != "" {
			t.Errorf("%s is answered with %v", target, res.Header)
		}
	}
	if _, _, v := answerTo(t, pageGate("", nil), root("POST", chromeAccept)); v.Status != 405 {
		t.Errorf("POST is answered with %d; want 405", v.Status)
	}
	if _, _, v := answerTo(t, pageGate("", nil), root("GET", chromeAccept, "Connection: close")); v.Next != Closing {
		t.Errorf("with Connection: close, %+v follows", v)
	}
}

// FuzzAccept holds takeAccept against package mime, which reads one element. Lists are
// split by the rule of quoted strings, once more.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{
		chromeAccept[len("Accept: "):], "text/html;q=0", `a/b;c="d,e;q=1\"", text/html;q=0.5`, "text/html;q=1.000,application/json;q=1",
		"text/html; q=0.3; q=1", "TEXT/HTML;charset=utf-8", `"`, ";;,,;q", `text/html;a="\`, "*/*;q=0.1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		var r httpRequest
		r.takeAccept([]byte(value))
		var want httpRequest
		for _, item := range splitQuoted(value) {
			kind, parameters, err := mime.ParseMediaType(item)
			if err != nil {
				if strings.Contains(strings.ToLower(item), "text/html") || strings.Contains(strings.ToLower(item), "application/json") {
					return // we do not look at what we do not need: see TestPageFor
				}
				continue
			}
			q := 1.0
			if text, ok := parameters["q"]; ok {
				if q, err = strconv.ParseFloat(text, 64); err != nil || q > 1 || q < 0 || !isWeight(text) {
					continue
				}
			}
			switch kind {
			case "text/html":
				want.wantsHTML = max(want.wantsHTML, weight(math.Round(1000*q)))
			case "application/json":
				want.wantsJSON = max(want.wantsJSON, weight(math.Round(1000*q)))
			}
		}
		if r.wantsHTML != want.wantsHTML || r.wantsJSON != want.wantsJSON {
			t.Errorf("%q: html %d, json %d; want %d, %d", value, r.wantsHTML, r.wantsJSON, want.wantsHTML, want.wantsJSON)
		}
	})
}

// isWeight: no more than three decimals, nothing but digits.
func isWeight(s string) bool {
	return len(s) <= 5 && strings.Trim(s, "0123456789.") == "" && s[0] != '.' && strings.IndexByte(s+".", '.') == 1
}

func splitQuoted(s string) (items []string) {
	var item strings.Builder
	inQuotes, escaped := false, false
	for _, c := range []byte(s) {
		switch {
		case escaped:
			escaped = false
		case inQuotes && c == '\\':
			escaped = true
		case c == '"':
			inQuotes = !inQuotes
		case c == ',' && !inQuotes:
			items = append(items, item.String())
			item.Reset()
			continue
		}
		item.WriteByte(c)
	}
	return append(items, item.String())
}
