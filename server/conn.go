package server

import (
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/lesismal/nbio"
	"golang.org/x/sys/unix"
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

// connLayout is where nbio.Conn keeps what this file needs: offsets in bytes.
// The last is an offset in what poller points to.
type connLayout struct{ fd, typ, mux, closed, isWAdded, poller, epfd uintptr }

var layout = mustConnLayout(reflect.TypeFor[nbio.Conn]())

func mustConnLayout(conn reflect.Type) connLayout {
	offset := func(in reflect.Type, name string, want reflect.Type) uintptr {
		f, ok := in.FieldByName(name)
		if !ok || f.Type != want {
			panic(fmt.Sprintf("%v has no field %s of type %v: this version of nbio is not the pinned one", in, name, want))
		}
		return f.Offset
	}
	poller, ok := conn.FieldByName("p")
	if !ok || poller.Type.Kind() != reflect.Pointer {
		panic("nbio.Conn has no pointer p to its poller: this version of nbio is not the pinned one")
	}
	return connLayout{
		fd:       offset(conn, "fd", reflect.TypeFor[int]()),
		typ:      offset(conn, "typ", reflect.TypeFor[nbio.ConnType]()),
		mux:      offset(conn, "mux", reflect.TypeFor[sync.Mutex]()),
		closed:   offset(conn, "closed", reflect.TypeFor[bool]()),
		isWAdded: offset(conn, "isWAdded", reflect.TypeFor[bool]()),
		poller:   poller.Offset,
		epfd:     offset(poller.Type.Elem(), "epfd", reflect.TypeFor[int]()),
	}
}

// nbio reads and writes with read(2) and write(2), by way of syscall.Syscall. For
// sockets recv and send are shorter ways through the kernel, and a call that cannot
// block need not tell Go's scheduler that it may: together an eighth to a fifth of
// all CPU time per delivery (bench, scenarios pair and fanout-10). So the usual
// case, a socket that takes what it is given, is done here, under nbio's own lock
// and by its rule: while the lock is held and closed is false, the descriptor is
// this connection's and no stranger's.

// lockConn locks c, and reports whether it has its descriptor. The caller unlocks.
func lockConn(c *nbio.Conn) (mu *sync.Mutex, hasDescriptor bool) {
	mu = (*sync.Mutex)(unsafe.Add(unsafe.Pointer(c), layout.mux))
	mu.Lock()
	return mu, !*(*bool)(unsafe.Add(unsafe.Pointer(c), layout.closed))
}

// errConnClosed is what receive and send return for a connection that is closed.
const errConnClosed = syscall.EBADF

// receive reads what has come, at most len(b) bytes. 0 bytes without an error are
// the end of the stream. It does not block: EAGAIN.
func receive(c *nbio.Conn, b []byte) (n int, err syscall.Errno) {
	mu, ok := lockConn(c)
	if !ok {
		mu.Unlock()
		return 0, errConnClosed
	}
	r, _, err := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(c.Hash()),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_DONTWAIT, 0, 0)
	mu.Unlock()
	if err != 0 {
		return 0, err
	}
	return int(r), 0
}

// maxRawBytes bounds what is sent in a call that Go's scheduler does not know of:
// copying more takes the kernel long enough to hold a garbage collection up.
const maxRawBytes = 64 << 10

// send submits b to the socket and returns how much it took. Nothing may wait in
// nbio's queue, or b would overtake it. It does not block: EAGAIN.
func send(c *nbio.Conn, b []byte) (n int, err syscall.Errno) {
	mu, ok := lockConn(c)
	if !ok {
		mu.Unlock()
		return 0, errConnClosed
	}
	const flags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
	var r uintptr
	if len(b) > maxRawBytes {
		r, _, err = syscall.Syscall6(syscall.SYS_SENDTO, uintptr(c.Hash()),
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	} else {
		r, _, err = syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(c.Hash()),
			uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	}
	mu.Unlock()
	if err != 0 {
		return 0, err
	}
	return int(r), 0
}

// enqueue copies b behind what waits in nbio's queue, to be written when the socket
// has room, and counts it in queued. It reports false, and does neither, if that
// would be more than most. nbio's own Write would try the socket once more, in vain,
// and close the connection on an error, from whatever goroutine we are in: see hangUp.
func enqueue(c *nbio.Conn, b []byte, queued *atomic.Int64, most int64) bool {
	mu, ok := lockConn(c)
	defer mu.Unlock()
	if !ok {
		return true
	}
	if queued.Load()+int64(len(b)) > most {
		return false
	}
	queued.Add(int64(len(b)))
	newToWriteBuf(c, b)
	if waits := isWAdded(c); !*waits {
		*waits = true
		watchLocked(c, unix.EPOLLIN|unix.EPOLLOUT)
	}
	return true
}

// newToWriteBuf appends to nbio's queue. It is to be called under the connection's
// lock. (The linker fails if another version of nbio does not have it.)
//
//go:linkname newToWriteBuf github.com/lesismal/nbio.(*Conn).newToWriteBuf
func newToWriteBuf(c *nbio.Conn, b []byte)

// isWAdded is where nbio keeps whether epoll watches for room to write.
func isWAdded(c *nbio.Conn) *bool {
	return (*bool)(unsafe.Add(unsafe.Pointer(c), layout.isWAdded))
}

// watchInput has epoll report what comes, and not the end of it: at EPOLLRDHUP nbio
// closes a connection when we have read once, whatever is still unread. We find the
// end by reading up to it. (nbio asks for EPOLLRDHUP when it takes a connection on,
// and would whenever it begins or ceases to wait for room: so that is ours as well.)
func watchInput(c *nbio.Conn) {
	mu, ok := lockConn(c)
	defer mu.Unlock()
	if !ok {
		return
	}
	events := uint32(unix.EPOLLIN)
	if *isWAdded(c) {
		events |= unix.EPOLLOUT
	}
	watchLocked(c, events)
}

// watchQueue has epoll report room for what is queued, and no more input: there is
// none, but its end, which would be reported again and again. It reports false if
// nothing is queued.
func watchQueue(c *nbio.Conn) bool {
	mu, ok := lockConn(c)
	defer mu.Unlock()
	if !ok || !*isWAdded(c) {
		return false
	}
	watchLocked(c, unix.EPOLLOUT)
	return true
}

// hasEnded reports whether the connection is broken or shut on both sides, or any of
// events, of poll(2). What came before that may still be unread.
func hasEnded(c *nbio.Conn, events int16) bool {
	mu, ok := lockConn(c)
	defer mu.Unlock()
	if !ok {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(c.Hash()), Events: events}}
	n, _ := unix.Poll(fds, 0)
	return n > 0
}

// queueWritten ends the wait for room. It is to be called under the connection's lock.
func queueWritten(c *nbio.Conn) {
	if waits := isWAdded(c); *waits {
		*waits = false // or nbio would reset it, in its way
		watchLocked(c, unix.EPOLLIN)
	}
}

func watchLocked(c *nbio.Conn, events uint32) {
	poller := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(c), layout.poller))
	epfd := *(*int)(unsafe.Add(poller, layout.epfd))
	// Cannot fail: the descriptor is ours, and nbio has added it.
	_ = unix.EpollCtl(epfd, unix.EPOLL_CTL_MOD, c.Hash(), &unix.EpollEvent{Events: events, Fd: int32(c.Hash())})
}

// acknowledged counts the bytes that the other end's kernel has taken, modulo 2^32.
func acknowledged(c *nbio.Conn) uint32 {
	mu, ok := lockConn(c)
	defer mu.Unlock()
	if !ok {
		return 0
	}
	info, err := unix.GetsockoptTCPInfo(c.Hash(), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return uint32(info.Bytes_acked)
}

// endSending shuts the sending side of the socket: FIN follows what was sent.
func endSending(c *nbio.Conn) { shutdown(c, syscall.SHUT_WR) }

// hangUp makes the connection's loop close it, at the hang-up that this is. It is
// how everybody but that loop closes a connection: closed from elsewhere, its
// descriptor could be a new connection's by the time the loop comes to an event
// that was meant for the old one, and nbio would close that.
func hangUp(c *nbio.Conn) { shutdown(c, syscall.SHUT_RDWR) }

func shutdown(c *nbio.Conn, how int) {
	mu, ok := lockConn(c)
	defer mu.Unlock()
	if ok {
		_ = syscall.Shutdown(c.Hash(), how)
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
