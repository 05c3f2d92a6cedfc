package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// refusals is the part of fakeLedger that suppressions are in.
type refusals []fanfare.Suppression

func suppressionOf(channel fanfare.Channel, address string, reason fanfare.SuppressionReason) fanfare.Suppression {
	hash := sha256.Sum256([]byte(strings.ToLower(address)))
	return fanfare.Suppression{Channel: channel, Hash: hex.EncodeToString(hash[:]), Reason: reason, CreatedAt: testNow}
}

func (f *fakeLedger) place(channel fanfare.Channel, address string) int {
	hash := suppressionOf(channel, address, "").Hash
	return slices.IndexFunc(f.refusals, func(s fanfare.Suppression) bool { return s.Channel == channel && s.Hash == hash })
}

func (f *fakeLedger) Suppress(ctx context.Context, channel fanfare.Channel, refused []fanfare.Refused) (created int64, err error) {
	leave, err := f.enter(ctx, "suppress")
	defer leave()
	if err != nil {
		return 0, err
	}
	f.chunks = append(f.chunks, len(refused))
	for _, r := range refused {
		if f.place(channel, r.Address) < 0 {
			f.refusals = append(f.refusals, suppressionOf(channel, r.Address, r.Reason))
			created++
		}
	}
	slices.SortFunc(f.refusals, func(a, b fanfare.Suppression) int {
		return cmp.Or(strings.Compare(string(a.Channel), string(b.Channel)), strings.Compare(a.Hash, b.Hash))
	})
	return created, nil
}

func (f *fakeLedger) Suppressions(ctx context.Context, q fanfare.SuppressionQuery) ([]fanfare.Suppression, error) {
	leave, err := f.enter(ctx, "list suppressions")
	defer leave()
	var list []fanfare.Suppression
	for _, s := range f.refusals {
		behind := cmp.Or(strings.Compare(string(s.Channel), string(q.AfterChannel)), strings.Compare(s.Hash, q.AfterHash)) > 0
		if behind && len(list) < q.Limit && (q.Channel == "" || q.Channel == s.Channel) && (q.Reason == "" || q.Reason == s.Reason) && (q.Hash == "" || q.Hash == s.Hash) {
			list = append(list, s)
		}
	}
	return list, err
}

func (f *fakeLedger) Suppression(ctx context.Context, channel fanfare.Channel, address string) (fanfare.Suppression, error) {
	leave, err := f.enter(ctx, "read suppression")
	defer leave()
	at := f.place(channel, address)
	if err != nil || at < 0 {
		return fanfare.Suppression{}, cmp.Or(err, fanfare.ErrNotFound)
	}
	return f.refusals[at], nil
}

func (f *fakeLedger) LiftSuppression(ctx context.Context, channel fanfare.Channel, address string) (lifted fanfare.Suppression, err error) {
	leave, err := f.enter(ctx, "lift")
	defer leave()
	at := f.place(channel, address)
	if err != nil || at < 0 {
		return lifted, cmp.Or(err, fanfare.ErrNotFound)
	}
	lifted = f.refusals[at]
	f.refusals = slices.Delete(f.refusals, at, at+1)
	return lifted, nil
}

func TestAnAddressIsSuppressedAndLifted(t *testing.T) {
	t.Parallel()
	r := start(t)
	body := `{"channel": "email", "address": "Ada@mail.example", "reason": "complained"}`
	for _, want := range []int{http.StatusCreated, http.StatusOK} {
		got := r.send(t, http.MethodPost, "/v1/suppressions", body)
		require.Equal(t, want, got.status, "%s", got.body)
		var s fanfare.Suppression
		got.into(t, &s)
		require.Equal(t, suppressionOf(fanfare.Email, "ada@mail.example", fanfare.SuppressedComplained), s)
		require.NotContains(t, strings.ToLower(string(got.body)), "ada@mail.example")
	}
	// Numbers in the form that subscribers' have; a person's word without a reason.
	got := r.send(t, http.MethodPost, "/v1/suppressions", `{"channel": "sms", "address": "+34 600 000 001"}`)
	require.Equal(t, http.StatusCreated, got.status)
	require.Equal(t, 1, r.ledger.place(fanfare.SMS, "+34600000001"))
	require.Equal(t, fanfare.SuppressedManual, r.ledger.refusals[1].Reason)

	lift := `{"channel": "email", "address": "ada@MAIL.example"}`
	got = r.send(t, http.MethodPost, "/v1/suppressions/lift", lift)
	require.Equal(t, http.StatusOK, got.status)
	var lifted fanfare.Suppression
	got.into(t, &lifted)
	require.Equal(t, suppressionOf(fanfare.Email, "ada@mail.example", fanfare.SuppressedComplained), lifted)
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodPost, "/v1/suppressions/lift", lift).status)
	require.Len(t, r.ledger.refusals, 1)
}

func TestWhatIsNoAddressIsNotSuppressed(t *testing.T) {
	t.Parallel()
	r := start(t)
	for body, field := range map[string]string{
		`{"channel": "email", "address": "nobody"}`:                           "address",
		`{"channel": "sms", "address": "600"}`:                                "address",
		`{"channel": "inapp", "address": "reader-1"}`:                         "address",
		`{"channel": "push", "address": "a\u0001b"}`:                          "address",
		`{"channel": "pigeon", "address": "coo"}`:                             "channel",
		`{"channel": "email", "address": "a@mail.example", "reason": "mood"}`: "reason",
		`{"channel": "email"}`:                                                "address",
	} {
		for _, path := range []string{"/v1/suppressions", "/v1/suppressions/lift"} {
			if field == "reason" && path != "/v1/suppressions" {
				continue
			}
			got := r.send(t, http.MethodPost, path, body)
			require.Equal(t, http.StatusBadRequest, got.status, body)
			var p api.Problem
			got.into(t, &p)
			require.Equal(t, field, p.Violations[0].Field, body)
		}
	}
	require.Empty(t, r.ledger.refusals)
}

func TestSuppressionsAreListedInPages(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		r.ledger.refusals = append(r.ledger.refusals, suppressionOf(fanfare.Email, name+"@mail.example", fanfare.SuppressedBounced), suppressionOf(fanfare.Push, name, fanfare.SuppressedDeadToken))
	}
	_, err := r.ledger.Suppress(t.Context(), fanfare.Email, nil) // sorts
	require.NoError(t, err)
	for query, want := range map[string]int{
		"": 10, "&channel=email": 5, "&reason=dead_token": 5, "&channel=email&reason=dead_token": 0,
		"&address_hash=" + suppressionOf(fanfare.Email, "c@mail.example", "").Hash: 1,
	} {
		seen := map[string]bool{}
		for cursor := ""; ; {
			var page api.SuppressionList
			r.send(t, http.MethodGet, "/v1/suppressions?limit=2"+query+cursor, "").into(t, &page)
			require.LessOrEqual(t, len(page.Items), 2)
			for _, s := range page.Items {
				seen[string(s.Channel)+s.Hash] = true
			}
			if page.NextCursor == nil {
				break
			}
			cursor = "&cursor=" + *page.NextCursor
		}
		require.Len(t, seen, want, query)
	}
	require.Equal(t, http.StatusBadRequest, r.send(t, http.MethodGet, "/v1/suppressions?address_hash=ada", "").status)
}

// A cursor that no page gave is refused: the ledger would fail at a NUL, and begin again
// at what is no hash.
func TestCursorsThatNoPageGaveAreRefused(t *testing.T) {
	t.Parallel()
	r := start(t)
	hash := suppressionOf(fanfare.Email, "a", "").Hash
	for list, cursors := range map[string][]string{
		"/v1/suppressions":                     {"email", "email ", "email zz", "email " + hash[2:], "em\x00ail " + hash, "em\xff " + hash, " " + hash, "email " + hash + "00"},
		"/v1/templates":                        {"a\x00b", "ñ", strings.Repeat("x", 201)},
		"/v1/templates/t1/versions":            {"0", "-1", "x", "2147483648", "99999999999999999999"},
		"/v1/subscribers/reader-1/preferences": {"0", "-1", "x", "99999999999999999999"},
	} {
		for _, cursor := range cursors {
			got := r.send(t, http.MethodGet, list+"?cursor="+base64.RawURLEncoding.EncodeToString([]byte(cursor)), "")
			require.Equal(t, http.StatusBadRequest, got.status, "%s %q", list, cursor)
			require.Equal(t, []string{"cursor"}, fields(got.problem(t)))
		}
	}
}

// Providers say in words of their own, or not at all, why an address is on a list; whoever
// exports the list knows.
func TestAProvidersListIsOfOneReason(t *testing.T) {
	t.Parallel()
	r := start(t)
	const bounces = "status,reason,email,created\n" +
		"5.1.1,\"550 5.1.1 The email account that you tried to reach does not exist, try again\",one@mail.example,1443651125\n" +
		"5.7.1,complained,two@mail.example,1443651125\n,,three@mail.example,\n"
	got := r.send(t, http.MethodPost, "/v1/suppressions/import?channel=email&reason=bounced", bounces, header("Content-Type", "text/csv"))
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	for name, want := range map[string]fanfare.SuppressionReason{
		"one": fanfare.SuppressedBounced, "two": fanfare.SuppressedComplained, "three": fanfare.SuppressedBounced,
	} {
		require.Equal(t, want, r.ledger.refusals[r.ledger.place(fanfare.Email, name+"@mail.example")].Reason, name)
	}
}

// Long lines must not gather in memory: an address holds the whole line it was cut from.
func TestAProvidersListOfLongLinesIsTakenBySmallChunks(t *testing.T) {
	t.Parallel()
	r := start(t)
	var body strings.Builder
	body.WriteString("email,reason\n")
	for i := range 300 {
		fmt.Fprintf(&body, "reader-%d@mail.example,%s\n", i, strings.Repeat("x", 60<<10))
	}
	got := r.send(t, http.MethodPost, "/v1/suppressions/import?channel=email", body.String(), header("Content-Type", "text/csv"))
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	require.Len(t, r.ledger.refusals, 300)
	for _, lines := range r.ledger.chunks {
		require.LessOrEqual(t, lines*60<<10, chunkBytes+maxLine)
	}
}

func TestAProvidersListIsTakenOver(t *testing.T) {
	t.Parallel()
	for media, body := range map[string]string{
		"text/csv": "created,Email,reason,status\n" +
			"1443651125,one@mail.example,bounced,5.1.1\n\n" +
			"1443651125,two@mail.example,550 no such user,5.1.1\n" +
			"1443651125,nobody,bounced,\n" +
			"1443651125,ONE@mail.example,bounced\n" +
			"1443651125,ONE@mail.example,bounced,\n",
		"application/x-ndjson": `{"email": "one@mail.example", "reason": "bounced", "created": 5}` + "\n\n" +
			`{"address": "two@mail.example"}` + "\n" + `{"email": "nobody"}` + "\n" + `{"reason": "bounced"}` + "\n" + `{"email": "ONE@mail.example"}` + "\n",
	} {
		r := start(t)
		got := r.send(t, http.MethodPost, "/v1/suppressions/import?channel=email", body, header("Content-Type", media))
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		var report fanfare.ImportReport
		got.into(t, &report)
		require.EqualValues(t, 2, report.Created, media)
		require.EqualValues(t, 1, report.Unchanged, media)
		require.EqualValues(t, 2, report.RejectedCount, media)
		require.Equal(t, fanfare.SuppressedBounced, r.ledger.refusals[r.ledger.place(fanfare.Email, "one@mail.example")].Reason)
		require.Equal(t, fanfare.SuppressedManual, r.ledger.refusals[r.ledger.place(fanfare.Email, "two@mail.example")].Reason)
		require.NotContains(t, string(got.body), "nobody")
	}
	r := start(t)
	for path, body := range map[string]string{"?channel=email&reason=mood": "email\na@mail.example\n", "?channel=email": "name,created\nx,1\n", "": "email\na@mail.example\n"} {
		got := r.send(t, http.MethodPost, "/v1/suppressions/import"+path, body, header("Content-Type", "text/csv"))
		require.Equal(t, http.StatusBadRequest, got.status, "%s", got.body)
	}
	require.Equal(t, "must have at least 64 characters", detail(t, r.send(t, http.MethodGet, "/v1/suppressions?address_hash=ab", "").problem(t), "address_hash"))
	require.Equal(t, http.StatusUnsupportedMediaType, r.send(t, http.MethodPost, "/v1/suppressions/import?channel=email", "x", header("Content-Type", "text/plain")).status)
}
