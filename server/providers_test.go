package server

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

func withProviders(r *running) {
	probe := testNow.Add(time.Minute)
	r.ledger.providers = []fanfare.Provider{
		{Name: "sendgrid", Channel: fanfare.Email, State: fanfare.BreakerOpen, Since: testNow, NextProbe: &probe, Reason: "the network is away", UnknownEvents: 3},
		{Name: "smtp", Channel: fanfare.Email, State: fanfare.BreakerClosed, Since: testNow, ThrottledUntil: &probe},
	}
}

func TestProviders(t *testing.T) {
	t.Parallel()
	r := start(t)
	require.JSONEq(t, `{"items": [], "next_cursor": null}`, string(r.send(t, http.MethodGet, "/v1/providers", "").body))
	withProviders(r)
	var list api.ProviderList
	r.send(t, http.MethodGet, "/v1/providers", "").into(t, &list)
	require.Empty(t, cmp.Diff(r.ledger.providers, list.Items))
}

func TestAPersonTurnsAProvider(t *testing.T) {
	t.Parallel()
	r := start(t)
	withProviders(r)
	for _, step := range []struct {
		verb, body string
		state      fanfare.BreakerState
		pinned     bool
	}{
		{"close", "", fanfare.BreakerClosed, false},
		{"open", `{"pin": true}`, fanfare.BreakerOpen, true},
		{"open", `{"pin": true}`, fanfare.BreakerOpen, true},
		{"close", `{"pin": false}`, fanfare.BreakerClosed, false},
		{"open", `{"pin": null}`, fanfare.BreakerOpen, false},
		{"close", `{}`, fanfare.BreakerClosed, false},
	} {
		got := r.send(t, http.MethodPost, "/v1/providers/sendgrid/"+step.verb, step.body)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		var p fanfare.Provider
		got.into(t, &p)
		require.Equal(t, step.state, p.State)
		require.Equal(t, step.pinned, p.Pinned)
		require.Equal(t, "sendgrid", p.Name)
	}
	require.Equal(t, fanfare.BreakerClosed, r.ledger.providers[1].State, "the other is left alone")

	for _, verb := range []string{"open", "close"} {
		got := r.send(t, http.MethodPost, "/v1/providers/pigeon/"+verb, "")
		require.Equal(t, http.StatusNotFound, got.status)
		require.Contains(t, got.problem(t).Detail, "GET /v1/providers lists them")
		require.Equal(t, []string{"pin"}, fields(r.send(t, http.MethodPost, "/v1/providers/smtp/"+verb, `{"pin": "yes"}`).problem(t)))
		require.Equal(t, []string{"pins"}, fields(r.send(t, http.MethodPost, "/v1/providers/smtp/"+verb, `{"pins": true}`).problem(t)))
		require.Equal(t, http.StatusUnauthorized, r.send(t, http.MethodPost, "/v1/providers/smtp/"+verb, "", noKey).status)
	}
}
