package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/nyaruka/phonenumbers"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestTopics(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPut, "/v1/topics/writer-2", `{"name": "Grace Hopper"}`)
	require.Equal(t, http.StatusCreated, got.status)
	require.JSONEq(t, `{"topic": "writer-2", "name": "Grace Hopper", "defaults": {"email": true, "sms": true, "push": true, "inapp": true}}`, string(got.body))
	got = r.send(t, http.MethodPut, "/v1/topics/writer-2", `{"name": "Grace Hopper", "defaults": {"sms": false, "push": null}}`)
	require.JSONEq(t, `{"topic": "writer-2", "name": "Grace Hopper", "defaults": {"email": true, "sms": false, "push": true, "inapp": true}}`, string(got.body), "null is left out, and what is left out is as before")
	require.Equal(t, http.StatusOK, r.send(t, http.MethodPut, "/v1/topics/writer-2", `{"name": "Grace Hopper"}`).status)
	require.Equal(t, http.StatusCreated, r.send(t, http.MethodPut, "/v1/topics/a%40b%3Ac", `{"name": "Escaped"}`).status)
	require.Equal(t, "Escaped", r.ledger.topics["a@b:c"])

	for path, body := range map[string][2]string{
		"/v1/topics/writer-3":                    {`{}`, "name"},
		"/v1/topics/writer-4":                    {`{"name": " "}`, "name"},
		"/v1/topics/writer-5":                    {`{"name": "two\nlines"}`, "name"},
		"/v1/topics/writer-6":                    {`{"name": "x", "shade": "red"}`, "shade"},
		"/v1/topics/two%20words":                 {`{"name": "x"}`, "topic"},
		"/v1/topics/%2541":                       {`{"name": "x"}`, "topic"},
		"/v1/topics/" + strings.Repeat("t", 201): {`{"name": "x"}`, "topic"},
		"/v1/topics/writer-7":                    {``, "body"},
		"/v1/topics/writer-8":                    {`{"name": "x", "defaults": {"fax": false}}`, "defaults.fax"},
		"/v1/topics/writer-9":                    {`{"name": "x", "defaults": {"sms": "no"}}`, "defaults.sms"},
	} {
		got := r.send(t, http.MethodPut, path, body[0])
		require.Equal(t, http.StatusBadRequest, got.status, path)
		require.Equal(t, []string{body[1]}, fields(got.problem(t)), path)
	}
	require.Len(t, r.ledger.topics, 3)
}

func TestSubscribers(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPut, "/v1/subscribers/reader-1", `{"email": "Ada@Mail.Example", "phone": "+34 600 000 001", "locale": "pt_BR",
		"time_zone": "Europe/Madrid", "devices": [{"token": "a", "platform": "ios"}], "attributes": {"plan": "gold"}}`)
	require.Equal(t, http.StatusCreated, got.status, "%s", got.body)
	want := `{"id": "reader-1", "email": "Ada@Mail.Example", "phone": "+34600000001", "locale": "pt-BR",
		"time_zone": "Europe/Madrid", "devices": [{"token": "a", "platform": "ios"}], "attributes": {"plan": "gold"}}`
	require.JSONEq(t, want, string(got.body))
	require.JSONEq(t, want, string(r.send(t, http.MethodGet, "/v1/subscribers/reader-1", "").body))

	got = r.send(t, http.MethodPut, "/v1/subscribers/reader-1", `{"email": null}`)
	require.Equal(t, http.StatusOK, got.status)
	require.JSONEq(t, `{"id": "reader-1"}`, string(got.body), "what is left out is forgotten")

	require.Equal(t, http.StatusNoContent, r.send(t, http.MethodDelete, "/v1/subscribers/reader-1", "").status)
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodDelete, "/v1/subscribers/reader-1", "").status)
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/v1/subscribers/reader-1", "").status)
}

func TestASubscriberNamesEveryOffendingFieldAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t)
	devices := strings.TrimSuffix(strings.Repeat(`{"token": "x"},`, 20), ",")
	got := r.send(t, http.MethodPut, "/v1/subscribers/two%20words", `{"email": "ada@nowhere", "phone": "600 000 001", "locale": "not a locale",
		"time_zone": "Europe/Atlantis", "devices": [{"token": ""}, {}, `+devices+`], "attributes": {"plan": 5, "nul": "a\u0000"}, "id": "reader-1"}`)
	require.Equal(t, http.StatusBadRequest, got.status)
	p := got.problem(t)
	require.Equal(t, []string{
		"attributes.nul", "attributes.plan", "devices", "devices[0].token", "devices[1].token", "email", "id", "locale", "phone", "time_zone",
	}, fields(p))
	require.NotContains(t, string(got.body), "nowhere")
	require.NotContains(t, string(got.body), "600 000 001")
	require.Empty(t, r.ledger.people)
}

func TestSubscriptions(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, id := range []string{"reader-1", "import"} { // a person may be called as the import is
		r.send(t, http.MethodPut, "/v1/subscribers/"+id, `{}`)
		path := "/v1/topics/writer-1/subscribers/" + id
		got := r.send(t, http.MethodPut, path, "")
		require.Equal(t, http.StatusCreated, got.status, "%s", got.body)
		require.JSONEq(t, `{"topic": "writer-1", "subscriber": "`+id+`"}`, string(got.body))
		require.Equal(t, http.StatusOK, r.send(t, http.MethodPut, path, "").status)
		require.Equal(t, http.StatusNoContent, r.send(t, http.MethodDelete, path, "").status)
		require.Equal(t, http.StatusNoContent, r.send(t, http.MethodDelete, path, "").status)
		require.Equal(t, http.StatusCreated, r.send(t, http.MethodPut, path, "").status)
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		for _, path := range []string{"/v1/topics/nobody/subscribers/reader-1", "/v1/topics/writer-1/subscribers/nobody"} {
			got := r.send(t, method, path, "")
			require.Equal(t, http.StatusNotFound, got.status, path)
			got.problem(t)
		}
	}
}

func TestEmails(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"a@b.example", "ada.lovelace+news@mail.example", "o'hara_1@sub-domain.mail.example", "ünïcode@bücher.example",
		strings.Repeat("l", 64) + "@mail.example", "a@" + strings.Repeat("d", 63) + ".example",
	} {
		require.True(t, validEmail(good), good)
	}
	for _, bad := range []string{
		"", "@", "a", "a@", "@b.example", "a@b", "a@b.", "a@.example", "a@b..example", "a@-b.example", "a@b-.example", "a@127.0.0.1", "a@[127.0.0.1]",
		"a b@mail.example", "a@mail.example ", " a@mail.example", "Ada <a@mail.example>", "<a@mail.example>", "a@mail.example (Ada)", `"a b"@mail.example`,
		"a@mail.example, b@mail.example", "a..b@mail.example", ".a@mail.example", "a@b@mail.example", "a@mail.example\r\nBcc: x@mail.example", "a\x00@mail.example",
		strings.Repeat("l", 65) + "@mail.example", "a@" + strings.Repeat("d", 64) + ".example", "a@" + strings.Repeat("d.", 130) + "example",
	} {
		require.False(t, validEmail(bad), "%q", bad)
	}
}

func TestPhones(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"+34600000001": "+34600000001", "+34 600 00 00 01": "+34600000001", "+1 (212) 555-0123": "+12125550123", "+15551234567": "+15551234567",
		"+44 07700 900123": "+447700900123", "+390612345678": "+390612345678",
	} {
		got, ok := normalPhone(given)
		require.True(t, ok, given)
		require.Equal(t, want, got)
	}
	for _, bad := range []string{
		"600000001", "0034600000001", "+", "+0", "+01234567890", "+34", "+3460000000012345", "+999600000001", "+1 212 555 0123 ext. 5", "+34abc", "x+34600000001",
		"+1 555 1234", "+" + strings.Repeat("3", 50),
	} {
		_, ok := normalPhone(bad)
		require.False(t, ok, bad)
	}
}

// TestNumbersThatAreNotParsed: the short way agrees with the library, for
// every country and kind of number the library knows.
func TestNumbersThatAreNotParsed(t *testing.T) {
	t.Parallel()
	short := 0
	for region := range phonenumbers.GetSupportedRegions() {
		for kind := phonenumbers.FIXED_LINE; kind <= phonenumbers.VOICEMAIL; kind++ {
			example := phonenumbers.GetExampleNumberForType(region, kind)
			if example == nil {
				continue
			}
			e164 := phonenumbers.Format(example, phonenumbers.E164)
			if !isE164(e164) {
				continue
			}
			short++
			parsed, err := phonenumbers.Parse(e164, "")
			require.NoError(t, err, e164)
			require.Equal(t, e164, phonenumbers.Format(parsed, phonenumbers.E164))
		}
	}
	require.Greater(t, short, 500)
}

func TestLocalesAndZones(t *testing.T) {
	t.Parallel()
	check := newSubscriberCheck()
	for range 2 { // the second time from memory
		for given, want := range map[string]string{"es": "es", "pt_BR": "pt-BR", "zh-Hant-TW": "zh-Hant-TW", "": "", "x x": "", "und": "", strings.Repeat("a", 36): ""} {
			s := fanfare.Subscriber{ID: "a", Locale: given}
			violations := check.check(&s)
			require.Equal(t, want, s.Locale)
			require.Equal(t, given != "" && want == "", len(violations) == 1, given)
		}
		for zone, good := range map[string]bool{"Europe/Madrid": true, "UTC": true, "Local": false, "Mars/Olympus": false, "../etc/passwd": false, "/etc/localtime": false} {
			require.Equal(t, good, check.validZone(zone), zone)
		}
	}
	for i := range 2 * maxRemembered {
		check.normalLocale(fmt.Sprintf("x%d", i))
		check.validZone(fmt.Sprintf("x%d", i))
	}
	require.LessOrEqual(t, len(check.locales), maxRemembered)
	require.LessOrEqual(t, len(check.zones), maxRemembered)
}
