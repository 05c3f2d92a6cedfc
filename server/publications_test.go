package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const article = `{"key": "article-1", "topic": "writer-1", "content": {"title": "On the Analytical Engine", "url": "https://blog.example/1"}}`

func publish(t *testing.T, r *running, key string) fanfare.PublicationID {
	t.Helper()
	got := r.send(t, http.MethodPost, "/v1/publications", strings.Replace(article, "article-1", key, 1))
	require.Equal(t, http.StatusAccepted, got.status, "%s", got.body)
	var accepted api.AcceptedPublication
	got.into(t, &accepted)
	return accepted.Id
}

func fields(p api.Problem) []string {
	var names []string
	for _, v := range p.Violations {
		names = append(names, v.Field)
	}
	slices.Sort(names)
	return names
}

func detail(t *testing.T, p api.Problem, field string) string {
	t.Helper()
	i := slices.IndexFunc(p.Violations, func(v fanfare.Violation) bool { return v.Field == field })
	require.GreaterOrEqual(t, i, 0, "no violation of %s in %v", field, p.Violations)
	return p.Violations[i].Detail
}

func TestPublish(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPost, "/v1/publications", article)
	require.Equal(t, http.StatusAccepted, got.status, "%s", got.body)
	var accepted api.AcceptedPublication
	got.into(t, &accepted)
	self := "https://fanfare.example/v1/publications/" + string(accepted.Id)
	require.Equal(t, api.AcceptedPublication{
		Id: "0199c7a0-0000-7000-8000-000000000001", Key: "article-1", State: fanfare.Accepted, Intended: 3,
		Links: api.Links{
			"self": self, "deliveries": self + "/deliveries",
			"temporal": "http://temporal.example:8233/namespaces/fanfare/workflows/publish%2F" + string(accepted.Id),
		},
	}, accepted)
	require.Equal(t, self, got.header.Get("Location"))
	require.EqualValues(t, 1, r.wakes.Load())

	again := r.send(t, http.MethodPost, "/v1/publications", article)
	require.Equal(t, http.StatusAccepted, again.status)
	require.JSONEq(t, string(got.body), string(again.body))
}

func TestPublishPassesTheRequestAsItWasSent(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPost, "/v1/publications", `{"key": "k", "topic": "writer-1", "channels": ["inapp", "email"], "class": "transactional",
		"content": {"title": "T", "url": "http://x.example", "summary": "s", "body": "b"},
		"scheduled_at": "2026-03-01T14:00:00+01:00", "expires_at": "2026-03-02T12:00:00Z"}`, header("Idempotency-Key", "request 1"))
	require.Equal(t, http.StatusAccepted, got.status, "%s", got.body)
	draft := r.ledger.keys["request 1"]
	require.Equal(t, []fanfare.Channel{fanfare.InApp, fanfare.Email}, draft.Channels)
	require.Equal(t, fanfare.Content{Title: "T", URL: "http://x.example", Summary: "s", Body: "b"}, draft.Content)
	require.Equal(t, fanfare.Transactional, draft.Class)
	require.True(t, draft.ScheduledAt.Equal(testNow.Add(3600e9)))

	r.send(t, http.MethodPost, "/v1/publications", `{"key": "k2", "topic": "writer-1", "channels": null, "class": null, "scheduled_at": null,
		"expires_at": null, "content": {"title": "T", "url": "http://x.example", "summary": null}}`)
	require.Equal(t, fanfare.Draft{Key: "k2", Topic: "writer-1", Content: fanfare.Content{Title: "T", URL: "http://x.example"}}, r.ledger.drafts["k2"],
		"null counts as left out")
}

func TestPublishNamesEveryOffendingFieldAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t)
	body := fmt.Sprintf(`{"key": %q, "topic": "nobody", "channels": ["email", "fax", "sms"], "class": "urgent", "surprise": 1,
		"content": {"url": "ftp://x.example/f", "summary": 7, "body": %q, "titel": "x"},
		"scheduled_at": "2020-01-01T00:00:00Z", "expires_at": "2019-01-01T00:00:00Z"}`, strings.Repeat("k", 201), strings.Repeat("b", maxContent))
	got := r.send(t, http.MethodPost, "/v1/publications", body)
	require.Equal(t, http.StatusBadRequest, got.status)
	p := got.problem(t)
	require.Equal(t, api.ProblemCodeInvalidRequest, p.Code)
	require.False(t, p.Retryable)
	require.Equal(t, []string{
		"channels[1]", "channels[2]", "class", "content.body", "content.summary", "content.titel", "content.title", "content.url",
		"expires_at", "key", "scheduled_at", "surprise", "topic",
	}, fields(p))
	require.Equal(t, "is required", detail(t, p, "content.title"))
	require.Equal(t, "the channel sms is switched off: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN", detail(t, p, "channels[2]"))
	require.Equal(t, "must be one of email, sms, push, inapp", detail(t, p, "channels[1]"))
	require.Equal(t, "must have at most 200 characters", detail(t, p, "key"))
	require.Equal(t, "is not a field of this request", detail(t, p, "surprise"))
	require.Contains(t, detail(t, p, "content.body"), "at most 262144")
	require.Contains(t, p.Detail, "13 fields are wrong")
	require.Empty(t, r.ledger.publications)
	require.Zero(t, r.wakes.Load())
}

func TestPublishViolations(t *testing.T) {
	t.Parallel()
	r := start(t)
	with := func(replacements ...string) string { return strings.NewReplacer(replacements...).Replace(article) }
	extra := func(members string) string { return with(`"key"`, members+`, "key"`) }
	for name, c := range map[string]struct{ body, field, detail string }{
		"blank title":            {with("On the Analytical Engine", "  "), "content.title", "must not be blank"},
		"empty title":            {with("On the Analytical Engine", ""), "content.title", "must not be empty"},
		"title of two lines":     {with("the Analytical", `the\nAnalytical`), "content.title", "must be one line without control characters"},
		"relative url":           {with("https://blog.example/1", "/1"), "content.url", "must be a whole http or https address"},
		"url without a host":     {with("https://blog.example/1", "https:///1"), "content.url", "must be a whole http or https address"},
		"url with a blank":       {with("https://blog.example/1", "https://blog.example/a b"), "content.url", "must be a whole http or https address"},
		"url of a script":        {with("https://blog.example/1", "javascript:alert(1)"), "content.url", "must be a whole http or https address"},
		"no content":             {`{"key": "k", "topic": "writer-1"}`, "content", "is required"},
		"content is text":        {`{"key": "k", "topic": "writer-1", "content": "x"}`, "content", "must be an object"},
		"NUL in the body":        {with(`"title"`, `"body": "a\u0000b", "title"`), "content.body", "must not contain a NUL character"},
		"key of strange letters": {with("article-1", "ärticle 1"), "key", nameHint},
		"key is null":            {with(`"article-1"`, "null"), "key", "must be text"},
		"empty channels":         {extra(`"channels": []`), "channels", "must not be empty"},
		"channel named twice":    {extra(`"channels": ["email", "email"]`), "channels", "must not name anything twice"},
		"channel without a hint": {extra(`"channels": ["push"]`), "channels[0]", "the channel push is switched off: it has no provider"},
		"scheduled far ahead":    {extra(`"scheduled_at": "2026-04-01T12:00:00Z"`), "scheduled_at", "must be at most 30 days ahead"},
		"scheduled in the past":  {extra(`"scheduled_at": "2026-03-01T11:58:59Z"`), "scheduled_at", "is in the past"},
		"no such day":            {extra(`"scheduled_at": "2026-02-31T12:00:00Z"`), "scheduled_at", "must be a time such as 2026-01-31T18:00:00Z"},
		"time without zone":      {extra(`"scheduled_at": "2026-03-01T12:00:00"`), "scheduled_at", "must be a time such as 2026-01-31T18:00:00Z"},
		"expired already":        {extra(`"expires_at": "2026-03-01T12:00:00Z"`), "expires_at", "is in the past"},
		"expires too early":      {extra(`"scheduled_at": "2026-03-03T00:00:00Z", "expires_at": "2026-03-02T00:00:00Z"`), "expires_at", "must be after scheduled_at"},
		"not JSON":               {`{"key": `, "body", "is not valid JSON"},
		"two documents":          {article + article, "body", "is not one JSON document"},
		"a bracket too many":     {article + "}", "body", "is not one JSON document"},
		"a list":                 {`[]`, "body", "must be an object"},
		"null":                   {`null`, "body", "must be an object"},
	} {
		got := r.send(t, http.MethodPost, "/v1/publications", c.body)
		require.Equal(t, http.StatusBadRequest, got.status, name)
		p := got.problem(t)
		require.Equal(t, []string{c.field}, fields(p), name)
		require.Contains(t, p.Violations[0].Detail, c.detail, name)
	}
	require.Empty(t, r.ledger.publications)
	near := extra(`"scheduled_at": "2026-03-01T11:59:01Z"`)
	require.Equal(t, http.StatusAccepted, r.send(t, http.MethodPost, "/v1/publications", near).status, "the publisher's clock may be a little behind")
}

func TestPublishWithoutAnyChannel(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *Config, _ *spans, _ *[]Check) { c.Channels = nil })
	p := r.send(t, http.MethodPost, "/v1/publications", article).problem(t)
	require.Equal(t, []string{"channels"}, fields(p))
}

func TestPublishConflicts(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := publish(t, r, "article-1")
	other := strings.Replace(article, "Analytical", "Difference", 1)
	got := r.send(t, http.MethodPost, "/v1/publications", other)
	require.Equal(t, http.StatusConflict, got.status)
	p := got.problem(t)
	require.Equal(t, api.ProblemCodeKeyConflict, p.Code)
	require.Equal(t, []string{"content.title"}, fields(p))
	require.Contains(t, p.Detail, string(id))

	r.send(t, http.MethodPost, "/v1/publications", strings.Replace(article, "article-1", "article-2", 1), header("Idempotency-Key", "one"))
	got = r.send(t, http.MethodPost, "/v1/publications", strings.Replace(article, "article-1", "article-3", 1), header("Idempotency-Key", "one"))
	require.Equal(t, http.StatusUnprocessableEntity, got.status)
	require.Equal(t, api.ProblemCodeKeyReused, got.problem(t).Code)

	for _, key := range []string{strings.Repeat("k", 201), "tab\there"} {
		p = r.send(t, http.MethodPost, "/v1/publications", article, header("Idempotency-Key", key)).problem(t)
		require.Equal(t, []string{"Idempotency-Key"}, fields(p))
	}
}

// TestARepeatIsNeverTooLate: what was right when it was accepted is no fault
// when a publisher's queue delivers the request once more.
func TestARepeatIsNeverTooLate(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := publish(t, r, "article-1")
	late := strings.Replace(article, `"key"`, `"channels": ["sms"], "scheduled_at": "2026-02-01T00:00:00Z", "expires_at": "2026-02-02T00:00:00Z", "key"`, 1)
	got := r.send(t, http.MethodPost, "/v1/publications", late)
	require.Equal(t, http.StatusAccepted, got.status, "%s", got.body)
	var accepted api.AcceptedPublication
	got.into(t, &accepted)
	require.Equal(t, id, accepted.Id)
	p := r.send(t, http.MethodPost, "/v1/publications", strings.Replace(late, "article-1", "article-2", 1)).problem(t)
	require.Equal(t, []string{"channels[0]", "expires_at", "scheduled_at"}, fields(p))
}

func TestHundredIdenticalRequestsAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t)
	var all sync.WaitGroup
	answers, failures := make([]answer, 100), make([]error, 100)
	for i := range answers {
		all.Go(func() { _, answers[i], failures[i] = r.try(t.Context(), http.MethodPost, "/v1/publications", article) })
	}
	all.Wait()
	for i, got := range answers {
		require.NoError(t, failures[i])
		require.Equal(t, http.StatusAccepted, got.status)
		require.JSONEq(t, string(answers[0].body), string(got.body))
	}
	require.Len(t, r.ledger.publications, 1)
}

func TestReadPublication(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := publish(t, r, "article-1")
	got := r.send(t, http.MethodGet, "/v1/publications/"+string(id), "")
	require.Equal(t, http.StatusOK, got.status)
	var p fanfare.Publication
	got.into(t, &p)
	require.Equal(t, fanfare.Key("article-1"), p.Key)
	require.Equal(t, "https://fanfare.example/v1/publications/"+string(id), p.Links["self"])
	for _, missing := range []string{"0199c7a0-0000-7000-8000-00000000ffff", "article-1", "%2e%2e", strings.ToUpper(string(id))} {
		got := r.send(t, http.MethodGet, "/v1/publications/"+missing, "")
		require.Equal(t, http.StatusNotFound, got.status, missing)
		require.Equal(t, api.ProblemCodeNotFound, got.problem(t).Code)
	}
}

func TestReadWhatAPublicationWaitsFor(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := publish(t, r, "article-1")
	require.NotContains(t, string(r.send(t, http.MethodGet, "/v1/publications/"+string(id), "").body), "waiting_for")
	waits := []fanfare.Waiting{
		{Kind: fanfare.WaitingProvider, Provider: "sendgrid", Since: &testNow, Until: &testNow, Count: 3, Sentence: "sendgrid is not called"},
		{Kind: fanfare.WaitingThrottle, Provider: "sendgrid"},
		{Kind: fanfare.WaitingDoubt, Count: 1},
		{Kind: fanfare.WaitingRetry},
	}
	r.ledger.set(func() { r.ledger.publications[0].WaitingFor = waits })
	var one fanfare.Publication
	r.send(t, http.MethodGet, "/v1/publications/"+string(id), "").into(t, &one)
	require.Equal(t, waits, one.WaitingFor)
	var list api.PublicationList
	r.send(t, http.MethodGet, "/v1/publications", "").into(t, &list)
	require.Equal(t, waits, list.Items[0].WaitingFor)
}

func TestCancelPauseResume(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := publish(t, r, "article-1")
	woken := r.wakes.Load()
	for i, step := range []struct {
		verb   string
		status int
		state  fanfare.PublicationState
	}{
		{"resume", 409, ""},
		{"pause", 200, fanfare.Paused},
		{"pause", 200, fanfare.Paused},
		{"resume", 200, fanfare.Running},
		{"cancel", 409, ""},
	} {
		got := r.send(t, http.MethodPost, "/v1/publications/"+string(id)+"/"+step.verb, "")
		require.Equal(t, step.status, got.status, "step %d", i)
		require.Greater(t, r.wakes.Load(), woken)
		woken = r.wakes.Load()
		if step.status == 409 {
			p := got.problem(t)
			require.Equal(t, api.ProblemCodeWrongState, p.Code)
			require.Contains(t, p.Detail, step.verb+" "+string(id)+": it is ")
			require.NotContains(t, p.Detail, "wrong state")
			continue
		}
		var p fanfare.Publication
		got.into(t, &p)
		require.Equal(t, step.state, p.State)
	}
	for _, verb := range []string{"cancel", "pause", "resume"} {
		for _, missing := range []string{"0199c7a0-0000-7000-8000-00000000ffff", "nonsense"} {
			require.Equal(t, 404, r.send(t, http.MethodPost, "/v1/publications/"+missing+"/"+verb, "").status)
		}
	}
	got := r.send(t, http.MethodPost, "/v1/publications/"+string(publish(t, r, "article-2"))+"/cancel", "{}")
	require.Equal(t, 200, got.status, "a body that nobody asked for does no harm")
}

func TestListPublicationsByPages(t *testing.T) {
	t.Parallel()
	r := start(t)
	for i := range 25 {
		publish(t, r, fmt.Sprintf("article-%d", i))
	}
	var keys []string
	path := "/v1/publications?limit=10"
	for pages := 1; ; pages++ {
		var list api.PublicationList
		r.send(t, http.MethodGet, path, "").into(t, &list)
		for _, p := range list.Items {
			keys = append(keys, string(p.Key))
			require.NotEmpty(t, p.Links["self"])
		}
		if list.NextCursor == nil {
			require.Equal(t, 3, pages)
			break
		}
		path = "/v1/publications?limit=10&cursor=" + *list.NextCursor
	}
	require.Len(t, keys, 25)
	require.Equal(t, "article-24", keys[0])
	require.Equal(t, "article-0", keys[24])

	for query, items := range map[string]int{
		"":                               25,
		"?topic=nobody":                  0,
		"?topic=writer-1&state=accepted": 25,
		"?state=running":                 0,
		"?topic=&state=&cursor=":         25,
		"?limit=25":                      25,
		"?limit=1000":                    25,
	} {
		got := r.send(t, http.MethodGet, "/v1/publications"+query, "")
		require.Equal(t, 200, got.status, "%s: %s", query, got.body)
		var list api.PublicationList
		got.into(t, &list)
		require.Len(t, list.Items, items, query)
		require.Nil(t, list.NextCursor)
		require.Contains(t, string(got.body), `"next_cursor":null`)
	}
	p := r.send(t, http.MethodGet, "/v1/publications?limit=1001&state=lost&cursor=!&topic=a%20b", "").problem(t)
	require.Equal(t, []string{"limit", "state", "topic"}, fields(p))
	require.Equal(t, "must be a number from 1 to 1000", detail(t, p, "limit"))
	for _, query := range []string{"limit=0", "limit=many", "limit=1.5"} {
		require.Equal(t, []string{"limit"}, fields(r.send(t, http.MethodGet, "/v1/publications?"+query, "").problem(t)), query)
	}
	for _, cursor := range []string{"!", "bm9uc2Vuc2U", strings.Repeat("x", 501)} {
		got := r.send(t, http.MethodGet, "/v1/publications?cursor="+cursor, "")
		require.Equal(t, 400, got.status)
		require.Equal(t, []string{"cursor"}, fields(got.problem(t)))
	}
}
