package server

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

func TestMyPreferences(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.setDefaults("writer-1", map[fanfare.Channel]bool{fanfare.Push: false})
	got := r.send(t, http.MethodGet, "/v1/me/preferences", "", asReader)
	require.Equal(t, http.StatusOK, got.status)
	require.JSONEq(t, `{"channels": {}, "topics": {}, "effective": {"writer-1": {"email": true, "sms": true, "push": false, "inapp": true}}}`, string(got.body))

	got = r.send(t, http.MethodPut, "/v1/me/preferences", `{"channels": {"email": true, "sms": false, "push": null}, "topics": {"writer-1": {"email": false, "push": true}}}`, asReader)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	want := `{"channels": {"email": true, "sms": false}, "topics": {"writer-1": {"email": false, "push": true}},
		"effective": {"writer-1": {"email": false, "sms": false, "push": true, "inapp": true}}}`
	require.JSONEq(t, want, string(got.body))
	require.JSONEq(t, want, string(r.send(t, http.MethodGet, "/v1/me/preferences", "", asReader).body))

	for _, nothing := range []string{`{}`, `{"channels": null}`, `{"channels": {}, "topics": {"writer-1": null}}`} {
		got = r.send(t, http.MethodPut, "/v1/me/preferences", nothing, asReader)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		require.JSONEq(t, want, string(got.body), "what is left out is as before")
	}
}

func TestMyPreferencesNameWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := start(t)
	for body, want := range map[string][]string{
		`{"topics": {"writer-8": {"email": true}, "writer-9": {"sms": false}}}`:                              {"topics.writer-8", "topics.writer-9"},
		`{"channels": {"fax": true, "email": "yes"}, "topics": {"writer-1": {"sms": 1, "post": 2}}, "x": 1}`: {"channels.email", "channels.fax", "topics.writer-1.post", "topics.writer-1.sms", "x"},
		`{"channels": {"fax": true}, "topics": {"a\u0000b": {"email": true}, "a b": {}, "` + strings.Repeat("x", 1000) + `": {}, "": {}}}`: {
			"channels.fax", "topics.", "topics.a\x00b", "topics.a b", "topics." + strings.Repeat("x", 493),
		},
		`{"channels": []}`: {"channels"},
		``:                 {"body"},
		`{"topics": {` + strings.TrimSuffix(strings.Repeat(`"%": {},`, 1001), ",") + `}}`: {"topics"},
	} {
		for i := 0; strings.Contains(body, "%"); i++ {
			body = strings.Replace(body, "%", fmt.Sprintf("t%d", i), 1)
		}
		got := r.send(t, http.MethodPut, "/v1/me/preferences", body, asReader)
		require.Equal(t, http.StatusBadRequest, got.status, body)
		require.Equal(t, want, fields(got.problem(t)), shorten(body, 100))
	}
	require.Empty(t, r.ledger.given, "nothing of a bad request is taken")
	gone := header("Authorization", "Bearer "+fanfare.SubscriberToken{Number: 43, Expires: testNow.Add(time.Hour)}.Sign(testSecret))
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/v1/me/preferences", "", gone).status, "the person was erased")
}

func TestSubscriberPreferencesWithTheirChanges(t *testing.T) {
	t.Parallel()
	r := start(t)
	for n := range int64(5) {
		change := fanfare.PreferenceChange{ID: n + 1, Topic: "writer-1", Channel: fanfare.Email, Became: n%2 == 0, At: testNow}
		if n > 0 {
			change.Was = new(n%2 == 1)
		}
		r.ledger.changes = append(r.ledger.changes, change)
	}
	r.ledger.changes[4].Topic = ""
	var seen []string
	next := ""
	for pages := 0; pages == 0 || next != ""; pages++ {
		got := r.send(t, http.MethodGet, "/v1/subscribers/reader-1/preferences?limit=2&cursor="+next, "")
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		var answer api.AuditedPreferences
		got.into(t, &answer)
		require.Contains(t, answer.Effective, fanfare.Topic("writer-1"))
		for _, change := range answer.Changes {
			was := "nothing"
			if change.Was != nil {
				was = fmt.Sprint(*change.Was)
			}
			seen = append(seen, fmt.Sprint(change.Topic, " ", was, " ", change.Became))
		}
		next = ""
		if answer.NextCursor != nil {
			next = *answer.NextCursor
		}
	}
	require.Equal(t, []string{" false true", "writer-1 true false", "writer-1 false true", "writer-1 true false", "writer-1 nothing true"}, seen)
	require.Equal(t, []string{"cursor"}, fields(r.send(t, http.MethodGet, "/v1/subscribers/reader-1/preferences?cursor=x", "").problem(t)))
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/v1/subscribers/nobody/preferences", "").status)
}

var testPage = "/preferences/" + fanfare.PreferencesLink{Topic: 1, Number: 42}.Token(testSecret)

// formField finds the boxes and hidden fields of a page.
var formField = regexp.MustCompile(`<input type="(checkbox|hidden)"[^>]*name="([^"]+)" value="([^"]+)"( checked)?>`)

// formOf is what a browser would post if nothing were touched.
func formOf(page []byte) url.Values {
	form := url.Values{}
	for _, field := range formField.FindAllSubmatch(page, -1) {
		if string(field[1]) == "hidden" || len(field[4]) > 0 {
			form.Set(string(field[2]), string(field[3]))
		}
	}
	return form
}

func (r *running) post(t *testing.T, path string, form url.Values) answer {
	t.Helper()
	return r.send(t, http.MethodPost, path, form.Encode(), noKey, header("Content-Type", "application/x-www-form-urlencoded"))
}

func TestPreferencesPage(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.setDefaults("writer-1", map[fanfare.Channel]bool{fanfare.InApp: false})
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		got := r.send(t, method, testPage, "", noKey)
		require.Equal(t, http.StatusOK, got.status)
		require.Equal(t, "no-store", got.header.Get("Cache-Control"))
		require.Equal(t, "no-referrer", got.header.Get("Referrer-Policy"))
		require.Contains(t, got.header.Get("Content-Security-Policy"), "default-src 'none'")
		require.Contains(t, got.header.Get("Content-Type"), "text/html")
	}
	page := r.send(t, http.MethodGet, testPage, "", noKey).body
	require.Contains(t, string(page), "From Ada Lovelace")
	require.Contains(t, string(page), "/unsubscribe/"+testLink.Token(testSecret))
	require.NotContains(t, string(page), "Text messages", "the channel is off at this server")
	form := formOf(page)
	require.Equal(t, url.Values{
		"email": {"on"}, "was-email": {"on"}, "inapp": {"on"}, "was-inapp": {"on"},
		"topic-email": {"on"}, "was-topic-email": {"on"}, "was-topic-inapp": {"off"},
	}, form)

	saved := r.post(t, testPage, form)
	require.Equal(t, http.StatusOK, saved.status)
	require.Contains(t, string(saved.body), "Nothing was changed")
	require.Empty(t, r.ledger.given, "looking, and saving what was shown, changes nothing")

	form.Set("topic-inapp", "on")
	form.Del("email")
	saved = r.post(t, testPage, form)
	require.Equal(t, http.StatusOK, saved.status)
	require.Contains(t, string(saved.body), "Saved.")
	require.Equal(t, []fanfare.Preferences{{
		Channels: map[fanfare.Channel]bool{fanfare.Email: false},
		Topics:   map[fanfare.Topic]map[fanfare.Channel]bool{"writer-1": {fanfare.InApp: true}},
	}}, r.ledger.given, "only what was touched is put")
	now := formOf(saved.body)
	require.Empty(t, now.Get("email"))
	require.Equal(t, []string{"off", "on", "on"}, []string{now.Get("was-email"), now.Get("topic-inapp"), now.Get("topic-email")})
	require.Equal(t, now, formOf(r.send(t, http.MethodGet, testPage, "", noKey).body), "what the answer shows is what stands")

	token := strings.TrimPrefix(testPage, "/preferences/")
	require.NotContains(t, r.logs.String(), token)
	require.Contains(t, r.logs.String(), "/preferences/:token")
}

func TestPreferencesPageWithoutATopic(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodGet, "/preferences/"+fanfare.PreferencesLink{Number: 42}.Token(testSecret), "", noKey)
	require.Equal(t, http.StatusOK, got.status)
	require.NotContains(t, string(got.body), "topic-")
	require.NotContains(t, string(got.body), "subscribe")

	page := formOf(r.send(t, http.MethodGet, testPage, "", noKey).body)
	r.ledger.left = true
	got = r.send(t, http.MethodGet, testPage, "", noKey)
	require.Contains(t, string(got.body), "You are not subscribed to Ada Lovelace any more.")
	require.NotContains(t, string(got.body), "topic-")
	page.Del("topic-email")
	page.Del("inapp")
	r.post(t, testPage, page)
	require.Equal(t, []fanfare.Preferences{{Channels: map[fanfare.Channel]bool{fanfare.InApp: false}}}, r.ledger.given, "a form from before the subscription ended")
}

// What trackers and mail programs append to a link is none of ours, and keeps nobody in.
func TestPreferencesPageAtAnAddressWithMore(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"?utm=a&x=b", "?utm=a;x=b", "?utm=%zz", "?was-email=off&email=on"} {
		r := start(t)
		got := r.post(t, testPage+query, url.Values{"was-email": {"on"}})
		require.Equal(t, http.StatusOK, got.status, query)
		require.Equal(t, []fanfare.Preferences{{Channels: map[fanfare.Channel]bool{fanfare.Email: false}}}, r.ledger.given, query)
	}
}

func TestPreferencesPageThatCannotBeShown(t *testing.T) {
	t.Parallel()
	r := start(t)
	token := strings.TrimPrefix(testPage, "/preferences/")
	for _, bad := range []string{
		token[:len(token)-1], token + "A", "AAAA" + token[4:], testLink.Token(testSecret), "x", strings.Repeat("A", 900), "%00",
		fanfare.PreferencesLink{Topic: 1, Number: 43}.Token(testSecret),
	} {
		require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/preferences/"+bad, "", noKey).status, bad)
		got := r.post(t, "/preferences/"+bad, url.Values{"was-email": {"on"}})
		require.Equal(t, http.StatusNotFound, got.status, bad)
		require.Contains(t, string(got.body), "This link is not valid")
	}
	got := r.post(t, testPage, url.Values{"was-email": {"on"}, "x": {strings.Repeat("x", maxForm)}})
	require.Equal(t, http.StatusRequestEntityTooLarge, got.status)
	r.ledger.fail = fanfare.ErrUnavailable
	for _, got := range []answer{r.send(t, http.MethodGet, testPage, "", noKey), r.post(t, testPage, url.Values{"was-email": {"on"}})} {
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		require.Contains(t, string(got.body), "try again in a minute")
	}
	require.Empty(t, r.ledger.given)
}

func TestPreferencesPageEscapesTheTopicsName(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.topics["writer-1"] = `<script>alert("x")</script>`
	got := r.send(t, http.MethodGet, testPage, "", noKey)
	require.NotContains(t, string(got.body), "<script>")
	require.Contains(t, string(got.body), "&lt;script&gt;")
	require.Contains(t, string(got.body), "<style>"+pagesCSS+"</style>", "the policy's hash is that of the style as it stands")
}
