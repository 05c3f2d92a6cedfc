package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// sink accepts every message of a channel and only counts, so that what is measured is Fanfare
// and not the provider. It keeps one bit a subscriber, to know who was sent to
// twice. It answers request by request on each connection: all that a server does
// besides costs as much as that again, and calls with one message each are many.
type sink struct {
	URL      string
	listener net.Listener
	intake

	calls      atomic.Int64
	recipients atomic.Int64
	twice      atomic.Int64
	first      atomic.Int64 // unix nanoseconds of the first call

	mu    sync.Mutex
	seen  []uint64
	conns []net.Conn
}

// intake is where a channel's provider takes calls, what stands before each
// delivery's id in them and behind it, and how the provider accepts.
type intake struct {
	path          string // its end
	before, after []byte
	status        string
	answer        string // made with the number of the call
}

// Twilio's and FCM's answers are as long as theirs are, because reading them is work.
var intakes = map[fanfare.Channel]intake{
	fanfare.Email: {"/v3/mail/send", []byte(`"delivery":"`), []byte(`"`), "202 Accepted\r\nX-Message-Id: sink", ""},
	// The id is in the address to report to, which is a field of a form.
	fanfare.SMS:  {"/Messages.json", []byte(`delivery%3D`), []byte(`%26`), "201 Created\r\nContent-Type: application/json", twilioAnswer},
	fanfare.Push: {"/messages:send", []byte(`"delivery":"`), []byte(`"`), "200 OK\r\nContent-Type: application/json", `{"name":"projects/bench/messages/0:%016d%%31bd1c9631bd1c96"}`},
}

const twilioAnswer = `{"account_sid":"` + twilioAccount + `","api_version":"2010-04-01","body":"A measured article https://blog.example/a",` +
	`"date_created":"Thu, 24 Aug 2023 05:01:45 +0000","date_sent":null,"date_updated":"Thu, 24 Aug 2023 05:01:45 +0000","direction":"outbound-api",` +
	`"error_code":null,"error_message":null,"from":"` + twilioFrom + `","messaging_service_sid":null,"num_media":"0","num_segments":"1","price":null,"price_unit":"USD",` +
	`"sid":"SM%032x","status":"queued","subresource_uris":{"media":"/2010-04-01/Accounts/` + twilioAccount + `/Messages/Media.json"},` +
	`"to":"+34600000001","uri":"/2010-04-01/Accounts/` + twilioAccount + `/Messages.json"}`

func newSink(channel fanfare.Channel, subscribers int) (*sink, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &sink{URL: "http://" + listener.Addr().String(), listener: listener, intake: intakes[channel], seen: make([]uint64, subscribers/64+2)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go s.serve(conn)
		}
	}()
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

func (s *sink) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		_ = conn.Close()
	}
}

// serve answers until the other side leaves.
func (s *sink) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 1<<16)
	var body bytes.Buffer
	var out []byte
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		s.first.CompareAndSwap(0, time.Now().UnixNano())
		body.Reset()
		if _, err := body.ReadFrom(r.Body); err != nil {
			return
		}
		status, answer := "404 Not Found", ""
		if strings.HasSuffix(r.URL.Path, s.path) {
			s.count(body.Bytes())
			status = s.status
			if s.answer != "" {
				answer = fmt.Sprintf(s.answer, s.calls.Add(1))
			}
		}
		out = fmt.Appendf(out[:0], "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(answer), answer)
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// count finds each recipient's delivery id, whose last part is their number.
// Decoding the message would cost more than all that is measured.
func (s *sink) count(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		_, rest, found := bytes.Cut(body, s.before)
		if !found {
			return
		}
		id, rest, ended := bytes.Cut(rest, s.after)
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
