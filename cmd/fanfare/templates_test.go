package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

func someTemplate() fanfare.Template {
	return fanfare.Template{
		Name: "new-article", Version: 3, CreatedAt: time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC), DefaultLocale: "en",
		Texts: map[fanfare.Channel]map[string]fanfare.TemplateText{
			fanfare.SMS:   {"en": {Text: "{{ title }} {{ url }}"}},
			fanfare.Email: {"en": {Subject: "{{ title }}", HTML: "<p>{{ title }}</p>"}, "es": {Subject: "S", Text: "T"}},
		},
	}
}

func someSummary() fanfare.TemplateSummary {
	return fanfare.TemplateSummary{
		Name: "new-article", Version: 3, CreatedAt: someTemplate().CreatedAt, DefaultLocale: "en",
		Locales: map[fanfare.Channel][]string{fanfare.SMS: {"en"}, fanfare.Email: {"en", "es"}},
	}
}

func TestTemplatesAreListedAndShown(t *testing.T) {
	t.Parallel()
	cursor := "abc"
	s := newStub(t, map[string][]answer{
		"GET /v1/templates":                      {{http.StatusOK, api.TemplateList{Items: []fanfare.TemplateSummary{someSummary()}, NextCursor: &cursor}}, {http.StatusOK, api.TemplateList{}}},
		"GET /v1/templates/new-article":          {{http.StatusOK, someTemplate()}},
		"GET /v1/templates/new-article/versions": {{http.StatusOK, api.TemplateList{Items: []fanfare.TemplateSummary{someSummary()}}}},
	})
	got := command(t, s.environ(), "", "templates", "list")
	require.Equal(t, 0, got.code, got.err)
	require.Regexp(t, `new-article +3 .* email en,es; sms en`, got.out)
	require.Contains(t, command(t, s.environ(), "", "templates", "list").out, "There are no templates.")
	require.Empty(t, fromJSON[api.TemplateList](t, command(t, s.environ(), "", "templates", "list", "--json")).Items)

	got = command(t, s.environ(), "", "templates", "show", "new-article")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "Template new-article, version 3; the default locale is en.")
	require.Contains(t, got.out, "--- email, en\nSubject: {{ title }}\n<p>{{ title }}</p>\n")
	require.Empty(t, cmp.Diff(someTemplate(), fromJSON[fanfare.Template](t, command(t, s.environ(), "", "templates", "show", "new-article", "--json", "--version", "2"))))
}

func TestPutTemplate(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{
		"GET /v1/templates/new-article": {{http.StatusOK, someTemplate()}},
		"PUT /v1/templates/new-article": {{http.StatusCreated, someTemplate()}},
	})
	file := filepath.Join(t.TempDir(), "new-article.json")
	require.NoError(t, os.WriteFile(file, []byte(command(t, s.environ(), "", "templates", "show", "new-article", "--json").out), 0o600))
	for _, args := range [][]string{{file}, {"-"}} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		got := command(t, s.environ(), string(text), append([]string{"templates", "put"}, args...)...)
		require.Equal(t, 0, got.code, got.err)
		require.Equal(t, "Template new-article is at version 3.\n", got.out)
		require.JSONEq(t, `{"default_locale": "en", "texts": {"sms": {"en": {"text": "{{ title }} {{ url }}"}},
			"email": {"en": {"subject": "{{ title }}", "html": "<p>{{ title }}</p>"}, "es": {"subject": "S", "text": "T"}}}}`, s.last().body)
	}
	for in, want := range map[string]string{"[]": "is not a JSON object", "{}": `must have a "name"`, `{"name": "a b"}`: `must have a "name"`} {
		got := command(t, s.environ(), in, "templates", "put", "-")
		require.Equal(t, 2, got.code)
		require.Contains(t, got.err, want)
	}
	require.Equal(t, 2, command(t, s.environ(), "", "templates", "put", filepath.Join(t.TempDir(), "none")).code)
}

func TestPreviewTemplate(t *testing.T) {
	t.Parallel()
	preview := api.TemplatePreview{Name: "new-article", Version: 3, Problems: []fanfare.Violation{}, Messages: []fanfare.Rendered{
		{Channel: fanfare.SMS, Locale: "en", Text: "Hello", Segments: &fanfare.Segments{Encoding: "GSM-7", Units: 5, Segments: 1}},
	}}
	worse := preview
	worse.Problems = []fanfare.Violation{{Field: "content.data.url", Detail: "is missing (sms, es)"}}
	s := newStub(t, map[string][]answer{"POST /v1/templates/new-article/preview": {{http.StatusOK, preview}, {http.StatusOK, worse}}})
	asked := []string{"templates", "preview", "new-article", "--data", "title=a,b=c", "--data", "author.name=Ada", "--data", "author.n:=7", "--data", "tags:=[\"x\"]", "--channel", "sms", "--locale", "es"}
	got := command(t, s.environ(), "", asked...)
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "--- sms, en: 1 segment (GSM-7, 5 units)\nHello\n\n", got.out)
	require.JSONEq(t, `{"data": {"title": "a,b=c", "author": {"name": "Ada", "n": 7}, "tags": ["x"]}, "channel": "sms", "locale": "es"}`, s.last().body)
	got = command(t, s.environ(), "", asked...)
	require.Equal(t, 1, got.code, "what cannot be rendered is a failure")
	require.Contains(t, got.out, "content.data.url is missing (sms, es)\n")
	require.Empty(t, cmp.Diff(worse, fromJSON[api.TemplatePreview](t, result{out: command(t, s.environ(), "", append(asked, "--json")...).out})))

	got = command(t, s.environ(), "", "templates", "preview", "new-article", "--data", "x", "--data", "a=1", "--data", "a.b=2", "--data", "a=2", "--data", "j:=nope")
	require.Equal(t, 2, got.code)
	for _, want := range []string{`--data "x": write NAME=TEXT`, "--data a.b: a has a value already", "--data a: is given twice", "--data j: what follows := is not JSON"} {
		require.Contains(t, got.err, want)
	}
}

func TestTestTemplate(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{"POST /v1/templates/new-article/test": {{http.StatusAccepted, api.AcceptedPublication{Id: someID, Key: "test:1"}}}})
	asked := []string{"templates", "test", "new-article", "--channel", "email", "--subscriber", "reader-1", "--data", "title=T"}
	got := command(t, s.environ(), "", asked...)
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "fanfare status "+someID)
	require.JSONEq(t, `{"channel": "email", "subscriber": "reader-1", "data": {"title": "T"}}`, s.last().body)
	require.Equal(t, fanfare.Key("test:1"), fromJSON[api.AcceptedPublication](t, command(t, s.environ(), "", append(asked, "--json")...)).Key)
	require.Equal(t, 2, command(t, s.environ(), "", "templates", "test", "new-article").code)
}

func TestPublishWithATemplate(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{
		"POST /v1/templates/new-article/preview": {{http.StatusOK, api.TemplatePreview{Messages: []fanfare.Rendered{
			{Channel: fanfare.SMS, Locale: "es", Segments: &fanfare.Segments{Encoding: "UCS-2", Units: 80, Segments: 2}},
		}}}},
		"POST /v1/publications": {{http.StatusAccepted, api.AcceptedPublication{Id: someID}}},
	})
	got := command(t, s.environ(), "", "publish", "--topic", "writer-1", "--key", "k", "--channels", "email,sms", "--template", "new-article", "--url", "https://blog.example/1", "--data", "title=T")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "Each SMS in es has about 2 segments (UCS-2, 80 units).\n", got.err)
	require.JSONEq(t, `{"key": "k", "topic": "writer-1", "channels": ["email", "sms"], "content": {"template": "new-article", "url": "https://blog.example/1", "data": {"title": "T"}}}`, s.last().body)
	require.JSONEq(t, `{"channel": "sms", "data": {"title": "T", "url": "https://blog.example/1"}}`, s.requests[0].body)

	got = command(t, s.environ(), "", "publish", "--topic", "writer-1", "--channels", "sms", "--title", strings.Repeat("T", 20), "--url", "https://blog.example/1")
	require.Equal(t, 0, got.code, got.err)
	require.Equal(t, "Each SMS has about 1 segment (GSM-7, 53 units).\n", got.err)
	require.Equal(t, 2, command(t, s.environ(), "", "publish", "--topic", "writer-1").code)
}
