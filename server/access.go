package server

import (
	"net/netip"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// ACCESS_LOG: one line for each connection at its end. It never holds anything of a message.

// AccessLogger is the name of the logger that writes these lines.
const AccessLogger = "access"

// newAccessLog returns nil unless ACCESS_LOG is set.
func newAccessLog(cfg *Config, log *zap.Logger) *zap.Logger {
	if !cfg.AccessLog {
		return nil
	}
	return log.Named(AccessLogger)
}

// logAccess writes the line of p, which is about to be closed. Bytes are those of its TCP connection, which
// the kernel counts.
func (l *loop) logAccess(p *peer) {
	e := l.srv.access.Check(zap.InfoLevel, "connection")
	if e == nil {
		return
	}
	asItIs := l.srv.cfg.LogIDs
	relay, name := "", ""
	if r := p.Room(); r != nil {
		relay, name = shown(r.ID(), asItIs), shown(p.ID(), asItIs)
	}
	var received, sent uint64
	if info, err := unix.GetsockoptTCPInfo(int(p.fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		received, sent = info.Bytes_received, info.Bytes_acked
	}
	e.Write(zap.String("remote", shownAddress(p.remoteAddr(), asItIs)), zap.String("relay", relay), zap.String("peer", name),
		zap.Duration("duration", l.srv.age(p)), zap.Uint32("messages", l.relayed[p.slot]),
		zap.Uint64("received_bytes", received), zap.Uint64("sent_bytes", sent),
		zap.Stringer("reason", p.cause), zap.Uint16("code", uint16(p.code)))
}

// logDropped writes the line of a connection that was closed before it had a loop.
func (s *Server) logDropped(remote netip.AddrPort, cause closeCause) {
	if e := s.access.Check(zap.InfoLevel, "connection"); e != nil {
		e.Write(zap.String("remote", shownAddress(remote, s.cfg.LogIDs)), zap.Stringer("reason", cause))
	}
}
