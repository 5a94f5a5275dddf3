package main

import "fmt"

// place is the process that serves a connection; unknown while a roll or a drain may have sent it to either of two.
type place int32

const unknown place = 0

// heard is what one peer has received of one connection of another peer in its room.
type heard struct {
	nth  uint32 // the sender's connection, counted from 1; 0: none yet
	next uint32 // the message that has to come next; 0: none has come
	from uint32 // the first message that is owed
	past uint32 // the connection ended properly after the message before this; 0: it has not, or was cut
	owed bool   // both were open on the same process when the later of the two opened
}

// seat is a peer's place in a room, taken by one connection after the other.
type seat struct {
	open  bool
	place place
	nth   uint32     // its connection, counted from 1
	next  uint32     // number of the next message that it sends
	of    [][2]heard // by sender: its latest connection, and the one before
}

// ledger holds what peers owe each other and checks each arrival. The rule: from the moment that a peer has read its
// 101, it gets every message that is sent in its room on the same process, once and in order, until either of the two
// connections ends. After a close frame of the sender's own nothing is excused; after a cut, or a close by the relay,
// the sender's last messages are.
type ledger struct {
	rooms    [][]seat
	lost     uint64 // owed, and did not come
	doubled  uint64 // came again, or after a later one
	strange  uint64 // nobody sent it, or not to this room
	examples []string
}

const maxExamples = 8

func (l *ledger) wrong(counter *uint64, n uint32, format string, args ...any) {
	*counter += uint64(n)
	if len(l.examples) < maxExamples {
		l.examples = append(l.examples, fmt.Sprintf(format, args...))
	}
}

// addRoom adds a room of n seats and returns its number.
func (l *ledger) addRoom(n int) int32 {
	room := make([]seat, n)
	for i := range room {
		room[i].of = make([][2]heard, n)
	}
	l.rooms = append(l.rooms, room)
	return int32(len(l.rooms) - 1)
}

// open is called when a peer has read its 101.
func (l *ledger) open(r, i int32, at place) {
	room := l.rooms[r]
	me := &room[i]
	me.open, me.place, me.next = true, at, 1
	me.nth++
	for j := range room {
		other := &room[j]
		if j == int(i) {
			continue
		}
		together := other.open && other.place == at && at != unknown
		of := &other.of[i]
		l.complete(r, int32(j), i, &of[1])
		of[1] = of[0]
		of[0] = heard{nth: me.nth, from: 1, owed: together}
		me.of[j] = [2]heard{{nth: other.nth, from: other.next, owed: together}, {}}
	}
}

// close is called when a connection has ended. properly: the relay has answered the peer's own close frame, which came
// after all its messages.
func (l *ledger) close(r, i int32, properly bool) {
	room := l.rooms[r]
	me := &room[i]
	me.open = false
	for j := range room {
		me.of[j] = [2]heard{}
		if h := &room[j].of[i][0]; properly && room[j].open && h.nth == me.nth {
			h.past = me.next
		}
	}
}

// send returns the numbers of a message that i sends now.
func (l *ledger) send(r, i int32) (nth, seq uint32) {
	me := &l.rooms[r][i]
	seq = me.next
	me.next++
	return me.nth, seq
}

// arrive checks a message that i received, and reports whether it is right.
func (l *ledger) arrive(r, i, from int32, nth, seq uint32) bool {
	room := l.rooms[r]
	if from < 0 || int(from) >= len(room) || from == i || nth == 0 || nth > room[from].nth || nth == room[from].nth && seq >= room[from].next {
		l.wrong(&l.strange, 1, "room %d: peer %d got message %d.%d of peer %d, which never was sent to it", r, i, nth, seq, from)
		return false
	}
	h := &room[i].of[from][0]
	if h.nth != nth {
		h = &room[i].of[from][1]
	}
	switch {
	case h.nth != nth:
		if *h == (heard{}) && nth+1 == room[from].nth { // what a connection said that ended before i opened
			*h = heard{nth: nth, next: seq + 1}
			return true
		}
		l.wrong(&l.strange, 1, "room %d: peer %d got message %d of connection %d of peer %d, which is at %d", r, i, seq, nth, from, room[from].nth)
		return false
	case h.next == 0 && h.owed && seq > h.from:
		l.wrong(&l.lost, seq-h.from, "room %d: peer %d missed messages %d.%d to %d of peer %d, its first", r, i, nth, h.from, seq-1, from)
	case h.next != 0 && seq > h.next:
		l.wrong(&l.lost, seq-h.next, "room %d: peer %d missed messages %d.%d to %d of peer %d", r, i, nth, h.next, seq-1, from)
	case seq < h.next:
		l.wrong(&l.doubled, 1, "room %d: peer %d got message %d.%d of peer %d after %d", r, i, nth, seq, from, h.next-1)
		return false
	}
	h.next = seq + 1
	return true
}

// missing is what i has not got of a connection that ended properly, or that settle looks at.
func (h *heard) missing() uint32 {
	if want := max(h.next, h.from); h.past > want && (h.owed || h.next > 0) {
		return h.past - want
	}
	return 0
}

// complete checks that i has everything of a connection that ended properly.
func (l *ledger) complete(r, i, from int32, h *heard) {
	if n := h.missing(); n > 0 {
		l.wrong(&l.lost, n, "room %d: peer %d never got messages %d.%d to %d of peer %d", r, i, h.nth, h.past-n, h.past-1, from)
		h.next = h.past
	}
}

// each visits what every open peer has of every other. What an open connection has sent is owed for the time of the
// visit.
func (l *ledger) each(visit func(r, i, from int32, h *heard)) {
	for r, room := range l.rooms {
		for i := range room {
			for j := range room {
				if !room[i].open || i == j {
					continue
				}
				of := &room[i].of[j]
				sending := room[j].open && of[0].nth == room[j].nth
				if sending {
					of[0].past = room[j].next
				}
				visit(int32(r), int32(i), int32(j), &of[0])
				visit(int32(r), int32(i), int32(j), &of[1])
				if sending {
					of[0].past = 0
				}
			}
		}
	}
}

// outstanding is the number of messages that are owed and have not come.
func (l *ledger) outstanding() (n uint64) {
	l.each(func(_, _, _ int32, h *heard) { n += uint64(h.missing()) })
	return n
}

// settle is called when nothing is on its way: what is owed and has not come is lost.
func (l *ledger) settle() { l.each(l.complete) }

// wrongs is the number of all violations.
func (l *ledger) wrongs() uint64 { return l.lost + l.doubled + l.strange }
