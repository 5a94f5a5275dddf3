package server

import (
	"slices"
	"strings"
	"testing"
)

// What a browser sends is taken as it is, what can only mean that is brought into
// its spelling.
func TestOrigin(t *testing.T) {
	f := func(want string, spellings ...string) {
		t.Helper()
		for _, s := range append(spellings, want) {
			if got, err := parseOrigin(s); got != want || err != nil {
				t.Errorf("parseOrigin(%q) = %q, %v; want %q", s, got, err, want)
			}
		}
	}
	f("*")
	f("null", "NULL", "Null")
	f("https://a.com", "https://a.com/", "https://A.com", "HTTPS://a.COM/", "https://a.com:443", "https://a.com:0443/")
	f("http://a.com", "http://a.com:80", "http://A.com:80/")
	f("http://a.com:443", "http://a.com:0443")
	f("https://a.com:80")
	f("http://localhost:3000", "http://LocalHost:3000/")
	f("https://a.com.")
	f("https://my_app-1.a.com")
	f("https://xn--bcher-kva.example", "https://XN--bcher-kva.example")
	f("http://127.0.0.1:8080")
	f("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000", "http://[::0001]:3000/")
	f("https://[2001:db8::1]", "https://[2001:DB8:0::1]:443")
	f("https://[::ffff:7f00:1]", "https://[::ffff:127.0.0.1]")
	f("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "chrome-extension://abcdefghijklmnopabcdefghijklmnop/")
	f("moz-extension://5a1f8f3e-7b1c-4b8e-9f0a-1d2c3b4a5968")
	f("capacitor://localhost")
	f("app://.")
	f("file://", "file:///")
}

// What no browser sends, and has no single meaning, is refused with what to write.
func TestOriginRefused(t *testing.T) {
	f := func(want string, items ...string) {
		t.Helper()
		for _, s := range items {
			if got, err := parseOrigin(s); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("parseOrigin(%q) = %q, %v; want an error with %q", s, got, err, want)
			}
		}
	}
	f("has no scheme; write https://example.com or http://example.com", "example.com", "EXAMPLE.com")
	f("has no scheme; write https://localhost:3000 or http://localhost:3000", "localhost:3000")
	f("has no scheme; write https://[::1] or http://[::1]", "[::1]")
	f("has more than scheme, host and port; write https://a.com", "https://a.com/app", "https://a.com:443/?x", "https://A.com#x", "https://a.com//")
	f("is no origin: what counts is where the page comes from; write https://a.com if", "wss://a.com", "WSS://a.com/v1")
	f("write http://a.com:8080 if", "ws://a.com:8080")
	f("is a pattern, which is not supported", "https://*.a.com", "*.a.com", "http://localhost:*", "**")
	f("Punycode", "https://bücher.example", "bücher.example", "https://пример.example")
	f("holds a blank; origins are separated by commas", "https://a.com https://b.com", "https://a .com")
	f("holds quotation marks", `"*"`, `"https://a.com"`, "'https://a.com'")
	f("has a port that is not from 1 to 65535", "https://a.com:0", "https://a.com:65536", "https://a.com:", "https://a.com:x", "http://[::1]:99999999999999999999")
	f("is no origin; write what location.origin is on the page",
		"https://", "https:///", "://a.com", "https://me@a.com", "https://a..com", "https://-a.com", "http://127.1", "http://127.0.0.256",
		"http://::1", "http://[::1", "http://::1]", "http://[127.0.0.1]", "http://[fe80::1%25eth0]", "https://a%2ecom",
		"1app://a", "a_b://c", "app://", "app://a/b", "app://a?b", "chrome-extension://a*", "https://"+strings.Repeat("a", 64))
}

// ALLOWED_ORIGINS: each wrong item is a fault of its own.
func TestConfigOrigins(t *testing.T) {
	c, err := ParseConfig([]string{"ALLOWED_ORIGINS= https://A.example/ ,null,http://b:80"})
	if want := []string{"https://a.example", "null", "http://b"}; err != nil || !slices.Equal(c.AllowedOrigins, want) {
		t.Errorf("origins %q, %v; want %q", c.AllowedOrigins, err, want)
	}
	_, err = ParseConfig([]string{"ALLOWED_ORIGINS=a.example,https://b.example,https://c.example/x"})
	const want = `ALLOWED_ORIGINS: "a.example" has no scheme; write https://a.example or http://a.example
ALLOWED_ORIGINS: "https://c.example/x" has more than scheme, host and port; write https://c.example`
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}
