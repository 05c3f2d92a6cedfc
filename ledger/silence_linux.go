package ledger

import (
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall lacks.
const tcpUserTimeout = 0x12

// limitSilence bounds how long sent data may stay unacknowledged: keepalives
// only watch a connection that has nothing to send.
func limitSilence(fd uintptr, span time.Duration) {
	// Without it the connection is only noticed to be dead later.
	_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(span.Milliseconds()))
}
