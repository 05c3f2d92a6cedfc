package bench

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// sink accepts every mail and only counts, so that what is measured is Fanfare
// and not the provider. It keeps one bit a subscriber, to know who was sent to
// twice.
type sink struct {
	URL    string
	server *http.Server
	pool   sync.Pool

	recipients atomic.Int64
	twice      atomic.Int64
	first      atomic.Int64 // unix nanoseconds of the first call

	mu   sync.Mutex
	seen []uint64
}

func newSink(subscribers int) (*sink, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{URL: "http://" + listener.Addr().String(), seen: make([]uint64, subscribers/64+2)}
	s.pool.New = func() any { return new(bytes.Buffer) }
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v3/mail/send", s.accept)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(listener) //nolint:errcheck // ends with Close
	return s, nil
}

func (s *sink) close() { _ = s.server.Close() }

func (s *sink) accept(w http.ResponseWriter, r *http.Request) {
	s.first.CompareAndSwap(0, time.Now().UnixNano())
	body := s.pool.Get().(*bytes.Buffer)
	defer s.pool.Put(body)
	body.Reset()
	if _, err := io.Copy(body, r.Body); err != nil {
		return
	}
	s.count(body.Bytes())
	w.Header().Set("X-Message-Id", "sink")
	w.WriteHeader(http.StatusAccepted)
}

var deliveryField = []byte(`"delivery":"`)

// count finds each recipient's delivery id, whose last part is their number.
// Decoding the JSON would cost more than all that is measured.
func (s *sink) count(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		at := bytes.Index(body, deliveryField)
		if at < 0 {
			return
		}
		body = body[at+len(deliveryField):]
		end := bytes.IndexByte(body, '"')
		if end < 0 {
			return
		}
		id := body[:end]
		number, err := strconv.Atoi(string(id[bytes.LastIndexByte(id, '.')+1:]))
		if err != nil || number/64 >= len(s.seen) {
			continue
		}
		s.recipients.Add(1)
		bit := uint64(1) << (number % 64)
		if s.seen[number/64]&bit != 0 {
			s.twice.Add(1)
		}
		s.seen[number/64] |= bit
	}
}
