package server

import (
	"fmt"
	"reflect"
	"syscall"
	"unsafe"

	"github.com/lesismal/nbio"
)

// newConn makes an nbio connection out of a non-blocking socket that nobody
// else owns; Engine.AddConn takes it as it is.
//
// nbio's own way is a *net.TCPConn, whose descriptor it duplicates and closes.
// That costs five more system calls per connection, a kilobyte of garbage, and
// 128 bytes for as long as it lives: the two net.Addr that it keeps. So the two
// fields that matter are set here, whose place is looked up, and their types
// checked, when the process starts (see connLayout; nbio is pinned).
func newConn(fd int, typ nbio.ConnType) *nbio.Conn {
	c := new(nbio.Conn)
	*(*int)(unsafe.Add(unsafe.Pointer(c), layout.fd)) = fd
	*(*nbio.ConnType)(unsafe.Add(unsafe.Pointer(c), layout.typ)) = typ
	return c
}

// connLayout is where nbio.Conn keeps what newConn sets: offsets in bytes.
type connLayout struct{ fd, typ uintptr }

var layout = mustConnLayout(reflect.TypeFor[nbio.Conn]())

func mustConnLayout(conn reflect.Type) connLayout {
	offset := func(name string, want reflect.Type) uintptr {
		f, ok := conn.FieldByName(name)
		if !ok || f.Type != want {
			panic(fmt.Sprintf("nbio.Conn has no field %s of type %v: this version of nbio is not the pinned one", name, want))
		}
		return f.Offset
	}
	return connLayout{
		fd:  offset("fd", reflect.TypeFor[int]()),
		typ: offset("typ", reflect.TypeFor[nbio.ConnType]()),
	}
}

// accept takes a connection from a listening socket; the new socket is
// non-blocking and not inherited by children. The peer's address is not asked
// for: few connections are ever logged, see remoteAddr.
func accept(listener int) (fd int, err error) {
	n, _, e := syscall.Syscall6(syscall.SYS_ACCEPT4, uintptr(listener), 0, 0,
		syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

// eventfd returns a non-blocking event descriptor whose counter is 0.
func eventfd() (int, error) {
	fd, _, e := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}
