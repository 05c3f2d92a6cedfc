package fanfare_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

const secret fanfare.Secret = "correct horse battery staple"

func TestUnsubscribeTokenRoundTrip(t *testing.T) {
	t.Parallel()
	for _, link := range []fanfare.UnsubscribeLink{
		{Topic: 1, Number: 1},
		{Topic: 300, Number: 10_000_000},
		{Topic: math.MaxInt64, Number: math.MaxInt64},
		{},
	} {
		token := link.Token(secret)
		require.Regexp(t, `^[A-Za-z0-9_-]{24,48}$`, token, "it must stand in a URL and in HTML as it is")
		got, err := fanfare.ParseUnsubscribeToken(secret, token)
		require.NoError(t, err)
		require.Equal(t, link, got)
		_, err = fanfare.ParseUnsubscribeToken(secret+"!", token)
		require.ErrorIs(t, err, fanfare.ErrLinkTampered)
	}
}

func TestUnsubscribeTokenAnyBitChanged(t *testing.T) {
	t.Parallel()
	token := fanfare.UnsubscribeLink{Topic: 42, Number: 123_456}.Token(secret)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	require.NoError(t, err)
	for bit := range len(raw) * 8 {
		forged := bytes.Clone(raw)
		forged[bit/8] ^= 1 << (bit % 8)
		_, err := fanfare.ParseUnsubscribeToken(secret, base64.RawURLEncoding.EncodeToString(forged))
		require.ErrorIs(t, err, fanfare.ErrLinkTampered, "bit %d", bit)
	}
	for n := range len(token) {
		_, err := fanfare.ParseUnsubscribeToken(secret, token[:n])
		require.ErrorIs(t, err, fanfare.ErrLinkTampered, "cut at %d", n)
	}
	for _, other := range []string{"", "!", token + "A", token + token, token + "=", "../" + token} {
		_, err := fanfare.ParseUnsubscribeToken(secret, other)
		require.ErrorIs(t, err, fanfare.ErrLinkTampered, "%q", other)
	}
}

func TestUnsubscribeTokensDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for topic := range fanfare.TopicID(200) {
		for number := range fanfare.SubscriberNumber(200) {
			token := fanfare.UnsubscribeLink{Topic: topic, Number: number}.Token(secret)
			require.False(t, seen[token])
			seen[token] = true
		}
	}
}

func TestPreferencesTokenRoundTrip(t *testing.T) {
	t.Parallel()
	for _, link := range []fanfare.PreferencesLink{{Topic: 1, Number: 1}, {Number: 42}, {Topic: math.MaxInt64, Number: math.MaxInt64}} {
		token := link.Token(secret)
		require.Regexp(t, `^[A-Za-z0-9_-]{24,48}$`, token, "it must stand in a URL and in HTML as it is")
		got, err := fanfare.ParsePreferencesToken(secret, token)
		require.NoError(t, err)
		require.Equal(t, link, got)
		_, err = fanfare.ParsePreferencesToken(secret+"!", token)
		require.ErrorIs(t, err, fanfare.ErrLinkTampered)
	}
}

func TestSubscriberTokenHoldsUntilItExpires(t *testing.T) {
	t.Parallel()
	expires := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	want := fanfare.SubscriberToken{Number: 42, Expires: expires}
	token := want.Sign(secret)
	got, err := fanfare.ParseSubscriberToken(secret, token, expires.Add(-time.Nanosecond))
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, now := range []time.Time{expires, expires.Add(time.Hour)} {
		_, err = fanfare.ParseSubscriberToken(secret, token, now)
		require.ErrorIs(t, err, fanfare.ErrTokenExpired)
		require.NotErrorIs(t, err, fanfare.ErrLinkTampered)
		_, err = fanfare.ParseSubscriberToken(secret+"!", token, now)
		require.ErrorIs(t, err, fanfare.ErrLinkTampered, "what was not signed here has not expired either")
	}
}

// TestTokensServeOnePurpose passes each kind of token off as every other. All three hold
// two numbers, so that only the purpose keeps them apart.
func TestTokensServeOnePurpose(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 0)
	tokens := []string{
		fanfare.UnsubscribeLink{Topic: 7, Number: 1 << 40}.Token(secret),
		fanfare.PreferencesLink{Topic: 7, Number: 1 << 40}.Token(secret),
		fanfare.SubscriberToken{Number: 7, Expires: time.Unix(1<<40, 0)}.Sign(secret),
	}
	readers := []func(string) error{
		func(s string) error { _, err := fanfare.ParseUnsubscribeToken(secret, s); return err },
		func(s string) error { _, err := fanfare.ParsePreferencesToken(secret, s); return err },
		func(s string) error { _, err := fanfare.ParseSubscriberToken(secret, s, now); return err },
	}
	for i, token := range tokens {
		for j, read := range readers {
			if i == j {
				require.NoError(t, read(token))
			} else {
				require.ErrorIs(t, read(token), fanfare.ErrLinkTampered, "token %d read as %d", i, j)
			}
		}
	}
}

// TestUnsubscribeTokenStaysWhatItWas reads a link of a mail that was sent long ago.
func TestUnsubscribeTokenStaysWhatItWas(t *testing.T) {
	t.Parallel()
	require.Equal(t, "KsDEB2J119eNfyFn7C_dUDbzCZE", fanfare.UnsubscribeLink{Topic: 42, Number: 123_456}.Token(secret))
}

func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	type settings struct {
		Key fanfare.Secret `json:"key"`
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, verb+verb, secret, settings{secret})
	}
	require.NoError(t, json.NewEncoder(&out).Encode(settings{secret}))
	for _, log := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(log).Info("settings", "key", secret, "all", settings{secret})
	}
	require.Contains(t, out.String(), "[redacted]")
	require.NotContains(t, out.String(), "horse")
	require.NotContains(t, out.String(), fmt.Sprintf("%x", "horse"))
}
