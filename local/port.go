package local

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
)

const loopback = "127.0.0.1"

// ErrPortTaken says that a port asked for by name is in use.
var ErrPortTaken = errors.New("port is taken")

// FreePort gives a port of 127.0.0.1 on which nobody listens. The kernel hands it
// to no one else for a minute: a connection made to it and closed from the
// listening side leaves it in TIME_WAIT, which keeps it out of the automatic
// choice but not from a server that asks for it by number (Go's, PostgreSQL's and
// Temporal's all set SO_REUSEADDR). A port merely found and closed is often
// handed out again within milliseconds on a busy machine.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	if err := server.Close(); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// ChoosePort settles which port a part gets. name is what a person knows it by,
// say "--postgres-port". A port asked for must be free, else the answer is
// ErrPortTaken with a sentence that says what to do. A default that is taken is
// replaced by a free one, and log says so. Port 0 is any free one.
func ChoosePort(log *slog.Logger, name string, port int, asked bool) (int, error) {
	switch {
	case port == 0:
		return FreePort()
	case port < 0 || port > 65535:
		return 0, fmt.Errorf("%s %d: a port is a number from 0 to 65535", name, port)
	case portFree(port):
		return port, nil
	case asked:
		return 0, fmt.Errorf("%s %d: %w; choose another, or leave %s out to get a free one", name, port, ErrPortTaken, name)
	}
	free, err := FreePort()
	if err != nil {
		return 0, err
	}
	log.Warn(fmt.Sprintf("port %d is taken, using %d instead", port, free), "for", name)
	return free, nil
}

// portFree asks twice: macOS lets us listen on 127.0.0.1 beside a server that
// holds the port on all addresses, so whoever answers there counts as well.
func portFree(port int) bool {
	address := net.JoinHostPort(loopback, strconv.Itoa(port))
	if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		self := conn.LocalAddr().String() == address // loopback can connect to itself
		conn.Close()
		if !self {
			return false
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	listener.Close()
	return true
}
