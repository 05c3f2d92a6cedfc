package server

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// asReader carries the token of the fake's subscriber, which lives another hour.
var asReader = header("Authorization", "Bearer "+fanfare.SubscriberToken{Number: 42, Expires: testNow.Add(time.Hour)}.Sign(testSecret))

func TestSubscriberTokens(t *testing.T) {
	t.Parallel()
	r := start(t)
	const path = "/v1/subscribers/reader-1/tokens"
	for body, life := range map[string]time.Duration{
		"": 24 * time.Hour, "{}": 24 * time.Hour, `{"expires_in": null}`: 24 * time.Hour,
		`{"expires_in": 1}`: time.Second, `{"expires_in": 3600}`: time.Hour, `{"expires_in": 2592000}`: 30 * 24 * time.Hour,
	} {
		got := r.send(t, http.MethodPost, path, body)
		require.Equal(t, http.StatusCreated, got.status, "%s", got.body)
		var made api.SubscriberToken
		got.into(t, &made)
		require.Equal(t, testNow.Add(life), made.ExpiresAt)
		token, err := fanfare.ParseSubscriberToken(testSecret, made.Token, made.ExpiresAt.Add(-time.Nanosecond))
		require.NoError(t, err)
		require.Equal(t, fanfare.SubscriberToken{Number: 42, Expires: made.ExpiresAt}, token)
		require.Equal(t, http.StatusOK, r.send(t, http.MethodGet, "/v1/me/preferences", "", header("Authorization", "Bearer "+made.Token)).status)
		require.NotContains(t, r.logs.String(), made.Token)
	}
	for _, body := range []string{`{"expires_in": 0}`, `{"expires_in": -1}`, `{"expires_in": 2592001}`, `{"expires_in": "1h"}`, `{"expires_in": 0.5}`} {
		got := r.send(t, http.MethodPost, path, body)
		require.Equal(t, http.StatusBadRequest, got.status, body)
		require.Equal(t, []string{"expires_in"}, fields(got.problem(t)))
		require.NotContains(t, string(got.body), "e+06", "a number that people can read")
	}
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodPost, "/v1/subscribers/nobody/tokens", "").status)
	require.Equal(t, http.StatusUnauthorized, r.send(t, http.MethodPost, path, "", noKey).status)
}

// TestKeysAndTokensOpenDifferentDoors: a publisher's key opens nothing of a
// subscriber's, and a subscriber's token nothing else.
func TestKeysAndTokensOpenDifferentDoors(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, bad := range []string{
		"", "Bearer", "Bearer " + testKey, "Basic eDp5", "Bearer x",
		"Bearer " + fanfare.SubscriberToken{Number: 42, Expires: testNow.Add(time.Hour)}.Sign("another secret"),
		"Bearer " + fanfare.UnsubscribeLink{Topic: 42, Number: 1 << 40}.Token(testSecret),
		"Bearer " + fanfare.PreferencesLink{Topic: 42, Number: 1 << 40}.Token(testSecret),
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			got := r.send(t, method, "/v1/me/preferences", `{"x": 1}`, header("Authorization", bad))
			require.Equal(t, http.StatusUnauthorized, got.status, bad)
			p := got.problem(t)
			require.Equal(t, api.ProblemCodeUnauthorized, p.Code)
			require.Empty(t, p.Violations, "strangers are told nothing about the body")
			require.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"))
		}
	}
	got := r.send(t, http.MethodGet, "/v1/me/preferences", "",
		header("Authorization", "Bearer "+fanfare.SubscriberToken{Number: 42, Expires: testNow}.Sign(testSecret)))
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, api.ProblemCodeTokenExpired, got.problem(t).Code)
	require.Equal(t, `Bearer error="invalid_token"`, got.header.Get("WWW-Authenticate"))

	for _, path := range []string{"/v1/publications", "/v1/subscribers/reader-1", "/v1/subscribers/reader-1/preferences", "/v1/providers"} {
		got := r.send(t, http.MethodGet, path, "", asReader)
		require.Equal(t, http.StatusUnauthorized, got.status, path)
		require.Equal(t, api.ProblemCodeUnauthorized, got.problem(t).Code)
	}
	require.Equal(t, http.StatusUnauthorized, r.send(t, http.MethodPost, "/v1/subscribers/reader-1/tokens", "", asReader).status, "a token makes no other")
}

func TestPagesOfAnyOriginMayCallWhatATokenOpens(t *testing.T) {
	t.Parallel()
	r := start(t)
	origin := header("Origin", "https://blog.example")
	_, got, err := r.try(t.Context(), http.MethodOptions, "/v1/me/preferences", "", noKey, origin,
		header("Access-Control-Request-Method", "PUT"), header("Access-Control-Request-Headers", "authorization,content-type"))
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, got.status)
	require.Equal(t, "*", got.header.Get("Access-Control-Allow-Origin"))
	require.Contains(t, got.header.Get("Access-Control-Allow-Methods"), "PUT")
	require.Contains(t, got.header.Get("Access-Control-Allow-Headers"), "Authorization")
	require.Empty(t, got.header.Get("Access-Control-Allow-Credentials"), "no cookies")

	require.Equal(t, "*", r.send(t, http.MethodGet, "/v1/me/preferences", "", asReader, origin).header.Get("Access-Control-Allow-Origin"))
	refused := r.send(t, http.MethodGet, "/v1/me/preferences", "", noKey, origin)
	require.Equal(t, http.StatusUnauthorized, refused.status)
	require.Equal(t, "*", refused.header.Get("Access-Control-Allow-Origin"), "a page must be able to read why")
	require.Contains(t, refused.header.Get("Access-Control-Expose-Headers"), "X-Request-Id")

	for _, path := range []string{"/v1/publications", "/preferences/x", "/unsubscribe/x"} {
		require.Empty(t, r.send(t, http.MethodGet, path, "", origin).header.Get("Access-Control-Allow-Origin"), path)
	}
	_, got, err = r.try(t.Context(), http.MethodOptions, "/v1/publications", "", noKey, origin, header("Access-Control-Request-Method", "POST"))
	require.NoError(t, err)
	require.Empty(t, got.header.Get("Access-Control-Allow-Origin"), "keys do not belong into pages")
}
