package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

var errNoOrigin = errors.New("is no origin; write what location.origin is on the page, such as https://example.com")

// parseOrigin returns the origin s in the one spelling that browsers send (HTML standard, "serialization of
// an origin"). Requests are compared with it byte by byte, so any other spelling would let nobody in.
// Capitals, a default port and a slash at the end are normalised, since their meaning is clear. Anything else
// is an error that says what to write. "*" is returned as it is.
func parseOrigin(s string) (string, error) {
	if s == "*" || strings.EqualFold(s, "null") { // sandboxed pages, files
		return strings.ToLower(s), nil
	}
	switch {
	case strings.ContainsAny(s, "\"'"): // some readers of environment files leave them in
		return "", errors.New("holds quotation marks; no origin has them")
	case strings.ContainsAny(s, " \t\r\n"):
		return "", errors.New("holds a blank; origins are separated by commas")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		host, err := webHost(s, "")
		if err != nil {
			return "", err
		}
		return "", fmt.Errorf("has no scheme; write https://%s or http://%[1]s", host)
	}
	rest = strings.TrimSuffix(rest, "/")
	switch scheme = strings.ToLower(scheme); scheme {
	case "http", "https":
		host, err := webHost(rest, scheme)
		if err != nil {
			return "", err
		}
		return scheme + "://" + host, nil
	case "ws", "wss":
		scheme = strings.Replace(scheme, "ws", "http", 1)
		rest, _, _ = strings.Cut(rest, "/")
		host, err := webHost(rest, scheme)
		if err != nil {
			return "", err
		}
		return "", fmt.Errorf("is no origin: what counts is where the page comes from; write %s://%s if it comes from there", scheme, host)
	}
	return appOrigin(scheme, rest)
}

// webHost returns the host and port of an origin whose scheme is http or https.
func webHost(s, scheme string) (string, error) {
	switch i := strings.IndexAny(s, "/?#@"); {
	case strings.Contains(s, "*"):
		return "", errors.New("is a pattern, which is not supported: list each origin, or * alone for any")
	case strings.ContainsFunc(s, func(r rune) bool { return r > '~' }):
		return "", errors.New("is not ASCII; browsers send such a host in Punycode (xn--…): write what location.origin is on the page")
	case i >= 0 && s[i] != '@' && scheme != "":
		if host, err := webHost(s[:i], scheme); err == nil {
			return "", fmt.Errorf("has more than scheme, host and port; write %s://%s", scheme, host)
		}
		return "", errNoOrigin
	case i >= 0:
		return "", errNoOrigin
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port = s[:i], s[i+1:]
		n, err := strconv.Atoi(port)
		if !isNumber(port) || err != nil || n < 1 || n > maxPort {
			return "", fmt.Errorf("has a port that is not from 1 to %d", maxPort)
		}
		port = ":" + strconv.Itoa(n)
		if scheme == "http" && n == 80 || scheme == "https" && n == 443 {
			port = ""
		}
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err == nil && addr.Is4() && host == addr.String(), isHostName(host):
		return strings.ToLower(host) + port, nil
	case err == nil && addr.Is6() && addr.Zone() == "" && host == "["+strings.Trim(host, "[]")+"]":
		return "[" + ipv6Host(addr) + "]" + port, nil
	}
	return "", errNoOrigin
}

// ipv6Host spells a as browsers do: they never write the last 32 bits as an IPv4 address.
func ipv6Host(a netip.Addr) string {
	if b := a.As16(); a.Is4In6() {
		return fmt.Sprintf("::ffff:%x:%x", int(b[12])<<8|int(b[13]), int(b[14])<<8|int(b[15]))
	}
	return a.String()
}

// appOrigin returns the origin of a browser extension or of an app around a browser: chrome-extension://…,
// capacitor://localhost, file://. Only its characters are checked, since each scheme has its own rules for
// hosts.
func appOrigin(scheme, host string) (string, error) {
	if scheme == "" || !isLetter(scheme[0]) || host == "" && scheme != "file" {
		return "", errNoOrigin
	}
	for _, c := range []byte(scheme) {
		if !isLetter(c) && !strings.ContainsRune("0123456789+-.", rune(c)) {
			return "", errNoOrigin
		}
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c > '~' || strings.IndexByte("/?#@*\"\\<>", c) >= 0 {
			return "", errNoOrigin
		}
	}
	return scheme + "://" + host, nil
}
