package sandbox_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	twilioclient "github.com/twilio/twilio-go/client"

	"github.com/fanfare-dev/fanfare/sandbox"
)

// callbackTarget is an endpoint that verifies posts as Twilio's client does.
type callbackTarget struct {
	t   testing.TB
	url string

	mu      sync.Mutex
	signed  []url.Values
	forged  []url.Values
	tokens  []string
	queries []string
	answer  int
}

func newCallbackTarget(t testing.TB) *callbackTarget {
	t.Helper()
	g := &callbackTarget{t: t, answer: http.StatusNoContent}
	h := httptest.NewServer(g)
	t.Cleanup(h.Close)
	g.url = h.URL + "/webhooks/twilio"
	return g
}

func (g *callbackTarget) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	form, err := url.ParseQuery(string(body))
	validator := twilioclient.NewRequestValidator(twilioToken)
	good := err == nil && validator.ValidateBody("http://"+r.Host+r.RequestURI, body, r.Header.Get("X-Twilio-Signature"))
	g.mu.Lock()
	defer g.mu.Unlock()
	if !good {
		g.forged = append(g.forged, form)
		w.WriteHeader(http.StatusForbidden)
		return
	}
	g.signed, g.queries = append(g.signed, form), append(g.queries, r.URL.RawQuery)
	g.tokens = append(g.tokens, r.Header.Get("I-Twilio-Idempotency-Token"))
	w.WriteHeader(g.answer)
}

// statuses are those of each number, sorted.
func (g *callbackTarget) statuses() map[string][]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string][]string{}
	for _, form := range g.signed {
		word := form.Get("MessageStatus")
		if code := form.Get("ErrorCode"); code != "" {
			word += " " + code
		}
		out[form.Get("To")] = append(out[form.Get("To")], word)
	}
	for to := range out {
		slices.Sort(out[to])
	}
	return out
}

// posting is a sandbox that posts for as long as the test lasts.
func posting(t testing.TB, config sandbox.Config) *server {
	t.Helper()
	s := start(t, config)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { s.PostWebhooks(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return s
}

func TestNumbersChooseTheirStatus(t *testing.T) {
	t.Parallel()
	g := newCallbackTarget(t)
	s := posting(t, sandbox.Config{})
	want := map[string][]string{
		"+34600000003": {"delivered", "sent"},
		"+34712340000": {"sent"},
		"+34712340001": {"failed 30001"},
		"+34712340003": {"sent", "undelivered 30003"},
		"+34712340004": {"sent", "undelivered 30004"},
		"+34788880005": {"sent", "undelivered 30005"},
		"+34712340006": {"sent", "undelivered 30006"},
		"+34712340007": {"sent", "undelivered 30007"},
		"+34712340008": {"failed 30008"},
		"+34712340034": {"failed 30034"},
	}
	for to := range want {
		s.text(texting(to).SetStatusCallback(g.url + "?delivery=d" + to[1:] + "&call=c#rc=3&rp=ct,rt,5xx"))
	}
	stats := s.idle()
	require.Equal(t, want, g.statuses())
	require.Equal(t, int64(16), stats.Made)
	require.Equal(t, int64(16), stats.Accepted)
	require.Equal(t, stats, s.Stats().ByChannel["sms"].Webhooks)
	require.Empty(t, g.forged)
	for i, form := range g.signed {
		require.Equal(t, "delivery=d"+form.Get("To")[1:]+"&call=c", g.queries[i])
		require.Equal(t, ours, form.Get("From"))
		require.Equal(t, twilioAccount, form.Get("AccountSid"))
		require.Regexp(t, `^SM[0-9a-f]{32}$`, form.Get("MessageSid"))
		require.Equal(t, form.Get("MessageStatus"), form.Get("SmsStatus"))
	}
}

func TestCallbacksMisbehave(t *testing.T) {
	t.Parallel()
	g := newCallbackTarget(t)
	s := posting(t, sandbox.Config{})
	s.webhookFaults(sandbox.WebhookFaults{Delay: sandbox.Duration(50 * time.Millisecond), Duplicate: 1, Forged: 1, Stale: 1, Early: 0.5})
	for range 20 {
		s.text(texting("+34600000001").SetStatusCallback(g.url))
	}
	require.Eventually(t, s.WebhookIdle, patience, time.Millisecond)
	stats := s.idle()
	require.Equal(t, int64(40), stats.Made)
	require.Equal(t, int64(40), stats.Doubled)
	require.Equal(t, int64(80), stats.Accepted)
	require.Equal(t, int64(80), stats.Forged)
	require.Zero(t, stats.ForgedAccepted)
	require.Zero(t, stats.Stale, "Twilio signs no time")
	require.Positive(t, stats.Early)
	require.Len(t, g.forged, 80)
	require.Len(t, g.signed, 80)
	for _, form := range g.forged {
		require.Equal(t, "undelivered", form.Get("MessageStatus"), "what did not happen")
	}
	tokens := map[string]int{}
	for _, token := range g.tokens {
		tokens[token]++
	}
	require.Len(t, tokens, 40)

	s.webhookFaults(sandbox.WebhookFaults{Provider: "twilio", Hold: true})
	s.text(texting("+34600000001").SetStatusCallback(g.url))
	require.Equal(t, int64(2), s.Stats().Webhooks.Waiting)
	s.webhookFaults(sandbox.WebhookFaults{Provider: "sendgrid", Hold: true})
	s.idle()
}

func TestCallbacksThatAreRefused(t *testing.T) {
	t.Parallel()
	g := newCallbackTarget(t)
	g.answer = http.StatusInternalServerError
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := "http://" + l.Addr().String() + "/"
	l.Close()
	for _, tt := range []struct {
		address string
		posts   int64
	}{
		{g.url, 1},
		{g.url + "#rc=2&rp=ct,5xx", 3},
		{g.url + "#rc=2&rp=4xx", 1},
		{g.url + "#rc=1&rp=all", 2},
		{closed, 2},
		{closed + "#rc=0", 1},
	} {
		s := posting(t, sandbox.Config{})
		s.text(texting("+34712340001").SetStatusCallback(tt.address))
		stats := s.idle()
		require.Equal(t, tt.posts, stats.Posts, tt.address)
		require.Equal(t, int64(1), stats.Lost, tt.address)
	}
}

func TestAPhoneAnswers(t *testing.T) {
	t.Parallel()
	g := newCallbackTarget(t)
	s := start(t, sandbox.Config{Twilio: sandbox.Twilio{InboundURL: g.url}})
	answer := func(body string) (out struct {
		MessageSID string `json:"message_sid"`
		Stopped    bool   `json:"stopped"`
		Posted     bool   `json:"posted"`
		Error      string `json:"error"`
	},
	) {
		a := s.call(http.MethodPost, "/sandbox/inbound", object{"from": "+34600000001", "body": body})
		require.Equal(t, http.StatusOK, a.status, string(a.body))
		a.into(t, &out)
		return out
	}
	require.Equal(t, http.StatusBadRequest, s.call(http.MethodPost, "/sandbox/inbound", object{"from": "+34600000001", "body": "STOP"}).status, "nobody has sent yet")
	s.text(texting("+34600000001"))
	for _, tt := range []struct {
		body    string
		stopped bool
	}{{"thanks", false}, {"stop", true}, {"please start", true}, {"START", false}, {" Unsubscribe ", true}} {
		got := answer(tt.body)
		require.Equal(t, tt.stopped, got.Stopped, tt.body)
		require.True(t, got.Posted, got.Error)
		last := g.signed[len(g.signed)-1]
		require.Equal(t, tt.body, last.Get("Body"))
		require.Equal(t, "received", last.Get("SmsStatus"))
		require.Equal(t, "+34600000001", last.Get("From"))
		require.Equal(t, ours, last.Get("To"))
		require.Equal(t, got.MessageSID, last.Get("MessageSid"))
		_, err := s.twilio().CreateMessage(texting("+34600000001"))
		if tt.stopped {
			require.Equal(t, 21610, twilioCode(t, err))
		} else {
			require.NoError(t, err)
		}
	}
	s.text(texting("+34600000002"))
	s.Reset()
	_, err := s.twilio().CreateMessage(texting("+34600000001"))
	require.Equal(t, 21610, twilioCode(t, err), "a person's word is not forgotten")
	for _, bad := range []object{{"from": "600", "body": "STOP"}, {"from": "+34600000001"}, {"what": 1}} {
		require.Equal(t, http.StatusBadRequest, s.call(http.MethodPost, "/sandbox/inbound", bad).status)
	}
}
