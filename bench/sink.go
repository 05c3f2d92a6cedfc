package bench

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// sink accepts every message and only counts, so that what is measured is Fanfare
// and not the provider. It keeps one bit a subscriber, to know who was sent to
// twice.
type sink struct {
	URL    string
	server *http.Server
	pool   sync.Pool

	calls      atomic.Int64
	recipients atomic.Int64
	twice      atomic.Int64
	first      atomic.Int64 // unix nanoseconds of the first call

	mu   sync.Mutex
	seen []uint64
}

// intake is where a channel's provider takes calls, and what it has to know to
// count: what stands before each delivery's id, and behind it.
type intake struct {
	pattern       string
	before, after []byte
	accept        func(w http.ResponseWriter, call int64)
}

// Twilio's and FCM's answers are as long as theirs are, because reading them is work.
var intakes = map[fanfare.Channel]intake{
	fanfare.Email: {"POST /v3/mail/send", []byte(`"delivery":"`), []byte(`"`), func(w http.ResponseWriter, _ int64) {
		w.Header().Set("X-Message-Id", "sink")
		w.WriteHeader(http.StatusAccepted)
	}},
	// The id is in the address to report to, which is a field of a form.
	fanfare.SMS: {"POST /2010-04-01/Accounts/{account}/Messages.json", []byte(`delivery%3D`), []byte(`%26`), func(w http.ResponseWriter, call int64) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, twilioAnswer, call)
	}},
	fanfare.Push: {"POST /v1/projects/{project}/messages:send", []byte(`"delivery":"`), []byte(`"`), func(w http.ResponseWriter, call int64) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"name":"projects/bench/messages/0:%016d%%31bd1c9631bd1c96"}`, call)
	}},
}

const twilioAnswer = `{"account_sid":"` + twilioAccount + `","api_version":"2010-04-01","body":"A measured article https://blog.example/a",` +
	`"date_created":"Thu, 24 Aug 2023 05:01:45 +0000","date_sent":null,"date_updated":"Thu, 24 Aug 2023 05:01:45 +0000","direction":"outbound-api",` +
	`"error_code":null,"error_message":null,"from":"` + twilioFrom + `","messaging_service_sid":null,"num_media":"0","num_segments":"1","price":null,"price_unit":"USD",` +
	`"sid":"SM%032x","status":"queued","subresource_uris":{"media":"/2010-04-01/Accounts/` + twilioAccount + `/Messages/Media.json"},` +
	`"to":"+34600000001","uri":"/2010-04-01/Accounts/` + twilioAccount + `/Messages.json"}`

func newSink(subscribers int) (*sink, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{URL: "http://" + listener.Addr().String(), seen: make([]uint64, subscribers/64+2)}
	s.pool.New = func() any { return new(bytes.Buffer) }
	mux := http.NewServeMux()
	for _, in := range intakes {
		mux.HandleFunc(in.pattern, func(w http.ResponseWriter, r *http.Request) { s.take(in, w, r) })
	}
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(listener) //nolint:errcheck // ends with Close
	return s, nil
}

// settings are those by which the channel's provider is the sink.
func (s *sink) settings(channel fanfare.Channel) []string {
	return map[fanfare.Channel][]string{
		fanfare.Email: {"SENDGRID_API_KEY=SG.bench", "SENDGRID_FROM=Bench <bench@fanfare.example>", "SENDGRID_BASE_URL=" + s.URL},
		fanfare.SMS:   {"TWILIO_ACCOUNT_SID=" + twilioAccount, "TWILIO_AUTH_TOKEN=bench", "TWILIO_FROM=" + twilioFrom, "TWILIO_BASE_URL=" + s.URL},
		fanfare.Push:  {"FCM_PROJECT_ID=bench-project", "FCM_BASE_URL=" + s.URL},
	}[channel]
}

func (s *sink) close() { _ = s.server.Close() }

func (s *sink) take(in intake, w http.ResponseWriter, r *http.Request) {
	s.first.CompareAndSwap(0, time.Now().UnixNano())
	body := s.pool.Get().(*bytes.Buffer)
	defer s.pool.Put(body)
	body.Reset()
	if _, err := io.Copy(body, r.Body); err != nil {
		return
	}
	s.count(in, body.Bytes())
	in.accept(w, s.calls.Add(1))
}

// count finds each recipient's delivery id, whose last part is their number.
// Decoding the message would cost more than all that is measured.
func (s *sink) count(in intake, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		_, rest, found := bytes.Cut(body, in.before)
		if !found {
			return
		}
		id, rest, ended := bytes.Cut(rest, in.after)
		if !ended {
			return
		}
		body = rest
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
