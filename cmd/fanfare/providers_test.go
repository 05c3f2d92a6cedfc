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

func TestProvidersAreListedWithWhatToDo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	soon, later := now.Add(25*time.Second), now.Add(90*time.Minute)
	list := []fanfare.Provider{
		{Name: "calm", State: fanfare.BreakerClosed, Reason: "an old failure", UnknownEvents: 1200},
		{Name: "away", State: fanfare.BreakerOpen, NextProbe: &soon, Reason: "the network is away"},
		{Name: "due", State: fanfare.BreakerOpen, NextProbe: &now},
		{Name: "held", State: fanfare.BreakerOpen, Pinned: true, Reason: "opened by a person"},
		{Name: "forced", State: fanfare.BreakerClosed, Pinned: true, ThrottledUntil: &later},
		{Name: "tried", State: fanfare.BreakerHalfOpen},
		{Name: "locked", State: fanfare.BreakerOpen, Account: true, NextProbe: &soon, Reason: "the key is refused"},
	}
	for i := range list {
		list[i].Channel, list[i].Since = fanfare.Email, now.Add(-3*time.Minute)
	}
	var out buffer
	require.NoError(t, printProviders(&out, list, now))
	for _, line := range []string{
		`calm +email +closed +3m ago +- +- *\n`,
		`away +email +open +3m ago +in 25s +- +the network is away\n`,
		`due +email +open +3m ago +now +- *\n`,
		`held +email +open, pinned +3m ago +- +- +opened by a person\n`,
		`forced +email +closed, pinned +3m ago +- +in 1h30m *\n`,
		`tried +email +half open +3m ago`,
		"calm reported 1,200 events about messages that are not ours.\n",
		"away is tried again by itself, in 25s. `fanfare providers close away` has it called at once.\n",
		"due is tried again when there is something to send. `fanfare providers close due`",
		"held is held open by a person. `fanfare providers close held` has it called again.\n",
		"forced is held closed by a person: it is called whatever it answers.",
		"tried is being tried: when a few calls succeed",
		"locked refuses this account: its key or settings are wrong. Put them right, start the workers again, then `fanfare providers close locked`.\n",
	} {
		require.Regexp(t, line, out.String())
	}
	require.NotContains(t, out.String(), "an old failure", "it is over")
	require.NotContains(t, out.String(), "locked is tried again")
}

func TestProviders(t *testing.T) {
	t.Parallel()
	p := fanfare.Provider{Name: "sendgrid", Channel: fanfare.Email, State: fanfare.BreakerOpen, Pinned: true, Since: time.Now().UTC().Add(time.Minute)}
	s := newStub(t, map[string][]answer{
		"GET /v1/providers":                 {{http.StatusOK, api.ProviderList{Items: []fanfare.Provider{p}}}, {http.StatusOK, api.ProviderList{}}},
		"POST /v1/providers/sendgrid/open":  {{http.StatusOK, p}},
		"POST /v1/providers/sendgrid/close": {{http.StatusOK, p}},
		"POST /v1/providers/pigeon/open":    {{http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Status: 404, Title: "Not found", Detail: "GET /v1/providers lists them."}}},
	})
	require.Empty(t, cmp.Diff([]fanfare.Provider{p}, fromJSON[api.ProviderList](t, command(t, s.environ(), "", "providers", "--json")).Items))
	require.Contains(t, command(t, s.environ(), "", "providers").out, "No provider is known. A worker")

	for args, want := range map[string]request{
		"open sendgrid":        {method: "POST", path: "/v1/providers/sendgrid/open", body: `{}`},
		"open sendgrid --pin":  {method: "POST", path: "/v1/providers/sendgrid/open", body: `{"pin":true}`},
		"close sendgrid --pin": {method: "POST", path: "/v1/providers/sendgrid/close", body: `{"pin":true}`},
	} {
		got := command(t, s.environ(), "", append([]string{"providers"}, strings.Fields(args)...)...)
		require.Equal(t, 0, got.code, got.err)
		require.Regexp(t, `sendgrid +email +open, pinned +0s ago`, got.out, "a clock that is behind is no reason for nonsense")
		want.contentType, want.authorization = "application/json", "Bearer key-1"
		require.Equal(t, want, s.last())
	}
	require.Empty(t, cmp.Diff(p, fromJSON[fanfare.Provider](t, command(t, s.environ(), "", "providers", "open", "sendgrid", "--json"))))
	got := command(t, s.environ(), "", "providers", "open", "pigeon")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "lists them")
	for _, wrong := range []string{"providers open", "providers shut sendgrid"} {
		require.Equal(t, 2, command(t, s.environ(), "", strings.Fields(wrong)...).code, wrong)
	}
}
