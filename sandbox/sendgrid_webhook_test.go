package sandbox_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sendgrid/sendgrid-go/helpers/eventwebhook"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

const patience = 30 * time.Second

// posted is one post that reached a target.
type posted struct {
	at     time.Time
	signed bool // and not too long ago
	events []object
}

// target is an endpoint for webhooks that verifies them as SendGrid says.
type target struct {
	t   testing.TB
	url string

	mu       sync.Mutex
	key      *ecdsa.PublicKey
	posts    []posted
	answer   int  // to what is verified; 0 closes the connection
	gullible bool // takes everything
}

func newTarget(t testing.TB) *target {
	t.Helper()
	g := &target{t: t, answer: http.StatusNoContent}
	h := httptest.NewServer(g)
	t.Cleanup(h.Close)
	g.url = h.URL + "/webhooks/sendgrid"
	return g
}

func (g *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	p := posted{at: time.Now()}
	seconds, _ := strconv.ParseInt(r.Header.Get(eventwebhook.TimestampHTTPHeader), 10, 64)
	if p.at.Sub(time.Unix(seconds, 0)) < time.Minute {
		p.signed, _ = eventwebhook.VerifySignature(g.key, body, r.Header.Get(eventwebhook.VerificationHTTPHeader), r.Header.Get(eventwebhook.TimestampHTTPHeader))
	}
	if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" ||
		!bytes.HasSuffix(body, []byte("]\r\n")) || json.Unmarshal(body, &p.events) != nil {
		g.t.Errorf("not a post as SendGrid's: %s %v %v", r.Method, r.Header, err)
	}
	g.posts = append(g.posts, p)
	switch {
	case !p.signed && !g.gullible:
		w.WriteHeader(http.StatusUnauthorized)
	case g.answer == 0:
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(g.answer)
	}
}

func (g *target) answers(status int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = status
}

// got is what has come so far.
func (g *target) got() []posted {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.posts)
}

// events are those that came with a good signature, in the order in which they came.
func (g *target) events() []object {
	var out []object
	for _, p := range g.got() {
		if p.signed {
			out = append(out, p.events...)
		}
	}
	return out
}

// reporting is a sandbox that posts to g for as long as the test lasts.
func reporting(t testing.TB, g *target, config sandbox.Config) *server {
	t.Helper()
	config.Webhook.URL = g.url
	s := start(t, config)
	var err error
	g.key, err = eventwebhook.ConvertPublicKeyBase64ToECDSA(s.PublicKey())
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var posting sync.WaitGroup
	posting.Go(func() { s.PostWebhooks(ctx) })
	t.Cleanup(func() {
		stop()
		posting.Wait()
	})
	return s
}

func (s *server) idle() sandbox.WebhookStats {
	s.t.Helper()
	require.Eventually(s.t, s.WebhookIdle, patience, time.Millisecond)
	return s.Stats().Webhooks
}

func (s *server) webhookFaults(f sandbox.WebhookFaults) {
	s.t.Helper()
	require.NoError(s.t, s.SetFaults(sandbox.Faults{Seed: 1, Webhooks: f}))
}

// mailTo is a request to these addresses.
func mailTo(addresses ...string) object {
	m := mail(len(addresses))
	for i, address := range addresses {
		person(m, i)["to"] = []any{object{"email": address}}
	}
	return m
}

// told gives what was told of each address, in the order of the events' own times
// and, within a second, of their usual course: posts under way at once pass each other.
func told(events []object) map[string][]string {
	course := []any{"processed", "dropped", "bounce", "deferred", "delivered", "open", "click", "spamreport"}
	slices.SortFunc(events, func(a, b object) int {
		return cmp.Or(cmp.Compare(a["timestamp"].(float64), b["timestamp"].(float64)), cmp.Compare(slices.Index(course, a["event"]), slices.Index(course, b["event"])))
	})
	out := map[string][]string{}
	for _, e := range events {
		out[e["email"].(string)] = append(out[e["email"].(string)], e["event"].(string))
	}
	return out
}

func TestAddressesChooseTheirEvents(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	s := reporting(t, g, sandbox.Config{})
	want := map[string][]string{
		"reader-1@mail.example":   {"processed", "delivered"},
		"bounced@mail.example":    {"processed", "delivered"},
		"bounce+1@mail.example":   {"processed", "bounce"},
		"Block+1@mail.example":    {"processed", "bounce"},
		"drop+1@mail.example":     {"dropped"},
		"defer+1@mail.example":    {"processed", "deferred", "delivered"},
		"open+1@mail.example":     {"processed", "delivered", "open"},
		"click+1@mail.example":    {"processed", "delivered", "open", "click"},
		"complain+1@mail.example": {"processed", "delivered", "open", "spamreport"},
	}
	var addresses []string
	for address := range want {
		addresses = append(addresses, address)
	}
	a := s.send(mailTo(addresses...))
	stats := s.idle()
	events := g.events()
	require.Equal(t, want, told(events))
	require.Equal(t, int64(len(events)), stats.Made)
	require.Equal(t, stats.Made, stats.Accepted)
	require.Zero(t, stats.Refused+stats.Dropped+stats.Doubled)

	ids := map[any]bool{}
	for _, e := range events {
		ids[e["sg_event_id"]] = true
		i := slices.Index(addresses, e["email"].(string))
		require.Equal(t, fmt.Sprintf("%s.recvd-sandbox.%d", a.header.Get("X-Message-Id"), i), e["sg_message_id"])
		require.Equal(t, "call-1", e["call"], "custom arguments stand at the top")
		require.Equal(t, fmt.Sprintf("pub.email.%d", i), e["delivery"])
		require.Equal(t, []any{"call-1"}, e["category"])
		require.Contains(t, e["smtp-id"], a.header.Get("X-Message-Id"))
		require.WithinDuration(t, time.Now(), time.Unix(int64(e["timestamp"].(float64)), 0), time.Minute)
		switch {
		case e["event"] != "bounce":
			require.NotContains(t, e, "type")
		case e["email"] == "bounce+1@mail.example":
			require.Equal(t, []any{"bounce", "5.1.1"}, []any{e["type"], e["status"]})
			require.Contains(t, e["reason"], "550 5.1.1 <bounce+1@mail.example>", "reasons quote addresses")
		default:
			require.Equal(t, []any{"blocked", "5.2.2"}, []any{e["type"], e["status"]})
		}
	}
	require.Len(t, ids, len(events), "every event has an id of its own")
}

func TestCustomArgumentsDoNotHideFields(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	s := reporting(t, g, sandbox.Config{})
	m := mail(1)
	person(m, 0)["custom_args"] = object{"delivery": "d", "event": "bounce", "email": "other@mail.example", "own": "1", "call": "its own"}
	s.send(m)
	s.idle()
	require.Equal(t, map[string][]string{"reader-0@readers.example": {"processed", "delivered"}}, told(g.events()))
	require.Equal(t, "its own", g.events()[0]["call"])
	require.Equal(t, "1", g.events()[0]["own"])
}

func TestNoWebhookNoEvents(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	s.send(mail(2))
	require.Zero(t, s.Stats().Webhooks)
	require.True(t, s.WebhookIdle())
	require.Empty(t, s.PublicKey())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.PostWebhooks(ctx)
}

func TestEventsComeInBatches(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	key := sandbox.NewWebhookKey()
	s := reporting(t, g, sandbox.Config{MaxMessages: -1, Webhook: sandbox.Webhook{Key: key}})
	require.Equal(t, sandbox.WebhookPublicKey(key), s.PublicKey())
	for range 3 {
		s.send(mail(1000))
	}
	require.Equal(t, int64(6000), s.idle().Accepted, "mail that is not kept is reported all the same")
	biggest := 0
	for _, p := range g.got() {
		require.True(t, p.signed)
		biggest = max(biggest, len(p.events))
	}
	require.Equal(t, 500, biggest)
	require.Less(t, len(g.got()), 40)
}

func TestRefusedEventsArePostedAgain(t *testing.T) {
	t.Parallel()
	for i, answer := range []int{http.StatusInternalServerError, http.StatusUnauthorized, http.StatusFound, 0} {
		newIDs := i%2 == 0
		t.Run(fmt.Sprintf("%d new ids %t", answer, newIDs), func(t *testing.T) {
			t.Parallel()
			g := newTarget(t)
			g.answers(answer)
			s := reporting(t, g, sandbox.Config{})
			s.webhookFaults(sandbox.WebhookFaults{NewIDs: newIDs})
			s.send(mailTo("drop+1@mail.example")) // one event, so one event to a post
			require.Eventually(t, func() bool { return len(g.got()) == 3 }, patience, time.Millisecond)
			require.False(t, s.WebhookIdle())
			g.answers(http.StatusOK)
			stats := s.idle()
			require.Equal(t, int64(1), stats.Made)
			require.Equal(t, int64(1), stats.Accepted)
			require.GreaterOrEqual(t, stats.Refused, int64(3))
			require.Equal(t, stats.Posted, stats.Accepted+stats.Refused)

			ids := map[any]bool{}
			for i, p := range g.got() {
				require.True(t, p.signed)
				ids[p.events[0]["sg_event_id"]] = true
				if i > 0 {
					require.GreaterOrEqual(t, p.at.Sub(g.got()[i-1].at), 200*time.Millisecond<<(i-1), "pauses grow")
				}
			}
			if newIDs {
				require.Len(t, ids, len(g.got()))
			} else {
				require.Len(t, ids, 1)
			}
		})
	}
}

func TestWhatDoesNotFitIsDroppedAndCounted(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	s := reporting(t, g, sandbox.Config{Webhook: sandbox.Webhook{MaxWaiting: 7}})
	s.webhookFaults(sandbox.WebhookFaults{Hold: true})
	s.send(mail(3))
	s.send(mail(3))
	got := s.Stats().Webhooks
	require.Equal(t, sandbox.WebhookStats{Made: 12, Dropped: 5, Waiting: 7}, got)
	s.webhookFaults(sandbox.WebhookFaults{})
	require.Equal(t, int64(7), s.idle().Accepted)
}

func TestHeldEventsComeInAnyOrder(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	s := reporting(t, g, sandbox.Config{})
	s.webhookFaults(sandbox.WebhookFaults{Hold: true, Delay: sandbox.Duration(500 * time.Millisecond)})
	for i := range 10 {
		m := mail(20)
		m["custom_args"] = object{"call": strconv.Itoa(i)}
		s.send(m)
	}
	require.Equal(t, int64(400), s.Stats().Webhooks.Waiting)
	require.Empty(t, g.got())
	s.webhookFaults(sandbox.WebhookFaults{})
	s.idle()
	events := g.events()
	require.Len(t, events, 400)
	turns, early := 0, 0
	seen := map[any]bool{}
	for i, e := range events {
		turns += b2i(i > 0 && events[i-1]["call"] != e["call"])
		early += b2i(e["event"] == "delivered" && !seen[e["sg_message_id"]])
		seen[e["sg_message_id"]] = true
	}
	require.Greater(t, turns, 100, "events of different calls are mixed")
	require.Greater(t, early, 20, "some are delivered before they are processed")
}

func b2i(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func TestEarlyEventsComeBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	s := reporting(t, g, sandbox.Config{})
	require.NoError(t, s.SetFaults(sandbox.Faults{
		Rules:    []sandbox.Fault{{Every: 1, Action: sandbox.ActionAcceptThenHang}},
		Webhooks: sandbox.WebhookFaults{Early: 1, Delay: sandbox.Duration(time.Hour)},
	}))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := s.do(s.request(http.MethodPost, "/v3/mail/send", mailTo("a@mail.example", "open+1@mail.example")).WithContext(ctx))
		failed <- err
	}()
	require.Eventually(t, func() bool { return len(g.events()) == 4 }, patience, time.Millisecond)
	require.Empty(t, failed, "the call is still open")
	cancel()
	require.Error(t, <-failed)
	require.Eventually(t, func() bool { return s.Stats().Webhooks.Waiting == 1 }, patience, time.Millisecond, "the opening comes later")
	require.Equal(t, int64(4), s.Stats().Webhooks.Early)

	s.webhookFaults(sandbox.WebhookFaults{Early: 1})
	require.Equal(t, http.StatusAccepted, s.send(mail(700)).status)
	require.Len(t, g.events(), 4+1400)
	g.answers(http.StatusServiceUnavailable)
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status, "a target that refuses does not fail the call")
	require.Equal(t, int64(3), s.Stats().Webhooks.Waiting)
}

func TestLiesAreExtraAndTheTruthStillComes(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	s := reporting(t, g, sandbox.Config{})
	s.webhookFaults(sandbox.WebhookFaults{Duplicate: 0.5, Forged: 1, Stale: 1, Delay: sandbox.Duration(300 * time.Millisecond)})
	for range 8 {
		s.send(mailTo("a@mail.example", "bounce+1@mail.example"))
	}
	stats := s.idle()
	require.Equal(t, int64(32), stats.Made)
	require.Greater(t, stats.Doubled, int64(4))
	require.Less(t, stats.Doubled, int64(28))
	require.Equal(t, stats.Made+stats.Doubled, stats.Accepted)
	require.Equal(t, stats.Accepted, stats.Forged)
	require.Equal(t, stats.Accepted, stats.Stale)
	require.Zero(t, stats.ForgedAccepted+stats.StaleAccepted+stats.Refused)
	lies := 0
	for _, p := range g.got() {
		for _, e := range p.events {
			untrue := e["event"] == "bounce" && e["email"] == "a@mail.example" || e["event"] == "delivered" && e["email"] != "a@mail.example"
			require.Equal(t, !p.signed, untrue)
			lies += b2i(untrue)
		}
	}
	require.Equal(t, stats.Forged+stats.Stale, int64(lies))
	ids := map[any]int{}
	for _, e := range g.events() {
		ids[e["sg_event_id"]]++
	}
	require.Len(t, ids, int(stats.Made), "a copy has the id of the first")

	g.mu.Lock()
	g.gullible = true
	g.mu.Unlock()
	s.send(mail(1))
	stats = s.idle()
	require.NotZero(t, stats.ForgedAccepted, "who believes everything is found out")
	require.NotZero(t, stats.StaleAccepted)
}

func TestForgeriesDiffer(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	var mu sync.Mutex
	signatures := map[string]bool{}
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		signatures[r.Header.Get(eventwebhook.VerificationHTTPHeader)] = true
		mu.Unlock()
		g.ServeHTTP(w, r)
	}))
	defer spy.Close()
	g.url = spy.URL
	s := reporting(t, g, sandbox.Config{})
	s.webhookFaults(sandbox.WebhookFaults{Forged: 1})
	for range 4 {
		s.send(mailTo("drop+1@mail.example"))
		s.idle()
	}
	require.Len(t, g.got(), 8)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, signatures, 8, "four good ones, none, nonsense, that of another text, and that of another key")
	require.True(t, signatures[""])
}

func TestResetForgetsEventsThatWait(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	g.answers(0)
	s := reporting(t, g, sandbox.Config{})
	s.send(mail(5))
	require.Eventually(t, func() bool { return s.Stats().Webhooks.Refused > 0 }, patience, time.Millisecond)
	s.Reset()
	require.True(t, s.WebhookIdle())
	g.answers(http.StatusOK)
	s.send(mail(1))
	require.Equal(t, int64(2), s.idle().Made)
}

func TestServePostsAndGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	g.answers(http.StatusServiceUnavailable)
	s := sandbox.New(sandbox.Config{Webhook: sandbox.Webhook{URL: g.url}})
	var err error
	g.key, err = eventwebhook.ConvertPublicKeyBase64ToECDSA(s.PublicKey())
	require.NoError(t, err)
	serve := func() (client *server, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, l) }()
		return &server{Sandbox: s, t: t, url: "http://" + l.Addr().String()}, func() {
			cancel()
			require.NoError(t, <-served)
		}
	}
	client, stop := serve()
	client.send(mail(3))
	require.Eventually(t, func() bool { return s.Stats().Webhooks.Refused > 0 }, patience, time.Millisecond)
	stop()
	require.Equal(t, int64(6), s.Stats().Webhooks.Waiting)
	g.answers(http.StatusOK)
	client, stop = serve()
	require.Equal(t, int64(6), client.idle().Accepted)
	stop()
}

// BenchmarkWebhook is what an event costs to make, sign and post to a target that
// only reads it.
func BenchmarkWebhook(b *testing.B) {
	h := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	defer h.Close()
	s := start(b, sandbox.Config{Webhook: sandbox.Webhook{URL: h.URL}})
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	go s.PostWebhooks(ctx)
	body, err := json.Marshal(mail(1000))
	require.NoError(b, err)
	for b.Loop() {
		for range 50 {
			r := httptest.NewRequest(http.MethodPost, "/v3/mail/send", bytes.NewReader(body))
			r.Header.Set("Authorization", "Bearer SG.key")
			r.Header.Set("Content-Type", "application/json")
			s.Handler().ServeHTTP(httptest.NewRecorder(), r)
		}
		require.Eventually(b, s.WebhookIdle, patience, time.Millisecond)
	}
	b.ReportMetric(float64(s.Stats().Webhooks.Accepted)/b.Elapsed().Seconds(), "events/s")
}
