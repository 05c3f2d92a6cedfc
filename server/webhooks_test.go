package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

func withWebhooks(c *Config, _ *spans, _ *[]Check) {
	c.Webhooks = map[string]Webhook{"sendgrid-2": fakeWebhook{}}
	c.TurnOnWebhook = map[string]string{"sendgrid": "set SENDGRID_WEBHOOK_PUBLIC_KEY"}
}

func signed(how string) edit { return header("Signature", how) }

func TestWebhooksAreTakenIn(t *testing.T) {
	t.Parallel()
	r := start(t, withWebhooks)
	// Any bytes, under any type: what is signed is the body as it came.
	body := "[{]\r\n\x00" + strings.Repeat("x", 993)
	got := r.send(t, http.MethodPost, "/webhooks/sendgrid-2", body, signed("good"), noKey)
	require.Equal(t, http.StatusNoContent, got.status, "%s", got.body)
	require.Empty(t, got.body)
	require.Len(t, r.ledger.events, len(body))
	require.Equal(t, fanfare.ProviderEvent{Provider: "sendgrid", Type: fanfare.EventDelivered, At: testNow, Address: "[@mail.example"}, r.ledger.events[0])
	require.Equal(t, "\r@mail.example", r.ledger.events[3].Address, "not a byte is lost")
	require.Equal(t, 1, r.ledger.inserts, "one body is one statement")

	require.Equal(t, http.StatusNoContent, r.send(t, http.MethodPost, "/webhooks/sendgrid-2", "x", signed("good"), noKey, header("Content-Type", "text/plain")).status)
	require.Equal(t, http.StatusNoContent, r.send(t, http.MethodPost, "/webhooks/sendgrid-2", "", signed("good"), noKey).status)
	require.Equal(t, 2, r.ledger.inserts, "without events nothing is written")
	require.Equal(t, http.StatusMethodNotAllowed, r.send(t, http.MethodGet, "/webhooks/sendgrid-2", "", noKey).status)
}

// A signature is made over the address too, and no other spelling of it will do.
func TestWebhooksKnowWhereTheyWereCalled(t *testing.T) {
	t.Parallel()
	called := calledWebhook{at: make(chan string, 1)}
	r := start(t, func(c *Config, _ *spans, _ *[]Check) { c.Webhooks = map[string]Webhook{"twilio": called} })
	for _, at := range []string{"/webhooks/twilio", "/webhooks/twilio?", "/webhooks/twilio?delivery=a.sms.1&call=b%2Bc+d%20e&&x=%zz;y", "/webhooks/tw%69lio?z=1&a=2"} {
		require.Equal(t, http.StatusNoContent, r.send(t, http.MethodPost, at, "", noKey).status, at)
		require.Equal(t, at, <-called.at)
	}
}

func TestWebhooksThatAreRefused(t *testing.T) {
	t.Parallel()
	r := start(t, withWebhooks)
	for _, c := range []struct {
		provider, signature string
		status              int
		code                api.ProblemCode
		detail              string
	}{
		{"sendgrid-2", "", 401, api.ProblemCodeBadSignature, "Set the public key that the provider shows"},
		{"sendgrid-2", "stale", 401, api.ProblemCodeStaleSignature, "set this machine's clock"},
		{"sendgrid-2", "unreadable", 400, api.ProblemCodeInvalidRequest, "is no list of events"},
		{"sendgrid", "good", 404, api.ProblemCodeNotFound, "The webhook of sendgrid is off here: set SENDGRID_WEBHOOK_PUBLIC_KEY."},
		{"pigeon", "good", 404, api.ProblemCodeNotFound, "no provider with this name that has a webhook"},
	} {
		got := r.send(t, http.MethodPost, "/webhooks/"+c.provider, "ada@blog.example", signed(c.signature), noKey)
		require.Equal(t, c.status, got.status, c)
		p := got.problem(t)
		require.Equal(t, c.code, p.Code)
		require.Contains(t, p.Detail, c.detail)
		require.False(t, p.Retryable)
		if c.status == http.StatusUnauthorized {
			require.Equal(t, "Signature", got.header.Get("WWW-Authenticate"))
			require.Contains(t, r.logs.String(), "code="+string(c.code))
		}
	}
	require.Empty(t, r.ledger.events)
	require.Contains(t, r.logs.String(), `msg="a webhook was refused" provider=sendgrid-2`)
	require.NotContains(t, r.logs.String(), "blog.example", "nothing personal in logs")
}

// TestWebhooksComeAgain: providers repeat what was not answered with 2xx.
func TestWebhooksComeAgain(t *testing.T) {
	t.Parallel()
	r := start(t, withWebhooks)
	r.ledger.fail = fanfare.ErrUnavailable
	got := r.send(t, http.MethodPost, "/webhooks/sendgrid-2", "x", signed("good"), noKey)
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.True(t, got.problem(t).Retryable)
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.NotContains(t, r.logs.String(), "mail.example")
	r.ledger.set(func() { r.ledger.fail = nil })
	require.Equal(t, http.StatusNoContent, r.send(t, http.MethodPost, "/webhooks/sendgrid-2", "x", signed("good"), noKey).status)
}

func TestWebhooksHaveALimit(t *testing.T) {
	t.Parallel()
	r := start(t, withWebhooks)
	got := r.send(t, http.MethodPost, "/webhooks/sendgrid-2", strings.Repeat("x", maxEvents), signed("unreadable"), noKey)
	require.Equal(t, http.StatusBadRequest, got.status, "it is read, although other requests may have less")
	got = r.send(t, http.MethodPost, "/webhooks/sendgrid-2", strings.Repeat("x", maxEvents+1), signed("good"), noKey)
	require.Equal(t, http.StatusRequestEntityTooLarge, got.status)
	require.Contains(t, got.problem(t).Detail, "10 MiB")
}
