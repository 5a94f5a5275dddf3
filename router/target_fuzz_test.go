package router

import (
	"encoding/json"
	"regexp"
	"testing"
	"unicode/utf8"
)

// escapes matches every escape of a valid JSON string, the two halves of a surrogate pair as one.
var escapes = regexp.MustCompile(`\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|(?s:.))`)

var surrogate = regexp.MustCompile(`^\\u[dD][89a-fA-F]..$`)

// peekByEncodingJSON is what Peek has to do, by encoding/json. That differs from JSON.parse in two ways: it puts U+FFFD in
// the place of a lone surrogate, and refuses a number that is too big for a float64.
func peekByEncodingJSON(text []byte) (Route, string) {
	var members map[string]json.RawMessage // keeps the last of repeated keys
	if json.Unmarshal(text, &members) != nil {
		return Broadcast, ""
	}
	value := members[string(targetKey)]
	if len(value) == 0 {
		return Broadcast, ""
	}
	switch value[0] {
	case '{', '[', 't':
		return Nobody, ""
	case 'n', 'f':
		return Broadcast, ""
	case '"':
		var target string
		if err := json.Unmarshal(value, &target); err != nil {
			panic(err)
		}
		if target == "" {
			return Broadcast, ""
		}
		for _, escape := range escapes.FindAll(value, -1) {
			if surrogate.Match(escape) {
				return Nobody, ""
			}
		}
		if len(target) > maxTargetBytes {
			return Nobody, ""
		}
		return Direct, target
	}
	var number float64
	if json.Unmarshal(value, &number) == nil && number == 0 {
		return Broadcast, ""
	}
	return Nobody, ""
}

// tooDeepForOracle errs towards true: brackets in strings count as well. encoding/json takes no more than 10,000 levels.
func tooDeepForOracle(text []byte) bool {
	opening := 0
	for _, c := range text {
		if c == '{' || c == '[' {
			opening++
		}
	}
	return opening > 10_000
}

func FuzzPeek(f *testing.F) {
	f.Add(`hello`)
	f.Add(`{}`)
	f.Add(` {"targetPeerId" : "p" , "a":[1,-2.5e+3,true,false,null,{},[],{"b":"c"}]} `)
	f.Add(`{"targetPeerId":"p","targetPeerId":"q"}`)
	f.Add(`{"a":{"targetPeerId":"p"},"targetPeerId":{"targetPeerId":[]}}`)
	f.Add(`{"\u0074\u0061\u0072\u0067\u0065\u0074\u0050\u0065\u0065\u0072\u0049\u0064":"\u0070"}`)
	f.Add(`{"target\u0050eerId":"\"\\\/\b\f\n\r\t"}`)
	f.Add(`{"targetPeerId":"\ud83d\udc22\uDBFF\uDFFF"}`)
	f.Add(`{"targetPeerId":"\ud83d\ud83d\udc22"}`)
	f.Add(`{"targetPeerId":"\udc22\\ud83d"}`)
	f.Add(`{"targetPeerI\ud800\u0064":"p"}`)
	f.Add(`{"targetPeerId":"żółw 🐢 ` + "\u2028\x7f" + `"}`)
	f.Add(`{"targetPeerId":"p` + "\x1f" + `"}`)
	f.Add("\ufeff" + `{"targetPeerId":"p"}`)
	f.Add(`{"targetPeerId":-0.0e-0}`)
	f.Add(`{"targetPeerId":2.4703282292062327e-324}`)
	f.Add(`{"targetPeerId":1e400}`)
	f.Add(`{"targetPeerId":0.000000000000001e-300}`)
	f.Add(`{"targetPeerId":01}`)
	f.Add(`{"targetPeerId":NaN}`)
	f.Add(`{"targetPeerId":"p","a":[[[[[[{"b":[[[{}]]]}]]]]]]}`)
	f.Add(`{"targetPeerId":"p","a":[[}]}`)
	f.Add(`{"targetPeerId":"p",}`)

	var p Peeker // one for all, so that what one text leaves behind can show in the next
	f.Fuzz(func(t *testing.T, text string) {
		in := []byte(text)
		if !utf8.Valid(in) || tooDeepForOracle(in) {
			return // the contract speaks of valid UTF-8, and encoding/json gives up at some depth
		}
		wantRoute, wantTarget := peekByEncodingJSON(in)
		route, target := p.Peek(in)
		if route != wantRoute || string(target) != wantTarget {
			t.Errorf("Peek(%q): got %s %q, want %s %q", text, routeNames[route], target, routeNames[wantRoute], wantTarget)
		}
		if string(in) != text {
			t.Errorf("Peek(%q) changed the text to %q", text, in)
		}
	})
}
