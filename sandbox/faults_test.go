package sandbox_test

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

// always applies a fault to every call.
func always(f sandbox.Fault) sandbox.Faults {
	f.Every = 1
	return sandbox.Faults{Rules: []sandbox.Fault{f}}
}

func TestStatusFault(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: sandbox.ActionStatus, Status: 429, RetryAfter: 7, RateLimitReset: 30})))
	a := s.send(mail(1))
	require.Equal(t, http.StatusTooManyRequests, a.status)
	require.Equal(t, "7", a.header.Get("Retry-After"))
	reset, err := strconv.ParseInt(a.header.Get("X-RateLimit-Reset"), 10, 64)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(30*time.Second), time.Unix(reset, 0), 10*time.Second)
	var got refused
	a.into(t, &got)
	require.Equal(t, "too many requests", got.Errors[0].Message)

	require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: sandbox.ActionStatus, Status: 502, HTML: true})))
	a = s.send(mail(1))
	require.Equal(t, http.StatusBadGateway, a.status)
	require.Equal(t, "text/html", a.header.Get("Content-Type"))
	require.Empty(t, a.header.Get("Retry-After"))
	require.False(t, json.Valid(a.body))
	stats := s.Stats()
	require.Zero(t, stats.Messages)
	require.Zero(t, stats.RejectedCalls, "a fault is no refusal")
	require.Equal(t, int64(2), stats.FaultsApplied)
	require.Equal(t, "call-1", s.Calls(0, 1)[0].ID)
	require.Equal(t, "status", s.Calls(0, 1)[0].Fault)
}

func TestAnyStatusUntilItIsLifted(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, status := range []int{401, 403, 429, 500, 503} {
		require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: sandbox.ActionStatus, Status: status})))
		for range 2 {
			require.Equal(t, status, s.send(mail(1)).status)
		}
	}
	require.NoError(t, s.SetFaults(sandbox.Faults{}))
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status)
	require.Equal(t, int64(1), s.Stats().Messages)
}

func TestFaultsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		action   sandbox.Action
		recorded int64
		hangs    bool
		status   string
	}{
		{sandbox.ActionAcceptThenClose, 2, false, "none"},
		{sandbox.ActionClose, 0, false, "none"},
		{sandbox.ActionTruncate, 2, false, "202"},
		{sandbox.ActionAcceptThenHang, 2, true, "none"},
		{sandbox.ActionHang, 0, true, "none"},
	}
	for _, tt := range tests {
		t.Run(string(tt.action), func(t *testing.T) {
			t.Parallel()
			s := start(t, sandbox.Config{})
			require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: tt.action})))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				_, err := s.do(s.request(http.MethodPost, "/v3/mail/send", mail(2)).WithContext(ctx))
				failed <- err
			}()
			if tt.hangs {
				require.Eventually(t, func() bool {
					calls := s.Calls(0, 1)
					return len(calls) == 1 && calls[0].Fault != "" && s.Stats().Messages == tt.recorded
				}, 10*time.Second, time.Millisecond)
				require.Zero(t, s.Calls(0, 1)[0].AnsweredAt)
				require.Empty(t, failed)
				cancel()
			}
			require.Error(t, <-failed)
			require.Eventually(t, func() bool { return s.Stats().ByStatus[tt.status] == 1 }, 10*time.Second, time.Millisecond)
			require.Equal(t, tt.recorded, s.Stats().Messages)
			require.Equal(t, tt.recorded > 0, s.Calls(0, 1)[0].Accepted)
			require.Equal(t, string(tt.action), s.Calls(0, 1)[0].Fault)
		})
	}
}

func TestLatencyAcceptsLate(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	delay := 50 * time.Millisecond
	require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: sandbox.ActionLatency, Delay: sandbox.Duration(delay)})))
	began := time.Now()
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status)
	require.GreaterOrEqual(t, time.Since(began), delay)

	require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: sandbox.ActionLatency, Delay: sandbox.Duration(time.Hour)})))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := s.do(s.request(http.MethodPost, "/v3/mail/send", mail(1)).WithContext(ctx))
		failed <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().FaultsApplied == 2 }, 10*time.Second, time.Millisecond)
	cancel()
	require.Error(t, <-failed)
	require.Eventually(t, func() bool { return s.Stats().ByStatus["none"] == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, int64(1), s.Stats().Messages, "a client that left is not accepted from")
}

func TestFaultsPickCalls(t *testing.T) {
	t.Parallel()
	failing := sandbox.Fault{Action: sandbox.ActionStatus, Status: 500}
	run := func(t *testing.T, faults sandbox.Faults, calls int) string {
		s := start(t, sandbox.Config{})
		require.NoError(t, s.SetFaults(faults))
		pattern := ""
		for range calls {
			if s.send(mail(1)).status == 500 {
				pattern += "x"
			} else {
				pattern += "."
			}
		}
		require.Equal(t, int64(len(pattern)-len(stripped(pattern))), s.Faults().Rules[0].Applied)
		return pattern
	}
	every, next, rate, elsewhere := failing, failing, failing, failing
	every.Every, next.Next, rate.Rate = 3, 2, 0.3
	elsewhere.Every, elsewhere.Provider = 1, "twilio"
	require.Equal(t, "..x..x..x", run(t, sandbox.Faults{Rules: []sandbox.Fault{every}}, 9))
	require.Equal(t, "xx....", run(t, sandbox.Faults{Rules: []sandbox.Fault{next}}, 6))
	require.Equal(t, "....", run(t, sandbox.Faults{Rules: []sandbox.Fault{elsewhere}}, 4))
	elsewhere.Provider, elsewhere.Channel = "sendgrid", "email"
	require.Equal(t, "xxxx", run(t, sandbox.Faults{Rules: []sandbox.Fault{elsewhere}}, 4))
	seeded := func(seed uint64) string {
		return run(t, sandbox.Faults{Seed: seed, Rules: []sandbox.Fault{rate}}, 60)
	}
	one := seeded(1)
	require.Equal(t, one, seeded(1), "the same seed picks the same calls")
	require.NotEqual(t, one, seeded(2))
	hits := len(one) - len(stripped(one))
	require.Greater(t, hits, 6)
	require.Less(t, hits, 36)
}

// stripped is pattern without its hits.
func stripped(pattern string) string {
	out := ""
	for _, c := range pattern {
		if c != 'x' {
			out += string(c)
		}
	}
	return out
}

func TestAcceptingFaultsLeaveRefusedCallsAlone(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	require.NoError(t, s.SetFaults(sandbox.Faults{Rules: []sandbox.Fault{{Next: 1, Action: sandbox.ActionAcceptThenClose}}}))
	bad := mail(1)
	delete(bad, "subject")
	require.Equal(t, http.StatusBadRequest, s.send(bad).status)
	require.Zero(t, s.Faults().Rules[0].Applied)
	_, err := s.do(s.request(http.MethodPost, "/v3/mail/send", mail(1)))
	require.Error(t, err)
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status)
}

func TestDown(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	down := func(mode string) sandbox.Faults { return sandbox.Faults{Down: map[string]string{"sendgrid": mode}} }
	require.NoError(t, s.SetFaults(down(sandbox.DownUnavailable)))
	require.Equal(t, http.StatusServiceUnavailable, s.send(mail(1000)).status)
	require.Equal(t, http.StatusServiceUnavailable, s.call(http.MethodPost, "/v3/logs", object{}).status)
	require.NoError(t, s.SetFaults(down(sandbox.DownClose)))
	for _, path := range []string{"/v3/mail/send", "/v3/logs"} {
		_, err := s.do(s.request(http.MethodPost, path, mail(1)))
		require.Error(t, err, path)
	}
	require.Equal(t, http.StatusOK, s.call(http.MethodGet, "/sandbox/stats", nil).status, "the admin API stays up")
	require.NoError(t, s.SetFaults(sandbox.Faults{}))
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status)
	require.Equal(t, map[string]int64{"503": 1, "none": 1, "202": 1}, s.Stats().ByStatus)
}

func TestPaceDelaysAnswersNotReceipt(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{Pace: 500})
	began := time.Now()
	for range 3 {
		require.Equal(t, http.StatusAccepted, s.send(mail(20)).status)
	}
	require.GreaterOrEqual(t, time.Since(began), 120*time.Millisecond, "60 messages at 500 a second")

	require.NoError(t, s.SetFaults(sandbox.Faults{Pace: 0.001}))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := s.do(s.request(http.MethodPost, "/v3/mail/send", mail(1)).WithContext(ctx))
		failed <- err
	}()
	require.Eventually(t, func() bool { return s.Stats().Messages == 61 }, 10*time.Second, time.Millisecond)
	require.Empty(t, failed)
	cancel()
	require.Error(t, <-failed)
	require.NoError(t, s.SetFaults(sandbox.Faults{Pace: 1_000_000}))
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status, "a new pace starts from an empty queue")
}

func TestFaultsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: sandbox.ActionHang})))
	err := s.SetFaults(sandbox.Faults{
		Rules: []sandbox.Fault{
			{Every: 1, Action: "explode"},
			{Action: sandbox.ActionHang},
			{Every: 1, Rate: 0.5, Action: sandbox.ActionHang},
			{Rate: 1.5, Action: sandbox.ActionHang},
			{Every: 1, Action: sandbox.ActionStatus},
			{Every: 1, Action: sandbox.ActionHang, Status: 500},
			{Every: 1, Action: sandbox.ActionLatency},
			{Every: 1, Action: sandbox.ActionHang, RetryAfter: -1},
		},
		Down: map[string]string{"sendgrid": "maybe"}, Pace: -1, Reject: []string{""},
		Logs:     sandbox.LogFaults{Mode: "odd", Status: 200, RetryAfter: -1, Lag: -1},
		Webhooks: sandbox.WebhookFaults{Delay: -1, Early: 1.5, Duplicate: -1, Forged: math.NaN(), Stale: 2},
	})
	for _, field := range []string{
		"rules.0.action", "rules.1.rate, every, next", "rules.2.rate, every, next", "rules.3.rate, every, next", "rules.4.status",
		"rules.5.status", "rules.6.delay", "rules.7.retry_after, rate_limit_reset", "down.sendgrid", "pace", "reject", "logs.mode", "logs.status", "logs.retry_after", "logs.lag",
		"webhooks.delay", "webhooks.early", "webhooks.duplicate", "webhooks.forged", "webhooks.stale",
	} {
		require.ErrorContains(t, err, field+":")
	}
	require.Equal(t, sandbox.ActionHang, s.Faults().Rules[0].Action, "the old faults stay")
}
