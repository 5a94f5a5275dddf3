package upgrade

// What a request accepts: whether the page is the answer to GET / instead of the greeting, and whether it may
// be compressed.

// weight is a qvalue of RFC 9110 §12.4.2 in thousandths: 0, not acceptable, to 1,000.
type weight uint16

const fullWeight weight = 1000

// takeAccept records what one Accept line says of the types that GET / can be answered with. Ranges such as
// */* name none of them: most clients that send these want the JSON, as every version 1 client does.
func (r *httpRequest) takeAccept(value []byte) {
	for more := true; more; {
		var item, mediaType []byte
		item, value, more = cutOutsideQuotes(value, ',')
		mediaType, q, ok := parseWeighted(item)
		switch {
		case !ok:
		case equalFold(mediaType, "text/html"):
			r.wantsHTML = max(r.wantsHTML, q)
		case equalFold(mediaType, "application/json"):
			r.wantsJSON = max(r.wantsJSON, q)
		}
	}
}

// takeAcceptEncoding records whether one Accept-Encoding line names gzip. RFC 9110 §8.4.1.3: "x-gzip" is to be
// read as "gzip".
func (r *httpRequest) takeAcceptEncoding(value []byte) {
	for more := true; more; {
		var item []byte
		item, value, more = cutOutsideQuotes(value, ',')
		if coding, q, ok := parseWeighted(item); ok && (equalFold(coding, "gzip") || equalFold(coding, "x-gzip")) {
			r.takesGzip = r.takesGzip || q > 0
		}
	}
}

// asksForPage reports whether the client has named text/html and does not like JSON as much.
func (r *httpRequest) asksForPage() bool { return r.wantsHTML > r.wantsJSON }

// parseWeighted splits an element of Accept or Accept-Encoding into its name and weight, which is 1,000 if it
// has none. Other parameters are not looked at. It returns false if the weight is malformed.
func parseWeighted(item []byte) (name []byte, q weight, ok bool) {
	name, rest, more := cutOutsideQuotes(item, ';')
	for more {
		var parameter []byte
		parameter, rest, more = cutOutsideQuotes(rest, ';')
		if key, value, _ := cutByte(trimBlanks(parameter), '='); equalFold(trimBlanks(key), "q") {
			q, ok = parseWeight(value)
			return trimBlanks(name), q, ok
		}
	}
	return trimBlanks(name), fullWeight, true
}

// parseWeight parses a qvalue (RFC 9110 §12.4.2):
//
//	qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )
func parseWeight(b []byte) (q weight, ok bool) {
	if len(b) == 0 || len(b) > len("0.000") || b[0] != '0' && b[0] != '1' || len(b) > 1 && b[1] != '.' {
		return 0, false
	}
	q = weight(b[0]-'0') * fullWeight
	unit := fullWeight / 10
	for _, c := range b[min(2, len(b)):] {
		if !isDigit(c) {
			return 0, false
		}
		q += weight(c-'0') * unit
		unit /= 10
	}
	return q, q <= fullWeight
}

// cutOutsideQuotes is cutByte for a separator that is not within a quoted string (RFC 9110 §5.6.4).
func cutOutsideQuotes(b []byte, sep byte) (before, after []byte, found bool) {
	quoted := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && c == sep:
			return b[:i], b[i+1:], true
		}
	}
	return b, nil, false
}
