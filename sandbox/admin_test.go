package sandbox_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

type listOf[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// pages reads a list to its end and says how many pages it took.
func pages[T any](s *server, path string) (all []T, n int) {
	s.t.Helper()
	for cursor := ""; ; n++ {
		var got listOf[T]
		s.call(http.MethodGet, path+"&cursor="+cursor, nil).into(s.t, &got)
		all = append(all, got.Items...)
		if got.NextCursor == "" {
			return all, n + 1
		}
		cursor = got.NextCursor
	}
}

func TestStatsOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	a := s.call(http.MethodGet, "/sandbox/stats", nil)
	require.NotContains(t, string(a.body), "first_at", "nothing has come yet")
	s.send(mail(2))
	s.send(mail(1))
	var got sandbox.Stats
	s.call(http.MethodGet, "/sandbox/stats", nil).into(t, &got)
	require.Empty(t, cmp.Diff(s.Stats(), got))
	require.Equal(t, int64(2), got.Distinct)
	require.Equal(t, int64(1), got.Duplicates)
}

func TestListsPage(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for range 3 {
		s.send(mail(5))
	}
	messages, n := pages[sandbox.Message](s, "/sandbox/messages?limit=4")
	require.Equal(t, 4, n)
	require.Empty(t, cmp.Diff(s.Messages("", "", 100), messages))
	require.Len(t, messages, 15)
	messages, _ = pages[sandbox.Message](s, "/sandbox/messages?limit=2&delivery=pub.email.3&to=reader-3@readers.example")
	require.Len(t, messages, 3)

	duplicates, n := pages[sandbox.Duplicate](s, "/sandbox/duplicates?limit=2")
	require.Equal(t, 3, n)
	require.Empty(t, cmp.Diff(s.Duplicates(), duplicates))

	calls, _ := pages[sandbox.Call](s, "/sandbox/calls?limit=2")
	require.Empty(t, cmp.Diff(s.Calls(0, 100), calls))
	for _, path := range []string{
		"/sandbox/calls?limit=0", "/sandbox/calls?cursor=x", "/sandbox/messages?limit=1001", "/sandbox/messages?cursor=1",
		"/sandbox/duplicates?cursor=-1", "/sandbox/duplicates?limit=x",
	} {
		a := s.call(http.MethodGet, path, nil)
		require.Equal(t, http.StatusBadRequest, a.status, path)
		require.Contains(t, string(a.body), "error")
	}
}

func TestResetForgetsAndNumbersGoOn(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	s.send(mail(2))
	s.send(mail(2))
	require.Equal(t, http.StatusNoContent, s.call(http.MethodDelete, "/sandbox/messages", nil).status)
	require.Empty(t, s.Messages("", "", 10))
	require.Empty(t, s.Calls(0, 10))
	require.Empty(t, s.Duplicates())
	require.Zero(t, s.Stats().Calls)
	require.Empty(t, s.search(object{}).Messages)
	s.send(mail(2))
	require.Equal(t, uint64(3), s.Calls(0, 10)[0].N)
	require.Equal(t, int64(2), s.Stats().Distinct)
	require.Zero(t, s.Stats().Duplicates)
}

func TestFaultsOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	set := `{"seed": 7, "rules": [{"channel": "email", "rate": 1, "action": "status", "status": 503, "retry_after": 2}, {"every": 2, "action": "latency", "delay": "1s"}],
		"down": {"twilio": "close"}, "pace": 333.5, "reject": ["@gone.example"], "logs": {"mode": "off", "status": 404, "lag": "1m30s"},
		"webhooks": {"hold": true, "delay": "2s", "early": 0.1, "duplicate": 0.2, "new_ids": true, "forged": 0.3, "stale": 1}}`
	require.Equal(t, http.StatusOK, s.call(http.MethodPut, "/sandbox/faults", set).status)
	require.Equal(t, http.StatusServiceUnavailable, s.send(mail(1)).status)
	var got sandbox.Faults
	a := s.call(http.MethodGet, "/sandbox/faults", nil)
	a.into(t, &got)
	require.Contains(t, string(a.body), `"delay":"1s"`)
	require.Empty(t, cmp.Diff(s.Faults(), got))
	require.Equal(t, int64(1), got.Rules[0].Applied)
	require.Equal(t, http.StatusOK, s.call(http.MethodPut, "/sandbox/faults", string(a.body)).status, "what is shown can be set")

	for _, bad := range []string{`{`, `{"speed": 1}`, `{"pace": -1}`, `{"logs": {"lag": "soon"}}`} {
		a := s.call(http.MethodPut, "/sandbox/faults", bad)
		require.Equal(t, http.StatusBadRequest, a.status, bad)
	}
	require.Equal(t, http.StatusNoContent, s.call(http.MethodDelete, "/sandbox/faults", nil).status)
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status)
}
