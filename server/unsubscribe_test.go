package server

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

var (
	testLink = fanfare.UnsubscribeLink{Topic: 1, Number: 42}
	noKey    = header("Authorization", "")
)

func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	r := start(t)
	path := "/unsubscribe/" + testLink.Token(testSecret)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		got := r.send(t, method, path, "", noKey)
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, "no-store", got.header.Get("Cache-Control"))
		require.Equal(t, "no-referrer", got.header.Get("Referrer-Policy"))
		require.Contains(t, got.header.Get("Content-Security-Policy"), "default-src 'none'")
		require.Contains(t, got.header.Get("Content-Type"), "text/html")
		require.Empty(t, got.header.Values("Set-Cookie"))
		if method == http.MethodGet {
			require.Contains(t, string(got.body), "<strong>Ada Lovelace</strong>")
			require.Contains(t, string(got.body), `<form method="post">`)
		}
	}
	require.Empty(t, r.ledger.ended, "looking changes nothing")

	multipart := "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n"
	for i, post := range []struct{ media, body string }{
		{"application/x-www-form-urlencoded", "List-Unsubscribe=One-Click"},
		{"multipart/form-data; boundary=b", multipart},
		{"", ""},
	} {
		got := r.send(t, http.MethodPost, path, post.body, noKey, header("Content-Type", post.media))
		require.Equal(t, http.StatusOK, got.status)
		require.Contains(t, string(got.body), "You are unsubscribed")
		require.Equal(t, i+1, r.ledger.ended[testLink])
	}
	require.NotContains(t, r.logs.String(), testLink.Token(testSecret))
	require.Contains(t, r.logs.String(), "/unsubscribe/:token")
}

func TestUnsubscribeWithATamperedLink(t *testing.T) {
	t.Parallel()
	r := start(t)
	token := testLink.Token(testSecret)
	for _, bad := range []string{
		token[:len(token)-1], token + "A", "AAAA" + token[4:], testLink.Token("another secret"), "x", strings.Repeat("A", 900), "%00",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			got := r.send(t, method, "/unsubscribe/"+bad, "", noKey)
			require.Equal(t, http.StatusNotFound, got.status, bad)
			require.Contains(t, string(got.body), "This link is not valid")
		}
	}
	gone := fanfare.UnsubscribeLink{Topic: 2, Number: 42}
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/unsubscribe/"+gone.Token(testSecret), "", noKey).status)
	require.Empty(t, r.ledger.ended)
}

func TestUnsubscribeWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.fail = fanfare.ErrUnavailable
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		got := r.send(t, method, "/unsubscribe/"+testLink.Token(testSecret), "", noKey)
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		require.Contains(t, string(got.body), "try again in a minute")
	}
	require.NotContains(t, r.logs.String(), testLink.Token(testSecret))
}

func TestUnsubscribePageEscapesTheTopicsName(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.topics["writer-1"] = `<script>alert("x")</script>`
	got := r.send(t, http.MethodGet, "/unsubscribe/"+testLink.Token(testSecret), "", noKey)
	require.NotContains(t, string(got.body), "<script>")
	require.True(t, bytes.Contains(got.body, []byte("&lt;script&gt;")))
	require.Contains(t, string(got.body), "<style>"+pagesCSS+"</style>", "the policy's hash is that of the style as it stands")
}
