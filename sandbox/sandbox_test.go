package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/fanfare-dev/fanfare/sandbox"
)

// object is a JSON object under construction.
type object = map[string]any

// server is a sandbox on a port of its own.
type server struct {
	*sandbox.Sandbox
	t   testing.TB
	url string
}

func start(t testing.TB, config sandbox.Config) *server {
	t.Helper()
	s := sandbox.New(config)
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	return &server{Sandbox: s, t: t, url: h.URL}
}

// mail is a request that SendGrid accepts, to n recipients.
func mail(n int) object {
	to := make([]any, n)
	for i := range to {
		to[i] = object{
			"to":            []any{object{"email": fmt.Sprintf("reader-%d@readers.example", i)}},
			"substitutions": object{"-unsubscribe-": fmt.Sprintf("http://fanfare.example/u/%d?a=1&b=2", i)},
			"headers":       object{"List-Unsubscribe": fmt.Sprintf("<http://fanfare.example/u/%d>", i)},
			"custom_args":   object{"delivery": fmt.Sprintf("pub.email.%d", i)},
		}
	}
	return object{
		"personalizations": to,
		"from":             object{"email": "news@fanfare.example", "name": "News"},
		"subject":          "A new article",
		"content": []any{
			object{"type": "text/plain", "value": "Read it. Leave: -unsubscribe-"},
			object{"type": "text/html", "value": `<p>Read it.</p><a href="-unsubscribe-">Leave</a>`},
		},
		"categories":  []any{"call-1"},
		"custom_args": object{"call": "call-1"},
	}
}

// person is the i-th personalization of m.
func person(m object, i int) object { return m["personalizations"].([]any)[i].(object) }

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (s *server) request(method, path string, body any) *http.Request {
	s.t.Helper()
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	default:
		var err error
		raw, err = json.Marshal(b)
		require.NoError(s.t, err)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, bytes.NewReader(raw))
	require.NoError(s.t, err)
	r.Header.Set("Authorization", "Bearer SG.key")
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (s *server) do(r *http.Request) (answer, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, err
}

func (s *server) call(method, path string, body any) answer {
	s.t.Helper()
	a, err := s.do(s.request(method, path, body))
	require.NoError(s.t, err)
	return a
}

func (s *server) send(m object) answer {
	s.t.Helper()
	return s.call(http.MethodPost, "/v3/mail/send", m)
}

// into reads an answer's JSON, of which every field must be known.
func (a answer) into(t testing.TB, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(v), string(a.body))
}

func TestAcceptedMailIsCountedAndShown(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	m := mail(2)
	person(m, 1)["custom_args"] = object{"delivery": "pub.email.1", "call": "call-1-own"}
	person(m, 1)["subject"] = "For you, -unsubscribe-"
	a := s.send(m)
	require.Equal(t, http.StatusAccepted, a.status)
	require.Empty(t, a.body)
	require.Regexp(t, `^[A-Za-z0-9_-]{22}$`, a.header.Get("X-Message-Id"))

	got := s.Messages("", "", 10)
	require.Len(t, got, 2)
	first, second := got[1], got[0]
	require.Equal(t, "reader-0@readers.example", first.To)
	require.Equal(t, "pub.email.0", first.Delivery)
	require.Equal(t, "call-1", first.Call)
	require.Equal(t, a.header.Get("X-Message-Id")+".recvd-sandbox.0", first.ID)
	require.Equal(t, "Read it. Leave: http://fanfare.example/u/0?a=1&b=2", first.Text)
	require.Equal(t, `<p>Read it.</p><a href="http://fanfare.example/u/0?a=1&b=2">Leave</a>`, first.HTML)
	require.Equal(t, map[string]string{"List-Unsubscribe": "<http://fanfare.example/u/0>"}, first.Headers)
	require.Equal(t, map[string]string{"call": "call-1", "delivery": "pub.email.0"}, first.CustomArgs)
	require.Equal(t, []string{"call-1"}, first.Categories)
	require.Equal(t, "call-1-own", second.Call, "a personalization's custom arguments win")
	require.Equal(t, "For you, http://fanfare.example/u/1?a=1&b=2", second.Subject)

	require.Len(t, s.Messages("pub.email.1", "", 10), 1)
	require.Len(t, s.Messages("", "READER-1@readers.example", 10), 1)
	require.Empty(t, s.Messages("pub.email.1", "reader-0@readers.example", 10))
}

func TestCallsAreWrittenDownWhateverBecomesOfThem(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	before := time.Now()
	s.send(mail(3))
	s.call(http.MethodPost, "/v3/mail/send", "{")
	bad := mail(2)
	person(bad, 1)["to"] = []any{object{"email": "bad-address@readers.example"}}
	s.send(bad)

	calls := s.Calls(0, 10)
	require.Len(t, calls, 3)
	for i, c := range calls {
		require.Equal(t, uint64(i+1), c.N)
		require.Equal(t, "sendgrid", c.Provider)
		require.Equal(t, "email", c.Channel)
		require.False(t, c.ArrivedAt.Before(before.Truncate(0)))
		require.False(t, c.ReadAt.Before(c.ArrivedAt))
		require.False(t, c.AnsweredAt.Before(c.ReadAt))
	}
	require.True(t, calls[0].Accepted)
	require.Equal(t, "call-1", calls[0].ID)
	require.Equal(t, 3, calls[0].Messages)
	require.Equal(t, 202, calls[0].Status)
	require.Empty(t, calls[1].ID)
	require.Equal(t, 400, calls[1].Status)
	require.False(t, calls[2].Accepted)
	require.Equal(t, "call-1", calls[2].ID)
	require.Equal(t, 2, calls[2].Messages)
	require.Contains(t, calls[2].Error, "personalizations.1.to.0.email")
	require.Len(t, s.Calls(2, 10), 1)

	stats := s.Stats()
	require.Equal(t, int64(3), stats.Calls)
	require.Equal(t, int64(2), stats.RejectedCalls)
	require.Equal(t, int64(3), stats.Messages)
	require.Equal(t, map[string]int64{"202": 1, "400": 2}, stats.ByStatus)
	require.Equal(t, calls[0].ArrivedAt, stats.FirstAt)
	require.False(t, stats.LastAt.Before(calls[0].ReadAt))
}

func TestDuplicatesAreCountedAndListed(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	s.send(mail(3))
	again := mail(2)
	again["custom_args"] = object{"call": "call-2"}
	s.send(again)
	s.send(again)
	without := mail(1)
	delete(person(without, 0), "custom_args")
	s.send(without)
	s.send(without)

	stats := s.Stats()
	require.Equal(t, int64(9), stats.Messages)
	require.Equal(t, int64(5), stats.Distinct, "three deliveries and two messages without an id")
	require.Equal(t, int64(4), stats.Duplicates)
	require.Equal(t, int64(2), stats.WithoutDelivery)
	require.Equal(t, stats.Messages, stats.Distinct+stats.Duplicates)

	got := s.Duplicates()
	require.Len(t, got, 2)
	require.Equal(t, "pub.email.0", got[0].Delivery)
	require.Equal(t, 3, got[0].Count)
	require.Len(t, got[0].Sightings, 3)
	require.Equal(t, "call-1", got[0].Sightings[0].Call)
	require.Equal(t, "call-2", got[0].Sightings[1].Call)
	require.False(t, got[0].Sightings[1].At.Before(got[0].Sightings[0].At))
}

func TestOldContentsAreDroppedAndCountsStay(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{MaxMessages: 5})
	for range 3 {
		require.Equal(t, http.StatusAccepted, s.send(mail(2)).status)
	}
	stats := s.Stats()
	require.Equal(t, int64(6), stats.Messages)
	require.Equal(t, int64(2), stats.Distinct)
	require.Equal(t, int64(4), stats.ContentsKept)
	require.Equal(t, int64(2), stats.ContentsDropped)
	require.Len(t, s.Messages("", "", 10), 4)
	require.Len(t, s.Calls(0, 10), 3)
	require.Equal(t, 3, s.Duplicates()[0].Count)

	none := start(t, sandbox.Config{MaxMessages: -1})
	none.send(mail(2))
	none.send(mail(2))
	require.Empty(t, none.Messages("", "", 10))
	require.Equal(t, int64(2), none.Stats().Duplicates)
	require.Equal(t, 2, none.Duplicates()[0].Count)
}

func TestConcurrentCallsAreAllCounted(t *testing.T) {
	t.Parallel()
	const workers, each, size = 8, 20, 25
	s := start(t, sandbox.Config{MaxMessages: 300})
	done := make(chan error, workers)
	for w := range workers {
		go func() {
			for c := range each {
				m := mail(size)
				for i := range size {
					person(m, i)["custom_args"] = object{"delivery": fmt.Sprintf("pub.%d.%d.%d", w, c, i)}
				}
				if _, err := s.do(s.request(http.MethodPost, "/v3/mail/send", m)); err != nil {
					done <- err
					return
				}
				s.Messages("", "nobody@readers.example", 1)
				s.Stats()
			}
			done <- nil
		}()
	}
	for range workers {
		require.NoError(t, <-done)
	}
	stats := s.Stats()
	require.Equal(t, int64(workers*each*size), stats.Messages)
	require.Equal(t, stats.Messages, stats.Distinct)
	require.Equal(t, int64(300), stats.ContentsKept)
	require.Len(t, s.Calls(0, 1000), workers*each)
}

func TestAllChannelsAtOnce(t *testing.T) {
	t.Parallel()
	const each = 300
	s := start(t, sandbox.Config{MaxMessages: 2000})
	var all errgroup.Group
	for i := range each {
		all.Go(func() error {
			_, err := s.twilio().CreateMessage(texting(fmt.Sprintf("+346%08d", i)).SetStatusCallback(fmt.Sprintf("http://127.0.0.1:9/?delivery=pub.sms.%d", i)))
			return err
		})
		all.Go(func() error {
			_, err := s.do(s.request(http.MethodPost, "/v1/projects/p/messages:send", object{"message": pushTo(fmt.Sprintf("token-%d", i), "pub.push.1")}))
			s.Messages("", "token-1", 10)
			return err
		})
		if i%10 == 0 {
			all.Go(func() error {
				_, err := s.do(s.request(http.MethodPost, "/v3/mail/send", mail(10)))
				return err
			})
		}
	}
	require.NoError(t, all.Wait())
	stats := s.Stats()
	for channel, want := range map[string][2]int64{"sms": {each, each}, "push": {each, each}, "email": {each, 10}} {
		require.Equal(t, want[0], stats.ByChannel[channel].Messages, channel)
		require.Equal(t, want[1], stats.ByChannel[channel].Distinct, channel)
	}
	require.Equal(t, int64(3*each), stats.Messages)
	for i := range each {
		found := s.Messages(fmt.Sprintf("pub.sms.%d", i), "", 10)
		require.Len(t, found, 1)
		require.Equal(t, fmt.Sprintf("+346%08d", i), found[0].To)
		require.Equal(t, "A new article: https://blog.example/a", found[0].Text)
	}
}

func TestServeStopsAndFreesCallsThatHang(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := sandbox.New(sandbox.Config{})
	require.NoError(t, s.SetFaults(sandbox.Faults{Rules: []sandbox.Fault{{Every: 1, Action: sandbox.ActionAcceptThenHang}}}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	client := &server{Sandbox: s, t: t, url: "http://" + l.Addr().String()}
	sent := make(chan error, 1)
	go func() {
		_, err := client.do(client.request(http.MethodPost, "/v3/mail/send", mail(1)))
		sent <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().Messages == 1 }, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-served)
	require.Error(t, <-sent)
	require.Equal(t, map[string]int64{"none": 1}, s.Stats().ByStatus)
}

func BenchmarkSendThousand(b *testing.B) {
	body, err := json.Marshal(mail(1000))
	require.NoError(b, err)
	s := sandbox.New(sandbox.Config{MaxMessages: 100_000})
	h := s.Handler()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		// Every call has deliveries of its own, as in a real run.
		body := bytes.ReplaceAll(body, []byte(`"pub.email.`), fmt.Appendf(nil, `"pub%d.email.`, n))
		r := httptest.NewRequest(http.MethodPost, "/v3/mail/send", bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer SG.key")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			b.Fatal(w.Body.String())
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
}
