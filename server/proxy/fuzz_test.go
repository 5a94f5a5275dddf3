package proxy

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/pires/go-proxyproto"
)

// oracle is Parse by go-proxyproto, for a header that has come whole. Its differences: it reports a missing
// part as an error, and refuses PROXY with an unknown family.
func oracle(in []byte) (size int, client netip.AddrPort, err error) {
	from := bytes.NewReader(in)
	r := bufio.NewReaderSize(from, 16<<10)
	h, err := proxyproto.Read(r)
	if err != nil {
		return 0, client, err
	}
	size = len(in) - from.Len() - r.Buffered()
	if h.Command == proxyproto.LOCAL {
		return size, client, nil
	}
	switch a := h.SourceAddr.(type) {
	case *net.TCPAddr:
		client = a.AddrPort()
	case *net.UDPAddr:
		client = a.AddrPort()
	default:
		return size, client, nil
	}
	return size, netip.AddrPortFrom(client.Addr().Unmap(), client.Port()), nil
}

// FuzzParse compares Parse with go-proxyproto. It also cuts the input at every byte: an outcome other than
// "incomplete" must not change when more comes.
func FuzzParse(f *testing.F) {
	proxyproto.MaxV2HeaderSize = MaxSize - fixed2
	for in := range right {
		f.Add([]byte(in))
		f.Add([]byte(in + "GET / HTTP/1.1\r\n\r\n"))
		f.Add([]byte(in[:len(in)-1]))
	}
	for in := range wrong {
		f.Add([]byte(in))
		f.Add([]byte(in + "\r\n"))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		in = in[:min(len(in), 2*MaxSize)]
		size, client, err := Parse(in)
		wantSize, wantClient, wantErr := oracle(in)
		unspecified := err == nil && size > 0 && in[0] == '\r' && in[12] == proxy2 && in[13] == family0
		switch {
		case unspecified:
			if client.IsValid() || wantErr == nil {
				t.Errorf("Parse(%q) = %d, %v; go-proxyproto says %v", in, size, client, wantErr)
			}
		case size != wantSize || client != wantClient || (size > 0) != (wantErr == nil):
			t.Errorf("Parse(%q) = %d, %v, %v; go-proxyproto says %d, %v, %v", in, size, client, err, wantSize, wantClient, wantErr)
		}
		decided := false
		for n := range in {
			s, c, e := Parse(in[:n])
			if decided = decided || s > 0 || e != nil; decided && (s != size || c != client || e != err) {
				t.Errorf("Parse(%q) = %d, %v, %v; with more bytes %d, %v, %v", in[:n], s, c, e, size, client, err)
			}
			if !decided && n >= MaxSize {
				t.Errorf("Parse(%q) wants more than %d bytes", in[:n], MaxSize)
			}
		}
	})
}
