package server

import (
	"bytes"
	"testing"
)

// TestPanicReleasesInput: what was kept of a peer's input is not counted any more when handling it has failed.
func TestPanicReleasesInput(t *testing.T) {
	first := maskedFrame(0x89, []byte("hello"))
	for name, parts := range map[string][2][]byte{
		"the end of a frame":        {first[:3], append(first[3:], closeFrame(1000, "")...)},
		"the end of a close frame":  {closeFrame(1000, "")[:5], closeFrame(1000, "")[5:]},
		"what an earlier turn left": {nil, append(bytes.Repeat(first, 2*turnWork), closeFrame(1000, "")...)},
	} {
		t.Run(name, func(t *testing.T) {
			s, stop := unwatched(t)
			defer stop()
			victim := open(t, s, "r", "victim")
			p := peerOf(t, s, "victim")
			wheel := s.wheels[phaseFinishing]
			p.inLoop(func(*loop) { s.wheels[phaseFinishing] = nil }) // which panics at the close frame
			restore := func() { p.inLoop(func(*loop) { s.wheels[phaseFinishing] = wheel }) }
			defer restore()
			go discard(victim)
			for _, part := range parts {
				victim.send(part)
				p.inLoop(func(*loop) {})
			}
			eventually(t, "there is a panic", func() bool { return s.stats.panics.Load() > 0 })
			restore()
			wantNothingHeld(t, s)
		})
	}
}
