package main

import "testing"

// TestLedger goes through what may happen between two peers, and what of it breaks the promise.
func TestLedger(t *testing.T) {
	const a, b = 0, 1
	f := func(name string, lost, doubled, strange uint64, story func(l *ledger)) {
		t.Helper()
		l := &ledger{}
		l.addRoom(2)
		story(l)
		if l.lost != lost || l.doubled != doubled || l.strange != strange {
			t.Errorf("%s: lost %d, doubled %d, strange %d; want %d, %d, %d; %q",
				name, l.lost, l.doubled, l.strange, lost, doubled, strange, l.examples)
		}
	}
	both := func(l *ledger) { l.open(0, a, 1); l.open(0, b, 1) }
	say := func(l *ledger, n int) {
		for range n {
			l.send(0, a)
		}
	}
	hear := func(l *ledger, nth uint32, seqs ...uint32) {
		for _, s := range seqs {
			l.arrive(0, b, a, nth, s)
		}
	}
	f("all came", 0, 0, 0, func(l *ledger) { both(l); say(l, 3); hear(l, 1, 1, 2, 3); l.settle() })
	f("none came", 3, 0, 0, func(l *ledger) { both(l); say(l, 3); l.settle() })
	f("lost once, settled twice", 3, 0, 0, func(l *ledger) { both(l); say(l, 3); l.settle(); l.settle() })
	f("the first is missing", 1, 0, 0, func(l *ledger) { both(l); say(l, 3); hear(l, 1, 2, 3); l.settle() })
	f("one amid is missing", 1, 0, 0, func(l *ledger) { both(l); say(l, 3); hear(l, 1, 1, 3); l.settle() })
	f("the last is missing", 1, 0, 0, func(l *ledger) { both(l); say(l, 3); hear(l, 1, 1, 2); l.settle() })
	f("doubled", 0, 1, 0, func(l *ledger) { both(l); say(l, 2); hear(l, 1, 1, 1, 2); l.settle() })
	f("out of order", 1, 1, 0, func(l *ledger) { both(l); say(l, 2); hear(l, 1, 2, 1); l.settle() })
	f("never sent", 0, 0, 1, func(l *ledger) { both(l); say(l, 1); hear(l, 1, 1, 2); l.settle() })
	f("of a connection to come", 0, 0, 1, func(l *ledger) { both(l); say(l, 1); hear(l, 2, 1); l.send(0, b); hear(l, 1, 1) })
	f("its own", 0, 0, 1, func(l *ledger) { both(l); l.send(0, b); l.arrive(0, b, b, 1, 1) })
	f("sent before it came", 0, 0, 0, func(l *ledger) {
		l.open(0, a, 1)
		say(l, 5)
		l.open(0, b, 1)
		say(l, 2)
		hear(l, 1, 5, 6, 7)
		l.settle()
	})
	f("missed when it came", 1, 0, 0, func(l *ledger) {
		l.open(0, a, 1)
		say(l, 5)
		l.open(0, b, 1)
		say(l, 2)
		hear(l, 1, 7)
		l.settle()
	})
	f("on different processes", 0, 0, 0, func(l *ledger) { l.open(0, a, 1); l.open(0, b, 2); say(l, 3); l.settle() })
	f("on unknown processes", 0, 0, 0, func(l *ledger) { l.open(0, a, unknown); l.open(0, b, unknown); say(l, 3); l.settle() })
	f("on unknown processes, which turn out the same", 1, 0, 0, func(l *ledger) {
		l.open(0, a, unknown)
		l.open(0, b, unknown)
		say(l, 3)
		hear(l, 1, 2)
		l.settle()
	})
	f("cut: the last are excused", 0, 0, 0, func(l *ledger) { both(l); say(l, 3); hear(l, 1, 1); l.close(0, a, false); l.settle() })
	f("left properly: the last are not", 2, 0, 0, func(l *ledger) { both(l); say(l, 3); hear(l, 1, 1); l.close(0, a, true); l.settle() })
	f("left properly, and back twice", 2, 0, 0, func(l *ledger) {
		both(l)
		say(l, 3)
		hear(l, 1, 1)
		for range 2 {
			l.close(0, a, true)
			l.open(0, a, 1)
		}
	})
	f("the recipient left", 0, 0, 0, func(l *ledger) { both(l); say(l, 3); l.close(0, b, true); l.open(0, b, 1); l.settle() })
	f("late ones of the connection before", 0, 0, 0, func(l *ledger) {
		both(l)
		say(l, 2)
		l.close(0, a, true)
		l.open(0, a, 1)
		say(l, 1)
		hear(l, 2, 1)
		hear(l, 1, 1, 2)
		l.settle()
	})
	f("of a connection that ended before it came", 0, 0, 0, func(l *ledger) {
		l.open(0, a, 1)
		say(l, 2)
		l.close(0, a, true)
		l.open(0, b, 1)
		hear(l, 1, 1, 2)
		l.open(0, a, 1)
		say(l, 1)
		hear(l, 2, 1)
		l.settle()
	})
}
