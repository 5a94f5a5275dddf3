package rooms

import (
	"bytes"

	"github.com/valyala/fastjson"
)

var (
	targetKey = []byte("targetPeerId")
	parsers   fastjson.ParserPool
)

// Recipients lists who gets the message that from has sent: the members whose peer id a text message names at the top
// level of a JSON object, or else all others in the room. The list is a copy, so that no lock is held while a relay
// writes; hand it back with Release. payload is not kept.
func (t *Table[C]) Recipients(from *Member[C], text bool, payload []byte) *[]*Member[C] {
	list := t.lists.Get().(*[]*Member[C])
	if !text || !bytes.Contains(payload, targetKey) {
		*list = from.room.appendOthers(*list, from)
		return list
	}
	p := parsers.Get()
	defer parsers.Put(p)
	v, err := p.ParseBytes(payload)
	if err != nil {
		*list = from.room.appendOthers(*list, from)
		return list
	}
	if target := v.GetStringBytes("targetPeerId"); len(target) > 0 {
		*list = from.room.appendPeer(*list, target)
	} else {
		*list = from.room.appendOthers(*list, from)
	}
	return list
}

// Release takes back a list from Recipients.
func (t *Table[C]) Release(list *[]*Member[C]) {
	clear(*list)
	*list = (*list)[:0]
	t.lists.Put(list)
}

func (r *room[C]) appendOthers(dst []*Member[C], from *Member[C]) []*Member[C] {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from.at < 0 {
		return append(dst, r.members...)
	}
	dst = append(dst, r.members[:from.at]...)
	return append(dst, r.members[from.at+1:]...)
}

func (r *room[C]) appendPeer(dst []*Member[C], peerID []byte) []*Member[C] {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.byPeer != nil {
		return append(dst, r.byPeer[string(peerID)]...)
	}
	for _, m := range r.members {
		if m.peerID == string(peerID) {
			dst = append(dst, m)
		}
	}
	return dst
}
