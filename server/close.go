package server

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// closeCause says why a connection ended. Its text is used as a log field and a counter's label.
type closeCause uint8

const (
	closedGone        closeCause = iota // the socket closed or broke
	closedByPeer                        // a close frame came
	closedProtocol                      // RFC 6455 was violated
	closedUTF8                          // text was not UTF-8
	closedTooBig                        // over MAX_MESSAGE_BYTES
	closedSlow                          // over MAX_QUEUE_BYTES
	closedHeartbeat                     // nothing received for a whole interval
	closedHandshake                     // no complete request in time
	closedHTTP                          // an HTTP answer ended the connection
	closedRate                          // over MESSAGE_RATE, BYTE_RATE or ROOM_BYTE_RATE for too long
	closedMemory                        // it held most when MEMORY_BUDGET was used up
	closedProxyHeader                   // PROXY header malformed or missing
	closedUntrusted                     // PROXY header from an address that is not in TRUSTED_PROXIES
	closedOverLimit                     // over a limit by so much that not even a refusal was sent
	closedDrain                         // the process was asked to stop
	closedPanic                         // a bug in relaygate

	closeCauses
)

var closeCauseText = [closeCauses]string{
	closedGone:        "gone",
	closedByPeer:      "peer",
	closedProtocol:    "protocol",
	closedUTF8:        "utf8",
	closedTooBig:      "message_too_big",
	closedSlow:        "slow",
	closedHeartbeat:   "heartbeat_timeout",
	closedHandshake:   "handshake_timeout",
	closedHTTP:        "http",
	closedRate:        "rate",
	closedMemory:      "memory",
	closedProxyHeader: "proxy_header",
	closedUntrusted:   "untrusted_proxy",
	closedOverLimit:   "over_limit",
	closedDrain:       "drain",
	closedPanic:       "panic",
}

func (c closeCause) String() string { return closeCauseText[c] }

// ending describes a close that the server starts: the cause to count, and the code and reason for the peer's
// close frame.
type ending struct {
	cause  closeCause
	code   ws.StatusCode
	reason string // at most 123 bytes of UTF-8
}

// statusTryAgainLater is 1013 of the IANA registry of close codes.
const statusTryAgainLater ws.StatusCode = 1013

func protocolError(reason string) *ending {
	return &ending{closedProtocol, ws.StatusProtocolError, reason}
}

var (
	closingHeartbeat     = &ending{closedHeartbeat, ws.StatusGoingAway, "heartbeat timeout"}
	closingDrain         = &ending{closedDrain, ws.StatusGoingAway, "server is stopping"}
	closingRate          = &ending{closedRate, ws.StatusPolicyViolation, "sent too fast for too long"}
	closingMemory        = &ending{closedMemory, statusTryAgainLater, "the relay is short of memory"}
	closingTooBig        = &ending{closedTooBig, ws.StatusMessageTooBig, "message too big"}
	closingTextNotUTF8   = &ending{closedUTF8, ws.StatusInvalidFramePayloadData, "text is not UTF-8"}
	closingReasonNotUTF8 = &ending{closedUTF8, ws.StatusInvalidFramePayloadData, "close reason is not UTF-8"}
	closingCloseLength   = protocolError("close payload of one byte")
	closingCloseCode     = protocolError("invalid close code")
)

// parseClose checks the payload of a peer's close frame and returns its code, or 0 if it has none.
func parseClose(payload []byte) (ws.StatusCode, *ending) {
	switch len(payload) {
	case 0:
		return 0, nil
	case 1:
		// RFC 6455 §5.5.1: "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned
		// integer".
		return 0, closingCloseLength
	}
	code := binary.BigEndian.Uint16(payload)
	if !validCloseCode(code) {
		return 0, closingCloseCode
	}
	if !utf8.Valid(payload[2:]) {
		return 0, closingReasonNotUTF8
	}
	return ws.StatusCode(code), nil
}

// validCloseCode tells whether a peer may send code. Valid are the codes of RFC 6455 §7.4, the registered
// 1012 to 1014, and 3000 to 4999. Invalid are 1005 and 1006, which "MUST NOT be set as a status code in a
// Close control frame", and 1004, which is reserved.
func validCloseCode(code uint16) bool {
	if code >= 1000 && code <= 1014 {
		return code != 1004 && code != 1005 && code != 1006
	}
	return code >= 3000 && code <= 4999
}
