package rooms

import (
	"fmt"
	"slices"
	"testing"
)

func (t *Table[C]) size() (rooms, members int) {
	for i := range t.shards {
		rooms += len(t.shards[i].rooms)
		members += len(t.shards[i].appendMembers(nil))
	}
	return rooms, members
}

func TestRecipients(t *testing.T) {
	for _, size := range []int{4, indexFrom - 1, indexFrom, 100} {
		table := NewTable[string]()
		var all []*Member[string]
		var names []string
		for i := range size {
			names = append(names, fmt.Sprint("p", i))
			all = append(all, table.Join("r", names[i], names[i]))
		}
		table.Join("other", "p1", "elsewhere")

		f := func(from int, text bool, payload string, want ...string) {
			t.Helper()
			list := table.Recipients(all[from], text, []byte(payload))
			defer table.Release(list)
			var got []string
			for _, m := range *list {
				got = append(got, m.Conn)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("room of %d, %s: recipients %v, want %v", size, payload, got, want)
			}
		}
		f(0, true, `{"targetPeerId":"p1"}`, "p1")
		f(0, true, ` {"a":[1,{"targetPeerId":"p2"}], "targetPeerId" : "p3"}`, "p3")
		f(0, true, `{"targetPeerId":"p0"}`, "p0")
		f(0, true, `{"targetPeerId":"nobody"}`)

		others := names[1:]
		f(0, true, `hello`, others...)
		f(0, false, `{"targetPeerId":"p1"}`, others...)
		f(0, true, `{"targetPeerId":""}`, others...)
		f(0, true, `{"targetPeerId":null}`, others...)
		f(0, true, `{"a":{"targetPeerId":"p1"}}`, others...)
		f(0, true, `["targetPeerId","p1"]`, others...)
		f(0, true, `{"targetPeerId":"p1"`, others...)

		table.Leave(all[1])
		table.Leave(all[1])
		f(0, true, `{"targetPeerId":"p1"}`)
		f(0, true, `hello`, names[2:]...)
		all[1] = table.Join("r", "p2", "twin")
		f(0, true, `{"targetPeerId":"p2"}`, "p2", "twin")
		table.Leave(all[2])
		f(0, true, `{"targetPeerId":"p2"}`, "twin")
		for _, m := range all {
			table.Leave(m)
		}
		if rooms, members := table.size(); rooms != 1 || members != 1 {
			t.Errorf("after all have left: %d rooms with %d members, want the other room with its one", rooms, members)
		}
	}
}

func BenchmarkRecipients(b *testing.B) {
	table := NewTable[int]()
	from := table.Join("r", "p0", 0)
	for i := range 9 {
		table.Join("r", fmt.Sprint("p", i+1), i+1)
	}
	f := func(name, payload string) {
		b.Run(name, func(b *testing.B) {
			message := []byte(payload)
			b.ReportAllocs()
			for b.Loop() {
				table.Release(table.Recipients(from, true, message))
			}
		})
	}
	f("broadcast", `{"payload":{"a":[1,2,3]}}`)
	f("direct", `{"targetPeerId":"p7","payload":{"a":[1,2,3]}}`)
}
