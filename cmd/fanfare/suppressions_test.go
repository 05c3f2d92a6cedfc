package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

func TestSuppressions(t *testing.T) {
	t.Parallel()
	const hash = "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014" // of test1
	other := fanfare.Suppression{Channel: fanfare.Email, Hash: strings.Repeat("0", 64), Reason: fanfare.SuppressedManual}
	one := fanfare.Suppression{Channel: fanfare.Push, Hash: hash, Reason: fanfare.SuppressedDeadToken, Provider: "fcm", CreatedAt: time.Now().UTC().Truncate(time.Second)}
	more := "more"
	s := newStub(t, map[string][]answer{
		"GET /v1/suppressions":         {{http.StatusOK, api.SuppressionList{Items: []fanfare.Suppression{one}, NextCursor: &more}}, {http.StatusOK, api.SuppressionList{Items: []fanfare.Suppression{other}}}, {http.StatusOK, api.SuppressionList{Items: []fanfare.Suppression{one}, NextCursor: &more}}, {http.StatusOK, api.SuppressionList{}}},
		"POST /v1/suppressions":        {{http.StatusCreated, one}},
		"POST /v1/suppressions/lift":   {{http.StatusOK, one}},
		"POST /v1/suppressions/import": {{http.StatusOK, fanfare.ImportReport{Created: 1, Unchanged: 1, RejectedCount: 1, Rejected: []fanfare.RejectedLine{{Line: 3, Error: "has no address"}}}}},
	})
	run := func(args, stdin string) result {
		return command(t, s.environ(), stdin, strings.Fields("suppressions "+args)...)
	}

	got := run("list --channel push --address TEST1", "")
	require.Equal(t, 0, got.code, got.err)
	require.Regexp(t, `push +dead_token +\d{4}-\d\d-\d\d \d\d:\d\d +fcm +`+hash, got.out)
	require.Regexp(t, `email +manual .*a person +0{64}`, got.out, "of the second page")
	require.Equal(t, "address_hash="+hash+"&channel=push&cursor=more&limit=1000", s.query)
	require.NotContains(t, strings.ToLower(s.query), "test1")
	require.Empty(t, cmp.Diff([]fanfare.Suppression{one}, fromJSON[api.SuppressionList](t, run("list --limit 1 --json", "")).Items))
	require.Equal(t, "limit=1", s.query)
	require.Equal(t, "No suppressed address was found.\n", run("list", "").out)

	require.Equal(t, "Suppressed on push (dead_token): nothing more is sent to it, but for calls under way.\n", run("add push test1", "").out)
	require.JSONEq(t, `{"channel": "push", "address": "test1", "reason": "manual"}`, s.last().body)
	require.Contains(t, run("lift push test1", "").out, "Lifted: it was suppressed on push (dead_token) since")
	require.JSONEq(t, `{"channel": "push", "address": "test1"}`, s.last().body)
	require.Empty(t, cmp.Diff(one, fromJSON[fanfare.Suppression](t, run("lift push test1 --json", ""))))
	run("list --address +34(600)000-001", "")
	require.Contains(t, s.query, "address_hash="+hashOf("+34600000001"))

	got = run("import email - --format csv", "email\na@mail.example\nA@mail.example\n,\n")
	require.Equal(t, "Suppressed on email: 1 new, 1 known already, 1 rejected.\n  line 3: has no address\n", got.out)
	require.Equal(t, "text/csv", s.last().contentType)
	require.Equal(t, "channel=email&reason=manual", s.query)
	run("import email - --format csv --reason bounced", "email\na@mail.example\n")
	require.Equal(t, "channel=email&reason=bounced", s.query)
	for _, wrong := range []string{"add push", "lift", "import email", "import email -", "burn"} {
		require.Equal(t, 2, run(wrong, "").code, wrong)
	}
}
