package ledger_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// welcome is a template that says text.
func welcome(text string) fanfare.Template {
	return fanfare.Template{Name: "welcome", DefaultLocale: "en", Texts: map[fanfare.Channel]map[string]fanfare.TemplateText{
		fanfare.Email: {"en": {Subject: "S", HTML: text}, "es": {Subject: "S", Text: text}},
		fanfare.SMS:   {"en": {Text: text}},
	}}
}

func (w *world) putTemplate(t fanfare.Template) fanfare.Template {
	w.t.Helper()
	kept, _, err := w.PutTemplate(w.t.Context(), t)
	require.NoError(w.t, err)
	return kept
}

func TestATemplateHasVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, created, err := w.PutTemplate(t.Context(), welcome("<b>one</b>"))
	require.NoError(t, err)
	require.True(t, created)
	require.Equal(t, 1, first.Version)
	require.Empty(t, cmp.Diff(welcome("<b>one</b>").Texts, first.Texts))

	same, created, err := w.PutTemplate(t.Context(), welcome("<b>one</b>"))
	require.NoError(t, err)
	require.False(t, created, "the same again is no new version")
	require.Empty(t, cmp.Diff(first, same))

	second := w.putTemplate(welcome("two"))
	require.Equal(t, 2, second.Version)
	third := w.putTemplate(welcome("<b>one</b>"))
	require.Equal(t, 3, third.Version, "only the latest is compared with")
	other := welcome("<b>one</b>")
	other.DefaultLocale = "es"
	other.Texts[fanfare.SMS]["es"] = fanfare.TemplateText{Text: "uno"}
	require.Equal(t, 4, w.putTemplate(other).Version)

	for version, want := range map[int]fanfare.Template{0: w.putTemplate(other), 1: first, 2: second, 3: third} {
		got, err := w.Template(t.Context(), "welcome", version)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got), version)
	}
	for name, version := range map[string]int{"welcome": 5, "goodbye": 0} {
		_, err := w.Template(t.Context(), name, version)
		require.ErrorIs(t, err, fanfare.ErrNotFound)
	}
}

func TestTemplatesAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"b", "a", "c"} {
		one := welcome("one")
		one.Name = name
		w.putTemplate(one)
		two := welcome("two")
		two.Name = name
		w.putTemplate(two)
	}
	list, err := w.Templates(t.Context(), "", 2)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "a", list[0].Name)
	require.Equal(t, "b", list[1].Name)
	require.Equal(t, 2, list[1].Version)
	require.Equal(t, map[fanfare.Channel][]string{fanfare.Email: {"en", "es"}, fanfare.SMS: {"en"}}, list[0].Locales)
	rest, err := w.Templates(t.Context(), "b", 2)
	require.NoError(t, err)
	require.Len(t, rest, 1)
	require.Equal(t, "c", rest[0].Name)

	versions, err := w.TemplateVersions(t.Context(), "a", 0, 10)
	require.NoError(t, err)
	require.Len(t, versions, 2)
	require.Equal(t, 2, versions[0].Version)
	older, err := w.TemplateVersions(t.Context(), "a", 2, 10)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(versions[1:], older))
	_, err = w.TemplateVersions(t.Context(), "d", 0, 10)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestVersionsPutAtOnceFollowEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	atOnce(t, 16, func(i int) error {
		_, _, err := w.PutTemplate(t.Context(), welcome(fmt.Sprint(i%4)))
		return err
	})
	versions := all[int](w, `SELECT version FROM templates ORDER BY version`)
	for i, version := range versions {
		require.Equal(t, i+1, version)
	}
	require.GreaterOrEqual(t, len(versions), 4)
}

func drafted(key string, data map[string]any) fanfare.Draft {
	d := draft(key)
	d.Content = fanfare.Content{Template: "welcome", Data: data}
	return d
}

// A template edited under a delayed publication changes nothing.
func TestAPublicationIsPinnedToTheVersionItWasAcceptedWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	first := w.putTemplate(welcome("one"))
	p, err := w.Accept(t.Context(), drafted("article-1", map[string]any{"n": 1, "deep": map[string]any{"list": []any{"a"}}}), "")
	require.NoError(t, err)
	second := w.putTemplate(welcome("two"))

	a, err := w.Announcement(t.Context(), p.ID)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(&first, a.Template))
	require.Equal(t, map[string]any{"n": 1.0, "deep": map[string]any{"list": []any{"a"}}}, a.Content.Data)
	require.WithinDuration(t, p.ExpiresAt, a.ExpiresAt, 0)

	again, err := w.Accept(t.Context(), drafted("article-1", map[string]any{"deep": map[string]any{"list": []any{"a"}}, "n": 1.0}), "")
	require.NoError(t, err, "the template was changed, what the publisher asked for was not")
	require.Equal(t, p.ID, again.ID)
	a, err = w.Announcement(t.Context(), again.ID)
	require.NoError(t, err)
	require.Equal(t, 1, a.Template.Version)

	next, err := w.Accept(t.Context(), drafted("article-2", nil), "")
	require.NoError(t, err)
	a, err = w.Announcement(t.Context(), next.ID)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(&second, a.Template))
	plain := w.accept("article-3")
	a, err = w.Announcement(t.Context(), plain.ID)
	require.NoError(t, err)
	require.Nil(t, a.Template)
}

func TestAConflictNamesTemplateAndData(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	w.putTemplate(welcome("one"))
	base := drafted("article-1", map[string]any{"a": "b"})
	_, err := w.Accept(t.Context(), base, "")
	require.NoError(t, err)
	for field, content := range map[string]fanfare.Content{
		"content.template": {Template: "goodbye", Data: base.Content.Data},
		"content.data":     {Template: "welcome", Data: map[string]any{"a": "c"}},
	} {
		d := base
		d.Content = content
		_, err := w.Accept(t.Context(), d, "")
		var conflict *fanfare.ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, []string{field}, conflict.Fields)
	}
	d := base
	d.Content.Data = nil
	_, err = w.Accept(t.Context(), d, "")
	require.ErrorIs(t, err, fanfare.ErrConflict)
}

func TestATemplateMustExist(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topic("writer-1")
	_, err := w.Accept(t.Context(), drafted("article-1", nil), "request-1")
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorContains(t, err, "content.template: does not exist")
	require.Zero(t, one[int](w, `SELECT (SELECT count(*) FROM publications) + (SELECT count(*) FROM idempotency_keys)`), "nothing is left behind")
}

// What cannot be rendered is not accepted: everything that is asked for is rendered
// before, of the very version that is pinned.
func TestAcceptanceProvesWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	var proved []fanfare.Announcement
	w := newWorld(t, func(c *ledger.Config) {
		c.Channels = []fanfare.Channel{fanfare.SMS, fanfare.Email, fanfare.Push}
		c.Prove = func(a fanfare.Announcement) error {
			proved = append(proved, a)
			if a.Content.Data["bad"] != nil {
				return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "content.data.author", Detail: "is missing (email, es)"}}}
			}
			return nil
		}
	})
	w.topic("writer-1")
	w.putTemplate(welcome("one"))
	d := drafted("article-1", map[string]any{"bad": true})
	_, err := w.Accept(t.Context(), d, "request-1")
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorContains(t, err, "content.data.author: is missing (email, es)")
	require.Zero(t, one[int](w, `SELECT count(*) FROM publications`))

	d.Content.Data = nil
	_, err = w.Accept(t.Context(), d, "request-1")
	require.NoError(t, err, "the refused request left nothing behind")
	require.Len(t, proved, 2)
	require.Equal(t, 1, proved[1].Template.Version)
	require.Equal(t, "The name of writer-1", proved[1].TopicName)
	require.Equal(t, []fanfare.Channel{fanfare.Email}, proved[1].Channels)
	_, err = w.Accept(t.Context(), d, "")
	require.NoError(t, err)
	require.Len(t, proved, 2, "a repeat is not judged again")
}

func TestTheDefaultIsEmail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *ledger.Config) {
		c.Channels = []fanfare.Channel{fanfare.SMS, fanfare.Push, fanfare.Email}
	})
	w.topic("writer-1")
	p, err := w.Accept(t.Context(), draft("article-1"), "")
	require.NoError(t, err)
	require.Equal(t, []fanfare.Channel{fanfare.Email}, p.Channels)
	without := w.open(ledger.Config{Channels: []fanfare.Channel{fanfare.SMS, fanfare.Push}, Expires: 1e9})
	p, err = without.Accept(t.Context(), draft("article-2"), "")
	require.NoError(t, err)
	require.Equal(t, []fanfare.Channel{fanfare.Push, fanfare.SMS}, p.Channels, "without email, all that are on")
}
