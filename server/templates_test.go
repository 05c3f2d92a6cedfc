package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const (
	articlePath     = "/v1/templates/new-article"
	articleTemplate = `{"default_locale": "en", "texts": {
		"email": {"en": {"subject": "{{ title }}", "html": "<p>{{ author.name }}</p>"}, "pt_BR": {"subject": "Novo: {{ title }}", "html": "<p>{{ author.nome }}</p>"}},
		"sms": {"en": {"text": "{{ title }} {{ url }}"}}}}`
)

func TestPutTemplate(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPut, articlePath, articleTemplate)
	require.Equal(t, http.StatusCreated, got.status, string(got.body))
	var kept fanfare.Template
	got.into(t, &kept)
	require.Equal(t, "new-article", kept.Name)
	require.Equal(t, 1, kept.Version)
	require.Contains(t, kept.Texts[fanfare.Email], "pt-br", "locales are kept in their normal form")

	require.Equal(t, http.StatusOK, r.send(t, http.MethodPut, articlePath, articleTemplate).status, "the same again is no new version")
	got = r.send(t, http.MethodPut, articlePath, strings.ReplaceAll(articleTemplate, "Novo", "Nova"))
	require.Equal(t, http.StatusCreated, got.status)
	for path, version := range map[string]int{articlePath: 2, articlePath + "?version=1": 1} {
		r.send(t, http.MethodGet, path, "").into(t, &kept)
		require.Equal(t, version, kept.Version)
	}
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, articlePath+"?version=3", "").status)
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/v1/templates/none", "").status)

	var list api.TemplateList
	r.send(t, http.MethodGet, articlePath+"/versions?limit=1", "").into(t, &list)
	require.Equal(t, 2, list.Items[0].Version)
	r.send(t, http.MethodGet, articlePath+"/versions?limit=1&cursor="+*list.NextCursor, "").into(t, &list)
	require.Equal(t, 1, list.Items[0].Version)
	require.Nil(t, list.NextCursor)
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/v1/templates/none/versions", "").status)
	require.Equal(t, []string{"cursor"}, fields(r.send(t, http.MethodGet, articlePath+"/versions?cursor=!", "").problem(t)))
}

func TestPutTemplateNamesEveryOffendingField(t *testing.T) {
	t.Parallel()
	r := start(t)
	for body, want := range map[string][]string{
		`{}`:                                    {"default_locale", "texts"},
		`{"default_locale": "en", "texts": {}}`: {"texts"},
		`{"default_locale": "e n", "texts": {"sms": {"en": {"text": "x"}}}}`: {"default_locale", "texts.sms"},
		`{"default_locale": "en", "texts": {"fax": {"en": {"text": "x"}}, "sms": {"en": {"text": "{{ x | nope }}", "html": "x"}}, "email": {"en": {}}}}`: {
			"texts.email.en.html", "texts.email.en.subject", "texts.fax", "texts.sms.en.html", "texts.sms.en.text",
		},
		`{"default_locale": "en", "texts": {"sms": {"en": {"text": "a\u0000b"}}}, "name": "x"}`:                                    {"name", "texts.sms.en.text"},
		`{"default_locale": "en", "texts": {"sms": {"en": {"text": "x"}, "EN": {"text": "y"}}, "push": {"en": {"subject": "x"}}}}`: {"texts.sms"},
	} {
		got := r.send(t, http.MethodPut, articlePath, body)
		require.Equal(t, http.StatusBadRequest, got.status, body)
		require.Equal(t, want, fields(got.problem(t)), body)
	}
	require.Equal(t, http.StatusBadRequest, r.send(t, http.MethodPut, "/v1/templates/a%20b", articleTemplate).status)
	require.Equal(t, http.StatusRequestEntityTooLarge, r.send(t, http.MethodPut, articlePath, strings.Repeat(" ", maxBody+1)).status)
	require.Empty(t, r.ledger.templates)
}

func TestListTemplatesByPages(t *testing.T) {
	t.Parallel()
	r := start(t)
	require.JSONEq(t, `{"items": [], "next_cursor": null}`, string(r.send(t, http.MethodGet, "/v1/templates", "").body))
	for i := range 5 {
		r.send(t, http.MethodPut, fmt.Sprintf("/v1/templates/t%d", i), articleTemplate)
	}
	var names []string
	for path := "/v1/templates?limit=2"; path != ""; {
		var list api.TemplateList
		r.send(t, http.MethodGet, path, "").into(t, &list)
		for _, one := range list.Items {
			names = append(names, one.Name)
			require.ElementsMatch(t, []string{"en", "pt-br"}, one.Locales[fanfare.Email])
		}
		path = ""
		if list.NextCursor != nil {
			path = "/v1/templates?limit=2&cursor=" + *list.NextCursor
		}
	}
	require.Equal(t, []string{"t0", "t1", "t2", "t3", "t4"}, names)
}

func TestPreviewTemplate(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.send(t, http.MethodPut, articlePath, articleTemplate)
	got := r.send(t, http.MethodPost, articlePath+"/preview", `{"data": {"title": "<Ebb>", "author": {"name": "Ana"}}}`)
	require.Equal(t, http.StatusOK, got.status, string(got.body))
	var preview api.TemplatePreview
	got.into(t, &preview)
	require.Equal(t, 1, preview.Version)
	require.Len(t, preview.Messages, 1)
	require.Equal(t, "<Ebb>", preview.Messages[0].Subject)
	require.Contains(t, preview.Messages[0].HTML, "<p>Ana</p>")
	require.Contains(t, preview.Messages[0].HTML, fanfare.UnsubscribeTag)
	require.Equal(t, []fanfare.Violation{
		{Field: "content.data.author.nome", Detail: "is missing (email, pt-br)"},
		{Field: "content.data.url", Detail: "is missing (sms, en)"},
	}, preview.Problems)

	got = r.send(t, http.MethodPost, articlePath+"/preview", `{"data": {"title": "Ebb €", "url": "https://blog.example/1"}, "channel": "sms", "locale": "pt-PT", "version": 1}`)
	require.JSONEq(t, `{"name": "new-article", "version": 1, "problems": [], "messages": [{"channel": "sms", "locale": "en", "subject": "", "html": "", "url": "",
		"text": "Ebb € https://blog.example/1", "segments": {"encoding": "GSM-7", "units": 29, "segments": 1}}]}`, string(got.body))
	got = r.send(t, http.MethodPost, articlePath+"/preview", `{"channel": "push"}`)
	got.into(t, &preview)
	require.Contains(t, preview.Problems[0].Detail, "has no text for push")
	for body, want := range map[string]string{`{"channel": "fax"}`: "channel", `{"data": []}`: "data", `{"version": 0}`: "version", `{"x": 1}`: "x"} {
		require.Equal(t, []string{want}, fields(r.send(t, http.MethodPost, articlePath+"/preview", body).problem(t)))
	}
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodPost, "/v1/templates/none/preview", `{}`).status)
	require.Empty(t, r.ledger.publications)
}

func TestTestTemplate(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.send(t, http.MethodPut, articlePath, articleTemplate)
	r.send(t, http.MethodPut, "/v1/subscribers/reader-1", `{"email": "reader-1@mail.example"}`)
	body := `{"channel": "email", "subscriber": "reader-1", "data": {"title": "T"}}`
	got := r.send(t, http.MethodPost, articlePath+"/test", body)
	require.Equal(t, http.StatusAccepted, got.status, string(got.body))
	var accepted api.AcceptedPublication
	got.into(t, &accepted)
	draft := r.ledger.drafts[accepted.Key]
	number, err := r.ledger.SubscriberNumber(t.Context(), "reader-1")
	require.NoError(t, err)
	require.Equal(t, fanfare.Topic(fmt.Sprintf("test:%d", number)), draft.Topic, "and no digest of an id, which could be guessed when its owner is erased")
	require.True(t, r.ledger.subscriptions[string(draft.Topic)+" reader-1"])
	require.Equal(t, fanfare.Transactional, draft.Class)
	require.Equal(t, []fanfare.Channel{fanfare.Email}, draft.Channels)
	require.Equal(t, fanfare.Content{Template: "new-article", Data: map[string]any{"title": "T"}}, draft.Content)
	require.EqualValues(t, 1, r.wakes.Load())

	for range 2 {
		r.send(t, http.MethodPost, articlePath+"/test", body, header("Idempotency-Key", "one"))
	}
	require.Len(t, r.ledger.publications, 2, "with a key, the same again is the same test")
	for wrong, want := range map[string][]string{
		`{"channel": "sms", "subscriber": "nobody", "data": {"a": "\u0000"}}`: {"channel", "data", "subscriber"},
		`{}`: {"channel", "subscriber"},
	} {
		got := r.send(t, http.MethodPost, articlePath+"/test", wrong)
		require.Equal(t, http.StatusBadRequest, got.status)
		require.Equal(t, want, fields(got.problem(t)))
	}
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodPost, "/v1/templates/none/test", body).status)
}

func TestPublishWithATemplate(t *testing.T) {
	t.Parallel()
	r := start(t)
	got := r.send(t, http.MethodPost, "/v1/publications", `{"key": "k", "topic": "writer-1", "content": {"template": "new-article", "data": {"n": 1, "list": [{"a": null}]}}}`)
	require.Equal(t, http.StatusAccepted, got.status, string(got.body))
	require.Equal(t, fanfare.Content{Template: "new-article", Data: map[string]any{"n": 1.0, "list": []any{map[string]any{"a": nil}}}}, r.ledger.drafts["k"].Content)
	for content, want := range map[string][]string{
		`{"template": null}`: {"content.title", "content.url"},
		`{"data": {}}`:       {"content.title", "content.url"},
		`{"template": "a b", "data": 7, "url": "x"}`:                                  {"content.data", "content.template", "content.url"},
		`{"template": "t", "data": {"a": ["b\u0000"]}}`:                               {"content.data"},
		`{"template": "t", "data": {"a": "` + strings.Repeat("x", maxContent) + `"}}`: {"content.data"},
	} {
		got := r.send(t, http.MethodPost, "/v1/publications", `{"key": "j", "topic": "writer-1", "content": `+content+`}`)
		require.Equal(t, http.StatusBadRequest, got.status)
		require.Equal(t, want, fields(got.problem(t)))
	}
}
