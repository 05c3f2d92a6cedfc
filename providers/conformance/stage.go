package conformance

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Stage tells a Provider what to play, and writes down what it was sent.
type Stage struct {
	over  chan struct{} // closed when the test ends
	major int           // the version of HTTP that is to be spoken; 0 is any

	mu        sync.Mutex
	situation Situation
	wait      time.Duration
	bad       string // OneBad: whose address
	named     bool   // OneBad: the provider says whose
	most      int    // TooLarge: as many recipients fit into a request; 0 is none
	least     int    // TooLarge: what is shorter is a piece of the message, and fits
	gossip    string
	begun     int
	cues      int
	taken     []Taken
	faults    []string
}

// Begin notes that a request has begun to arrive, whatever becomes of it.
func (s *Stage) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
}

// Cue says what to do about a request with these messages, in their order. Whoever
// has to answer before they are known leaves them out.
func (s *Stage) Cue(messages ...Message) Cue {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cues++
	cue := Cue{Situation: s.situation, ID: fmt.Sprintf("c0ffee%026x", s.cues), Wait: s.wait, Bad: -1, Gossip: s.gossip}
	switch cue.Situation {
	case OneBad:
		bad := slices.IndexFunc(messages, func(m Message) bool { return m.To == s.bad })
		if bad < 0 {
			cue.Situation = Accepted
		} else if s.named {
			cue.Bad = bad
		}
	case TooLarge:
		few := s.most > 0 && len(messages) <= s.most
		piece := slices.ContainsFunc(messages, func(m Message) bool { return len(m.Text) < s.least })
		if few || piece {
			cue.Situation = Accepted
		}
	}
	return cue
}

// Take notes a request that the provider has accepted, whether it can say so or not.
func (s *Stage) Take(t Taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, t)
}

// Faultf notes a request that no provider would take, or a stand-in that does not do
// its part. The test fails.
func (s *Stage) Faultf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// Over is closed when nobody waits for an answer any more.
func (s *Stage) Over() <-chan struct{} { return s.over }

func (s *Stage) set(change func(*Stage)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// requests are those that began so far, and those that were taken.
func (s *Stage) requests() (begun int, taken []Taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun, slices.Clone(s.taken)
}

func (s *Stage) complaints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// wire is a listener that counts.
type wire struct {
	net.Listener

	made, bytes atomic.Int64

	mu   sync.Mutex
	open map[*countedConn]bool
}

func (w *wire) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.made.Add(1)
	counted := &countedConn{Conn: conn, wire: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[counted] = true
	return counted, nil
}

// left are the connections that are open.
func (w *wire) left() []*countedConn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.open))
}

type countedConn struct {
	net.Conn

	wire *wire
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.bytes.Add(int64(n))
	return n, err
}

func (c *countedConn) Close() error {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	delete(c.wire.open, c)
	return c.Conn.Close()
}
