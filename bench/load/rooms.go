package load

import "fmt"

// span is a room's peers, as a range of indices.
type span struct{ first, past int32 }

// build adds the rooms of a shape: peers, and the streams between them. Nothing is connected yet.
func (w *worker) build(s Shape, firstRoom uint32) error {
	if s.Rooms < 1 || s.Peers < 2 || s.Senders < 1 || s.Senders > s.Peers-s.Loose {
		return fmt.Errorf("a shape of %d rooms with %d peers, %d senders, %d loose makes no sense", s.Rooms, s.Peers, s.Senders, s.Loose)
	}
	if s.Size < MinSize || s.Size > MaxSize {
		return fmt.Errorf("messages of %d bytes: want %d to %d", s.Size, MinSize, MaxSize)
	}
	if w.shape.Size != 0 && w.shape.Size != s.Size {
		return fmt.Errorf("all rooms of a worker have messages of one size")
	}
	w.shape = s
	for r := range s.Rooms {
		room := firstRoom + uint32(r)
		first := int32(len(w.conns))
		w.rooms[room] = span{first, first + int32(s.Peers)}
		slots := s.Senders
		if s.Pattern == Star {
			slots = 2 * (s.Peers - 1)
		}
		expect := make([]uint32, slots*s.Peers)
		for p := range s.Peers {
			i := uint32(len(w.conns))
			key := [4]byte{byte(i>>24) ^ 0x5a, byte(i>>16) ^ 0xa5, byte(i>>8) ^ 0x3c, byte(i) | 1}
			w.conns = append(w.conns, conn{fd: -1, key: key, steady: true})
			w.led.members = append(w.led.members, member{room: room, loose: p >= s.Peers-s.Loose, expect: expect[p*slots : (p+1)*slots]})
		}
		w.addStreams(s, room, first)
	}
	return nil
}

// addStreams makes the streams of one room, whose peers start at first.
func (w *worker) addStreams(s Shape, room uint32, first int32) {
	switch s.Pattern {
	case Star:
		for p := int32(1); p < int32(s.Peers); p++ {
			up := w.addStream(s, room, 2*(p-1), first+p, first)
			down := w.addStream(s, room, 2*(p-1)+1, first, first+p)
			w.led.streams[up].then, w.led.streams[down].then = down, up
			w.starters = append(w.starters, up)
		}
	default:
		for p := int32(0); p < int32(s.Senders); p++ {
			target := int32(everyone)
			if s.Pattern == Direct {
				target = first + (p+1)%int32(s.Peers)
			}
			w.starters = append(w.starters, w.addStream(s, room, p, first+p, target))
		}
	}
}

func (w *worker) addStream(s Shape, room uint32, slot, sender, target int32) int32 {
	n := int32(len(w.led.streams))
	copies := int32(s.Peers - s.Loose - 1)
	if target != everyone {
		copies = 1
	}
	opcode := byte(opText)
	if s.Binary {
		opcode = opBinary
	}
	payload := appendMessage(nil, s.Size, room, uint32(n), int(target))
	w.led.streams = append(w.led.streams, stream{
		room: room, slot: slot, sender: sender, target: target, copies: copies, then: n, next: 1,
		left:  make([]int32, max(s.Window, 1)),
		stamp: newStamp(opcode, w.conns[sender].key, payload, target != everyone),
	})
	return n
}
