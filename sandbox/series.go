package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"
)

// seriesSize is how many messages are kept together at most; it fits in refBits.
const seriesSize = 1000

// These stand in a text for what differs from recipient to recipient. Neither can
// be part of a request that is accepted.
const (
	deliveryMark = "\x01"
	addressMark  = "\x02"
)

var numberSeed = maphash.MakeSeed()

// single is the message of a call that carries one.
type single struct {
	kind              byte // 's' for SMS, 'p' for push
	at                time.Time
	address, delivery string
	// owner is the account or project it was sent by, body the request as it came.
	owner, body string
}

func (e *single) channel() string {
	if e.kind == 'p' {
		return push
	}
	return sms
}

func (e *single) identity() identity {
	id := identity{channel: e.channel(), delivery: e.delivery}
	if id.channel == push {
		id.address = e.address
	}
	return id
}

// bare is the address without what may be written differently in a request.
func (e *single) bare() string { return strings.TrimPrefix(e.address, "+") }

// common is the text that many messages of a publication have in common.
func (e *single) common() string {
	text := e.body
	if e.delivery != "" {
		text = strings.ReplaceAll(text, e.delivery, deliveryMark)
	}
	return e.owner + "\n" + strings.ReplaceAll(text, e.bare(), addressMark)
}

// fill is the reverse of common.
func (e *single) fill(common string) {
	var text string
	e.owner, text, _ = strings.Cut(common, "\n")
	e.body = strings.ReplaceAll(strings.ReplaceAll(text, addressMark, e.bare()), deliveryMark, e.delivery)
}

// series is messages of calls that carry one each, as they came. They are packed,
// so that a million of them are a few thousand objects to the garbage collector,
// and what they have in common is kept once.
type series struct {
	n, salt uint64
	// now is what readers see. Adding puts another in its place; what is in the one
	// before stays where it is.
	now atomic.Pointer[packed]
	// known is the place of each text. It is nil once the series is closed.
	known map[string]int
}

type packed struct {
	entries []byte
	ends    []uint32 // where each entry ends
	numbers []uint32 // a hash of each address, by which look-ups pass most entries over
	texts   []string
}

func newSeries(n, salt uint64) *series {
	s := &series{n: n, salt: salt, known: map[string]int{}}
	s.now.Store(new(packed))
	return s
}

// add must not run twice at once.
func (s *series) add(e *single) int {
	next := *s.now.Load()
	text := e.common()
	place, known := s.known[text]
	if !known {
		place = len(next.texts)
		s.known[text] = place
		next.texts = append(next.texts, text)
	}
	p := packer{buf: append(next.entries, e.kind)}
	p.buf = binary.AppendUvarint(p.buf, uint64(e.at.UnixNano()))
	p.text(e.address)
	p.text(e.delivery)
	p.buf = binary.AppendUvarint(p.buf, uint64(place))
	next.entries = p.buf
	next.ends = append(next.ends, uint32(len(p.buf)))
	next.numbers = append(next.numbers, numberHash(e.address))
	s.now.Store(&next)
	return len(next.ends) - 1
}

func numberHash(address string) uint32 { return uint32(maphash.String(numberSeed, address)) }

// close says that nothing is added any more, and gives back what that was for.
func (s *series) close() {
	next := *s.now.Load()
	next.entries = append(make([]byte, 0, len(next.entries)), next.entries...)
	s.now.Store(&next)
	s.known = nil
}

// entry gives message i without its text.
func (s *series) entry(i int) (e single, text string) {
	now := s.now.Load()
	start := uint32(0)
	if i > 0 {
		start = now.ends[i-1]
	}
	raw := now.entries[start:now.ends[i]]
	u := unpacker{rest: string(raw[1:])}
	e = single{kind: raw[0], at: time.Unix(0, int64(u.number())).UTC(), address: u.text(), delivery: u.text()}
	return e, now.texts[u.number()]
}

// whole gives message i.
func (s *series) whole(i int) single {
	e, text := s.entry(i)
	e.fill(text)
	return e
}

func (s *series) number() uint64 { return s.n }

func (s *series) size() int { return len(s.now.Load().ends) }

func (s *series) channel(i int) string {
	e, _ := s.entry(i)
	return e.channel()
}

func (s *series) who(i int) (address, delivery string) {
	e, _ := s.entry(i)
	return e.address, e.delivery
}

func (s *series) when(i int) time.Time {
	e, _ := s.entry(i)
	return e.at
}

func (s *series) sighting(i int) Sighting {
	m := s.message(i)
	return Sighting{Call: m.Call, MessageID: m.ID, At: m.At}
}

func (s *series) message(i int) Message {
	e := s.whole(i)
	if e.kind == 'p' {
		return pushed(&e, s.key(i))
	}
	return texted(&e, s.key(i))
}

func (s *series) raw(i int) string {
	e := s.whole(i)
	if e.kind == 'p' {
		return indented(e.body)
	}
	return lines(e.body)
}

func (s *series) course(i int) []step {
	e, _ := s.entry(i)
	if e.kind == 'p' {
		return nil // FCM tells nobody
	}
	return smsCourse(e.address)
}

// key is 32 hexadecimal digits that end in the place of message i.
func (s *series) key(i int) string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], s.salt)
	binary.BigEndian.PutUint64(raw[8:], s.n<<refBits|uint64(i))
	return hex.EncodeToString(raw[:])
}

// single finds a message by its key; nil where there is none, or no longer.
func (st *store) single(key string) (*series, int) {
	raw, err := hex.DecodeString(key)
	if err != nil || len(raw) != 16 || binary.BigEndian.Uint64(raw[:8]) != st.salt {
		return nil, 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	m, i := st.referred(binary.BigEndian.Uint64(raw[8:]))
	s, _ := m.(*series)
	return s, i
}
