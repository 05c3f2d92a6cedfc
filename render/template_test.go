package render_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
)

type texts map[string]fanfare.TemplateText

func template(channel fanfare.Channel, t texts) *fanfare.Template {
	return &fanfare.Template{Name: "article", Version: 1, DefaultLocale: "en", Texts: map[fanfare.Channel]map[string]fanfare.TemplateText{channel: t}}
}

// filled renders a text of an SMS, which is plain.
func filled(source string, data map[string]any) (string, error) {
	a := announce(fanfare.Content{Template: "article", Data: data})
	a.Template = template(fanfare.SMS, texts{"en": {Text: source}})
	m, err := render.New().Render(fanfare.SMS, a, "")
	return m.Text, err
}

// filledHTML renders the HTML of an email, without the footer.
func filledHTML(source string, data map[string]any) (string, error) {
	a := announce(fanfare.Content{Template: "article", Data: data})
	a.Template = template(fanfare.Email, texts{"en": {Subject: "S", HTML: source + "|{{ unsubscribe_url }}"}})
	m, err := render.New().Render(fanfare.Email, a, "")
	out, _, _ := strings.Cut(m.HTML, "|"+fanfare.UnsubscribeTag)
	return out, err
}

func data() map[string]any {
	return map[string]any{
		"author": map[string]any{"name": "Ana & Björn", "tags": []any{"a", "b"}, "bio": nil},
		"title":  "<b>Ebb</b>", "n": 3.0, "price": 1234567.5, "big": 12345678.0, "yes": true,
		"items": []any{map[string]any{"title": "b", "n": 2.0}, map[string]any{"title": "A", "n": 1.0}},
		"empty": "", "none": nil, "lines": "one\ntwo <3", "at": "2026-01-31T08:00:00Z",
	}
}

func TestTemplateLanguage(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"Hi {{ author.name }}!": "Hi Ana & Björn!",
		"{{title}}":             "<b>Ebb</b>",
		"{{ n }} {{ price }} {{ big }} {{ yes }}":                                     "3 1234567.5 12345678 true",
		"{{ n | plus: 2 }} {{ big | plus: 1 }}":                                       "5 12345679",
		"{{ author['name'] }} {{ items[1].title }}":                                   "Ana & Björn A",
		"{{ items.size }} {{ author.tags | join }}":                                   "2 a b",
		"{{ items | sort: 'title' | map: 'title' }}":                                  "Ab",
		"{{ items | sort_natural: 'title' | map: 'title' | join: ',' }}":              "A,b",
		"{{ items | map: 'n' | sort | join: '-' }}":                                   "1-2",
		"{% for i in items %}{{ forloop.index }}:{{ i.title }} {% endfor %}":          "1:b 2:A",
		"{% for i in (1..n) %}{{ i }}{% endfor %}":                                    "123",
		"{% for f in author %}{{ f[0] }},{% endfor %}":                                "name,tags,",
		"{% for i in items %}{% if i.n == 1 %}{{ i.title }}{% endif %}{% endfor %}":   "A",
		"{% for i in items limit: 1 %}{{ i.title }}{% break %}{% endfor %}":           "b",
		"a {%- if yes -%} b {%- endif -%} c":                                          "abc",
		"a {%- for i in (1..2) -%} b {%- endfor -%} c":                                "abbc",
		"a {%- assign x = 1 -%} b {%- capture y -%} c {%- endcapture -%} {{- y -}} d": "abcd",
		"{% assign x = title | downcase | append: '!' %}{{ x }}":                      "<b>ebb</b>!",
		"{% capture x %}{{ n }}{% endcapture %}{{ x | append: x }}":                   "33",
		"{% if missing %}a{% else %}b{% endif %}":                                     "b",
		"{% if author.phone == 1 %}a{% endif %}{{ n }}":                               "3",
		"{% unless missing.deep %}b{% endunless %}{{ n }}":                            "b3",
		"{% case n %}{% when 3 %}three{% endcase %}":                                  "three",
		"{{ missing | default: 'you' }} {{ empty | default: 'x' }}":                   "you x",
		"{{ author.bio | upcase | default: title }}":                                  "<b>Ebb</b>",
		"{% raw %}{{ missing }} {% x %}{% endraw %}":                                  "{{ missing }} {% x %}",
		"{% comment %}{{ missing }} {% for %}{% endcomment %}x":                       "x",
		"{{ 'élan' | capitalize }} {{ 'abcdefghij' | truncate: 5, '…' }}":             "Élan abcd…",
		"{{ at | date: '%Y-%m-%d' }} {{ '2026-02-01' | date: '%d.%m.%y' }}":           "2026-01-31 01.02.26",
		"{{ lines | newline_to_br }}":                                                 "one<br />\ntwo <3",
		"{{ n == 3 }} {{ author.tags contains 'b' }} {{ author contains 'name' }}":    "true true true",
		"{{ author.tags | json }} {{ items[0] | json }}":                              `["a","b"] {"n":2,"title":"b"}`,
		"{{ topic.name }} {{ publication.key }}":                                      "The Slow Coast article-1",
		"{{ items | uniq | size }} {{ 'a b' | split: ' ' | last }}":                   "2 b",
		"{{ \"}\" }} {{ '|' }} {{ '%' }}":                                             "} | %",
	} {
		got, err := filled(source, data())
		require.NoError(t, err, source)
		require.Equal(t, want, got, source)
	}
}

func TestTemplateEscapesHTML(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"<i>{{ title }}</i>":                                                 "<i>&lt;b&gt;Ebb&lt;/b&gt;</i>",
		`<a title="{{ q }}">`:                                                `<a title="&#34;&#39;">`,
		"{{ title | escape }}":                                               "&lt;b&gt;Ebb&lt;/b&gt;",
		"{{ title | escape | append: title }}":                               "&amp;lt;b&amp;gt;Ebb&amp;lt;/b&amp;gt;&lt;b&gt;Ebb&lt;/b&gt;",
		"{{ '&lt;' | escape_once }}":                                         "&lt;",
		"{{ lines | newline_to_br }}":                                        "one<br />\ntwo &lt;3",
		"{{ lines | escape | newline_to_br }}":                               "one<br />\ntwo &lt;3",
		"{{ author.tags | join: '<br>' }}":                                   "a&lt;br&gt;b",
		"{% assign x = title %}{{ x }}":                                      "&lt;b&gt;Ebb&lt;/b&gt;",
		"{% capture x %}<i>{{ title }}</i>{% endcapture %}{{ x }}":           "<i>&lt;b&gt;Ebb&lt;/b&gt;</i>",
		"{% for i in evil %}{{ i }}{% endfor %}{{ evil }}{{ evil | first }}": "&lt;s&gt;&lt;s&gt;&lt;s&gt;",
		"{{ title | url_encode }}":                                           "%3Cb%3EEbb%3C%2Fb%3E",
		"{{ missing | default: title }}":                                     "&lt;b&gt;Ebb&lt;/b&gt;",
		"{% raw %}<b>{% endraw %}":                                           "<b>",
	} {
		d := data()
		d["q"], d["evil"] = `"'`, []any{"<s>"}
		got, err := filledHTML(source, d)
		require.NoError(t, err, source)
		require.Equal(t, want, got, source)
	}
}

// Everything that is missing is named, wherever it is used.
func TestTemplateNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for source, want := range map[string][]string{
		"{{ who }}":                                   {"content.data.who"},
		"{{ author.nam }}, {{ author.bio }}":          {"content.data.author.nam", "content.data.author.bio"},
		"{{ none }}":                                  {"content.data.none"},
		"{{ who.name | upcase }}":                     {"content.data.who"},
		"{{ title | append: who }}":                   {"content.data.who"},
		"{% assign x = who | upcase %}{{ x }}":        {"content.data.who"},
		"{% for i in things.all %}{% endfor %}x":      {"content.data.things"},
		"{% for i in items %}{{ i.url }}{% endfor %}": {"content.data.items[0].url", "content.data.items[1].url"},
		"{% if who %}{% endif %}{{ you }}":            {"content.data.you"},
		"{{ who | default: you }}":                    {"content.data.who", "content.data.you"},
		"{{ items[7] }}x":                             {"content.template"},
		"{{ author }}":                                {"content.template"},
		"{{ topic.nam }} {{ publication.x }}":         {"content.template", "content.template"},
		"{{ unsubscribe_url }}":                       {"content.template"},
	} {
		_, err := filled(source, data())
		require.ErrorIs(t, err, fanfare.ErrInvalid, source)
		var invalid *fanfare.InvalidError
		require.ErrorAs(t, err, &invalid)
		var fields []string
		for _, v := range invalid.Violations {
			fields = append(fields, v.Field)
			if v.Field != "content.template" {
				require.Equal(t, "is missing", v.Detail)
			}
		}
		require.Equal(t, want, fields, "%s: %v", source, err)
	}
}

func TestProveNamesChannelsAndLocales(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article", Data: map[string]any{"title": "T"}})
	a.Channels = []fanfare.Channel{fanfare.Email, fanfare.SMS}
	a.Template = template(fanfare.Email, texts{"en": {Subject: "{{ title }}", Text: "{{ title }}"}, "es": {Subject: "{{ title }}", Text: "{{ author }}"}})
	a.Template.Texts[fanfare.SMS] = texts{"en": {Text: "{{ author }} {{ url }}"}}
	err := render.New().Prove(a)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, []fanfare.Violation{
		{Field: "content.data.author", Detail: "is missing (email, es; sms, en)"},
		{Field: "content.data.url", Detail: "is missing (sms, en)"},
	}, invalid.Violations)
	a.Channels = []fanfare.Channel{fanfare.Email, fanfare.Push}
	require.ErrorContains(t, render.New().Prove(a), "content.template: article version 1 has no text for push in its default locale (push, en)")
	a.Content.Data["author"], a.Channels = "Ana", []fanfare.Channel{fanfare.Email}
	require.NoError(t, render.New().Prove(a))
}

func TestTemplateLocales(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article"})
	a.Template = template(fanfare.SMS, texts{"en": {Text: "en"}, "pt": {Text: "pt"}, "pt-br": {Text: "pt-br"}})
	for locale, want := range map[string]string{
		"": "en", "en": "en", "en-GB": "en", "pt": "pt", "pt-BR": "pt-br", "pt_BR": "pt-br", "pt-pt": "pt", "de": "en", "x": "en",
	} {
		m, err := render.New().Render(fanfare.SMS, a, locale)
		require.NoError(t, err)
		require.Equal(t, want, m.Text, locale)
	}
}

func TestTemplateOfEmailHasItsLinks(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article"})
	a.Template = template(fanfare.Email, texts{"en": {
		Subject: "S", HTML: `<a href="{{ unsubscribe_url }}">no</a> <a href="{{ preferences_url }}">some</a>`, Text: "Stop: {{ unsubscribe_url }}",
	}})
	m, err := render.New().Render(fanfare.Email, a, "")
	require.NoError(t, err)
	require.Equal(t, `<a href="`+fanfare.UnsubscribeTag+`">no</a> <a href="`+fanfare.PreferencesTag+`">some</a>`, m.HTML)
	require.Equal(t, "Stop: "+fanfare.UnsubscribeTag+"\n\n--\nPreferences: "+fanfare.PreferencesTag+"\n", m.Text)

	// Without a link, the footer of the default layout is added.
	for source, around := range map[string][2]string{
		"<html><body><p>x</p></BODY ></html>": {"<html><body><p>x</p><table", "</table>\n</BODY ></html>"},
		"<p>x</p>":                            {"<p>x</p>\n<table", "</table>\n"},
	} {
		a.Template = template(fanfare.Email, texts{"en": {Subject: "S", HTML: source, Text: "x\n\n"}})
		m, err = render.New().Render(fanfare.Email, a, "")
		require.NoError(t, err)
		require.Truef(t, strings.HasPrefix(m.HTML, around[0]) && strings.HasSuffix(m.HTML, around[1]), m.HTML)
		require.Equal(t, 1, strings.Count(m.HTML, `href="`+fanfare.UnsubscribeTag+`"`))
		require.Equal(t, 1, strings.Count(m.HTML, `href="`+fanfare.PreferencesTag+`"`))
		require.Equal(t, "x\n\n--\nYou get this email because you follow The Slow Coast.\nUnsubscribe: "+fanfare.UnsubscribeTag+"\nPreferences: "+fanfare.PreferencesTag+"\n", m.Text)
	}
}

// The data can neither hold nor form our tags, not even of two pieces.
func TestTemplateKeepsTagsOutOfData(t *testing.T) {
	t.Parallel()
	d := map[string]any{"a": "[%fanfare_", "b": "unsubscribe%]", "c": fanfare.PreferencesTag, "d": "[%FANFARE_unsubscribe%]"}
	got, err := filledHTML("{{ a }}{{ b }} {{ a | append: b }} {{ c }} {{ d }}", d)
	require.NoError(t, err)
	require.Equal(t, "(link) (link) (link) (link)", got)
}

func TestTemplateURLs(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article", Data: map[string]any{"slug": "x", "js": "javascript:alert(1)"}})
	url := func(source string) (string, error) {
		a.Template = template(fanfare.Push, texts{"en": {Subject: "S", URL: source}})
		m, err := render.New().Render(fanfare.Push, a, "")
		return m.URL, err
	}
	got, err := url("https://blog.example/{{ slug | url_encode }}")
	require.NoError(t, err)
	require.Equal(t, "https://blog.example/x", got)
	for _, bad := range []string{"{{ js }}", "/{{ slug }}", "{{ slug }}", "https://blog.example/{{ slug }} y"} {
		_, err := url(bad)
		require.ErrorIs(t, err, fanfare.ErrInvalid, bad)
		require.ErrorContains(t, err, "content.template: push url: ", bad)
	}
	got, err = url("")
	require.NoError(t, err)
	require.Empty(t, got)
	a.Content.URL = "https://blog.example/own"
	got, err = url("")
	require.NoError(t, err)
	require.Equal(t, "https://blog.example/own", got, "the content's own")
}

func TestTemplateMessagesAreWhole(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article", Data: map[string]any{"s": " \n", "big": strings.Repeat("x", 4000), "two": "a\r\nBcc: b"}})
	for _, c := range []struct {
		channel fanfare.Channel
		text    fanfare.TemplateText
		want    string
	}{
		{fanfare.SMS, fanfare.TemplateText{Text: "{{ s }}"}, "sms text: comes out empty"},
		{fanfare.SMS, fanfare.TemplateText{Text: "{{ big }}"}, "sms text: comes out with 4000 characters"},
		{fanfare.Email, fanfare.TemplateText{Subject: "{{ s }}", Text: "x"}, "email subject: comes out empty"},
		{fanfare.Push, fanfare.TemplateText{Subject: "S", Text: "{{ big }}"}, "push: words and link come out with 4001 bytes"},
	} {
		a.Template = template(c.channel, texts{"en": c.text})
		_, err := render.New().Render(c.channel, a, "")
		require.ErrorIs(t, err, fanfare.ErrInvalid)
		require.ErrorContains(t, err, c.want)
	}
	a.Template = template(fanfare.InApp, texts{"en": {Subject: "{{ two }}"}})
	m, err := render.New().Render(fanfare.InApp, a, "")
	require.NoError(t, err)
	require.Equal(t, "a Bcc: b", m.Subject)
	a.Content.Data = map[string]any{"topic": "mine"}
	_, err = render.New().Render(fanfare.InApp, a, "")
	require.ErrorContains(t, err, "content.data.topic: is a name that templates use for something else")
}

// Nothing that a template says can keep a worker busy, fill its memory, stop it, read
// its files or its clock.
func TestTemplateIsBounded(t *testing.T) {
	t.Parallel()
	double := "{% assign x = x | append: x %}"
	for name, c := range map[string]struct{ source, want string }{
		"endless loop":        {"{% for i in (1..9000000000) %}{% endfor %}", "100000 times"},
		"loops in loops":      {"{% for i in (1..5000) %}{% for j in (1..5000) %}{% endfor %}{% endfor %}", "100000 times"},
		"loop that continues": {"{% for i in (1..9000000000) %}{% continue %}{% endfor %}", "100000 times"},
		"table":               {"{% tablerow i in (1..9000000000) %}{% endtablerow %}", "1 MB"},
		"loop that writes":    {"{% for i in (1..90000) %}0123456789abcdef{% endfor %}", "1 MB"},
		"capture":             {"{% capture x %}{% for i in (1..90000) %}0123456789abcdef{% endfor %}{% endcapture %}", "1 MB"},
		"capture doubles":     {"{% assign x = 'xxxxxxxxxxxxxxxx' %}" + strings.Repeat("{% capture x %}{{ x }}{{ x }}{% endcapture %}", 30), "1 MB"},
		"append doubles":      {"{% assign x = 'xxxxxxxxxxxxxxxx' %}" + strings.Repeat(double, 40), "1 MB"},
		"many large texts":    {"{% assign x = 'xxxxxxxxxxxxxxxx' %}" + strings.Repeat(double, 15) + strings.Repeat("{{ x | upcase | size }}", 500), "1 MB"},
		"replace squares":     {"{% assign x = 'xxxxxxxxxxxxxxxx' %}" + strings.Repeat(double, 12) + "{{ x | replace: 'x', x }}", "1 MB"},
		"join":                {"{% assign x = 'xxxxxxxxxxxxxxxx' %}" + strings.Repeat(double, 12) + "{% assign y = 'a b c d e f g h i j k l m n o p q r s t u v' | split: ' ' %}{{ y | join: x }}", "1 MB"},
		"range to a list":     {"{{ (1..9000000000) | join }}", "10000 items"},
		"range in a range":    {"{% assign r = (1..9000000000) %}{{ r | reverse | first }}", "10000 items"},
		"split":               {"{% assign x = 'xxxxxxxxxxxxxxxx' %}" + strings.Repeat(double, 12) + "{{ x | split: '' | size }}", "10000 items"},
		"wide date":           {"{{ '2026-01-01' | date: '%999999999d' }}", "two digits"},
		"clock":               {"{{ 'now' | date: '%Y' }}", "no clock"},
		"file":                {"{% include '/etc/passwd' %}", "include is not offered"},
		"slice beyond":        {"{{ 'abc' | slice: 7, 2 }}", "the filter slice cannot take"},
		"wide words":          {"{{ 'abc' | truncatewords: 2000 }}", "the filter truncatewords cannot take"},
		"number too large":    {"{{ 99999999999999999999 }}", "another kind"},
		"division by zero":    {"{{ 1 | divided_by: 0 }}", "divided_by"},
		"too many arguments":  {"{{ 'a' | upcase: 1, 2, 3 }}", "the filter upcase: wrong number of arguments (given 3, expected 1)"},
		"text as a number":    {"{{ 'secret' | plus: 1 }}", "another kind"},
		"spoofed loop":        {"{% assign forloop = 1 %}{% cycle 'a' %}", "another kind"},
		"our filter":          {"{{ 1 | _out: 2 }}", "no filter _out"},
		"our tag":             {"{% _round %}", "no tag _round"},
		"no filter":           {"a\n{{ 1 | nope }}", "line 2: there is no filter nope"},
		"not closed":          {"a\n{{ title", "line 2: a {{ or {% is not closed"},
		"block not ended":     {"{% if a %}", "unterminated"},
		"bad syntax":          {"{{ a b }}", "syntax error"},
		"break out":           {"{{ a) | append: (b }}", "syntax error"},
		"raw not ended":       {"{% raw %}x", "raw is not ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := filled(c.source, map[string]any{"title": "T"})
			require.ErrorIs(t, err, fanfare.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "secret", "data stays out of errors")
			require.Less(t, time.Since(began), 20*time.Second)
		})
	}
}

// The same every time: a look-up compares what was sent with what is rendered again.
func TestTemplateIsDeterministic(t *testing.T) {
	t.Parallel()
	fields := map[string]any{}
	for i := range 60 {
		fields[fmt.Sprintf("f%03d", i)] = float64(i)
	}
	source := "{% for f in all %}{{ f[0] }}={{ f[1] }} {% endfor %}{{ all | json }}"
	first, err := filled(source, map[string]any{"all": fields})
	require.NoError(t, err)
	for range 20 {
		again, err := filled(source, map[string]any{"all": fields})
		require.NoError(t, err)
		require.Equal(t, first, again)
	}
}

func TestCheckTemplate(t *testing.T) {
	t.Parallel()
	r := render.New()
	good := *template(fanfare.Email, texts{"en": {Subject: "{{ title }}", HTML: "<p>{{ title }}</p>"}, "pt-br": {Subject: "x", Text: "y"}})
	require.Empty(t, r.Check(good))
	bad := fanfare.Template{DefaultLocale: "en", Texts: map[fanfare.Channel]map[string]fanfare.TemplateText{
		"fax":         {"en": {Text: "x"}},
		fanfare.Email: {"en": {Subject: "{{ x | nope }}", HTML: strings.Repeat("x", 100<<10+1), URL: "https://x.example"}, "e s": {}, "es": {Text: "{% if %}"}},
		fanfare.SMS:   {"es": {Text: strings.Repeat("x", 64<<10+1)}},
		fanfare.Push:  {"en": {Text: "x", HTML: "x"}},
	}}
	many := texts{}
	for i := range 21 {
		many[fmt.Sprintf("en-x%d", i)] = fanfare.TemplateText{Subject: "x"}
	}
	bad.Texts[fanfare.InApp] = many
	var fields []string
	for _, v := range r.Check(bad) {
		fields = append(fields, v.Field+": "+v.Detail)
	}
	require.Equal(t, []string{
		"texts.email.e s: must be a locale such as en or pt-br",
		"texts.email.en.subject: line 1: there is no filter nope",
		"texts.email.en.html: has 102401 bytes, at most 102400 are possible",
		"texts.email.en.url: is not carried by this channel",
		"texts.email.es.subject: must not be empty",
		`texts.email.es.text: line 1: unterminated "if" block in {% if %}`,
		"texts.fax: is not a channel: there are email, sms, push and inapp",
		"texts.inapp: has 21 locales, at most 20 are possible",
		"texts.push.en.subject: must not be empty",
		"texts.push.en.html: is not carried by this channel",
		"texts.sms: must have a text in the default locale",
		"texts.sms.es.text: has 65537 bytes, at most 65536 are possible",
	}, fields)
	require.Len(t, r.Check(fanfare.Template{}), 2)
}

// Whatever is written, a text is rendered or refused, and data never becomes HTML.
func FuzzTemplate(f *testing.F) {
	for _, source := range []string{
		"{{ a }}", "{{ a | upcase | b }}", "{% for x in a %}{{ x }}{% endfor %}", "{% if a %}{{ a.b }}{% elsif b %}{% else %}{% endif %}",
		"{% assign x = a | split: ',' %}{{ x | first }}", "{%- capture x -%}{{ a }}{%- endcapture -%}{{ x }}", "{% raw %}{{{% endraw %}", "{{ a) | size: (a }}",
		"{% tablerow i in (1..3) cols: 2 %}{{ i }}{% endtablerow %}", "{% cycle 'a', 'b' %}", "{% case a %}{% when 1, 'x' %}y{% else %}z{% endcase %}", "{{ 'x' | date: a }}",
	} {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		_, err := filledHTML(source, map[string]any{"a": "q,<b", "b": []any{1.0, nil, map[string]any{"c": "<"}}})
		if err != nil {
			require.ErrorIs(t, err, fanfare.ErrInvalid)
		}
	})
}

func BenchmarkTemplate(b *testing.B) {
	a := announce(fanfare.Content{Template: "article", Data: data()})
	a.Template = template(fanfare.Email, texts{"en": {Subject: "{{ title }}", HTML: strings.Repeat("<p>{{ author.name | upcase }}</p>\n", 50)}})
	r := render.New()
	for b.Loop() {
		if _, err := r.Render(fanfare.Email, a, "en"); err != nil {
			b.Fatal(err)
		}
	}
}

// A link that a filter changed would be a dead one, on the button by which people leave.
func TestTemplateLinksStandAsTheyAre(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article"})
	for source, want := range map[string]string{
		"{{ unsubscribe_url | upcase }}":                          "unsubscribe_url",
		"{{ unsubscribe_url | url_encode }}":                      "unsubscribe_url",
		"{{ preferences_url | slice: 8, 12 }}":                    "preferences_url",
		"{{ unsubscribe_url | truncate: 25 }}":                    "unsubscribe_url",
		"{{ unsubscribe_url | replace: 'https', 'http' }}":        "unsubscribe_url",
		"{{ unsubscribe_url | split: '/' | last | append: '/' }}": "unsubscribe_url",
	} {
		for _, text := range []fanfare.TemplateText{{Subject: "S", Text: source}, {Subject: "S", HTML: source}} {
			a.Template = template(fanfare.Email, texts{"en": text})
			_, err := render.New().Render(fanfare.Email, a, "")
			require.ErrorIs(t, err, fanfare.ErrInvalid, source)
			require.ErrorContains(t, err, "changes "+want+", which must stand as it is", source)
		}
	}
	for _, source := range []string{
		"{{ unsubscribe_url }}?from=mail", "{{ unsubscribe_url | append: '?from=mail' }}", "{{ unsubscribe_url | strip }}",
		"{% if unsubscribe_url %}{% assign u = unsubscribe_url %}{{ u }}{% endif %}", "{% capture u %}<{{ unsubscribe_url }}>{% endcapture %}{{ u }}",
	} {
		a.Template = template(fanfare.Email, texts{"en": {Subject: "S", Text: source}})
		m, err := render.New().Render(fanfare.Email, a, "")
		require.NoError(t, err, source)
		require.Contains(t, m.Text, fanfare.UnsubscribeTag, source)
	}
	// A subject has no place for one.
	a.Template = template(fanfare.Email, texts{"en": {Subject: "{{ unsubscribe_url }}", Text: "x"}})
	_, err := render.New().Render(fanfare.Email, a, "")
	require.ErrorContains(t, err, "email subject: there is no unsubscribe_url")
}

// Whoever forgets one of the links gets it from the footer.
func TestTemplateOfEmailHasBothLinks(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article"})
	for _, source := range []string{"x", "{{ unsubscribe_url }}", "{{ preferences_url }}", "{{ unsubscribe_url }} {{ preferences_url }}"} {
		a.Template = template(fanfare.Email, texts{"en": {Subject: "S", HTML: "<body>" + source + "</body>", Text: source}})
		m, err := render.New().Render(fanfare.Email, a, "")
		require.NoError(t, err, source)
		for _, out := range []string{m.HTML, m.Text} {
			require.Contains(t, out, fanfare.UnsubscribeTag, source)
			require.Contains(t, out, fanfare.PreferencesTag, source)
		}
		require.True(t, strings.HasSuffix(m.HTML, "</body>"), source)
	}
}

// A loop through nothing is no empty loop, however its list is named.
func TestTemplateNamesWhatALoopMisses(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"{% for i in author['nope'] %}x{% endfor %}y":                            "content.data.author.nope",
		`{% for i in author["nope"] reversed limit: 1 %}x{% endfor %}y`:          "content.data.author.nope",
		"{% for i in items[0].tags offset: 1 %}x{% endfor %}y":                   "content.data.items[0].tags",
		"{% for i in items[9].tags %}x{% endfor %}y":                             "content.template",
		"{% for i in items[9] %}x{% endfor %}y":                                  "content.template",
		"{% for i in who.list | sort %}x{% endfor %}y":                           "content.data.who",
		"{% for i in (1..who) %}x{% endfor %}y":                                  "content.data.who",
		"{% tablerow i in author['nope'] cols: 2 %}x{% endtablerow %}y":          "content.data.author.nope",
		"{% for a in items %}{% for b in a['nope'] %}x{% endfor %}{% endfor %}y": "content.data.items[0].nope",
	} {
		_, err := filled(source, data())
		var invalid *fanfare.InvalidError
		require.ErrorAs(t, err, &invalid, source)
		require.Equal(t, want, invalid.Violations[0].Field, source)
	}
}

// What is missing in each of many items is said for some of them.
func TestTemplateNamesWhatIsMissingAndEnds(t *testing.T) {
	t.Parallel()
	many := make([]any, 5_000)
	for i := range many {
		many[i] = map[string]any{"n": float64(i)}
	}
	began := time.Now()
	_, err := filled("{% for i in many %}{{ i.url }}{% endfor %}x", map[string]any{"many": many})
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, fanfare.Violation{Field: "content.data.many[0].url", Detail: "is missing"}, invalid.Violations[0])
	require.Len(t, invalid.Violations, 100)
	require.Less(t, time.Since(began), 5*time.Second)
}

// Data that is deep and wide costs what it has, and not that times its depth.
func TestTemplateBearsDeepData(t *testing.T) {
	t.Parallel()
	wide := make([]any, 20_000)
	for i := range wide {
		wide[i] = map[string]any{}
	}
	deep := any(wide)
	for range 2000 {
		deep = map[string]any{"a": deep}
	}
	d := map[string]any{"deep": deep, "x": "y"}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := filled("{{ x }}", d)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

// A key of the data may be somebody's: only what the template names itself is repeated.
func TestTemplateErrorsHoldNoKeysOfTheData(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"{{ author[who] }}":                                          "content.data.author[…]: is missing",
		"{% assign k = who %}{{ author[k] }}":                        "content.data.author[…]: is missing",
		"{% for p in people %}{{ p[1].name }}{{ p[1] }}{% endfor %}": "content.data.people[…].name: is missing",
	} {
		d := data()
		d["who"], d["people"] = "canary@mail.example", map[string]any{"canary@mail.example": map[string]any{}}
		_, err := filled(source, d)
		require.ErrorIs(t, err, fanfare.ErrInvalid, source)
		require.NotContains(t, err.Error(), "canary", source)
		require.ErrorContains(t, err, want, source)
	}
}

// All channels and locales together are bounded too: somebody waits for the answer.
func TestProveIsBoundedInAll(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article", Data: map[string]any{"big": make([]any, 5000)}})
	a.Channels = []fanfare.Channel{fanfare.SMS}
	slow := texts{}
	for i := range 20 {
		slow[fmt.Sprint("en-x", i)] = fanfare.TemplateText{Text: "{% for i in (1..99999) %}{% if big contains 'x' %}{% endif %}{% endfor %}x"}
	}
	slow["en"] = slow["en-x1"]
	delete(slow, "en-x1")
	a.Template = template(fanfare.SMS, slow)
	began := time.Now()
	err := render.Hurry(100 * time.Millisecond).Prove(a)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorContains(t, err, "all texts together longer than ten")
	require.Less(t, time.Since(began), 10*time.Second, "twenty of them would take a hundred seconds")
}

// In attributes escaping is not enough: a space ends a value without quotes, and a link may
// be a program.
func TestTemplateMindsAttributes(t *testing.T) {
	t.Parallel()
	d := map[string]any{
		"evil": "x onmouseover=alert(1)", "js": "javascript:alert(1)", "tabbed": " java\tscript:alert(1)", "coded": "&#106;avascript:alert(1)", "data": "data:text/html,x",
		"web": "https://blog.example/?a=1&b=2", "mail": "mailto:a@b.example", "path": "/a:b", "time": "12:30", "n": 3.0,
	}
	for source, want := range map[string]string{
		`<a title={{ evil }}>`:                                      `<a title=x&#32;onmouseover&#61;alert(1)>`,
		`<a title=a{{ evil }}>`:                                     `<a title=ax&#32;onmouseover&#61;alert(1)>`,
		`<td width={{ n }} title="{{ evil }}">{{ evil }}`:           `<td width=3 title="x onmouseover=alert(1)">x onmouseover=alert(1)`,
		`<a title='a=b {{ evil }}' id = {{ evil }}>`:                `<a title='a=b x onmouseover=alert(1)' id = x&#32;onmouseover&#61;alert(1)>`,
		`<!-- <a title={{ evil }} --><p>{{ evil }}`:                 `<!-- <a title=x onmouseover=alert(1) --><p>x onmouseover=alert(1)`,
		`a < b = {{ evil }}`:                                        `a < b = x onmouseover=alert(1)`,
		`<a href="{{ web }}">`:                                      `<a href="https://blog.example/?a=1&amp;b=2">`,
		`<a href={{ web }}>`:                                        `<a href=https://blog.example/?a&#61;1&amp;b&#61;2>`,
		`<a HREF='{{ mail }}'>{{ js }}`:                             `<a HREF='mailto:a@b.example'>javascript:alert(1)`,
		`<a href="https://blog.example/{{ js }}" title="{{ js }}">`: `<a href="https://blog.example/javascript:alert(1)" title="javascript:alert(1)">`,
		`<img src="{{ path }}">{{ time }}`:                          `<img src="/a:b">12:30`,
		`<br/><a{% if n %} href="{{ web }}"{% endif %}>`:            `<br/><a href="https://blog.example/?a=1&amp;b=2">`,
	} {
		got, err := filledHTML(source, d)
		require.NoError(t, err, source)
		require.Equal(t, want, got, source)
	}
	for _, source := range []string{
		`<a href="{{ js }}">`, `<a class="b" href='{{ js | upcase }}'>`, `<a href={{ js }}>`, `<a href = "{{ tabbed }}">`, `<img src="{{ data }}">`,
		`<a href="{{ coded | replace: "&#106;", "j" }}">`, `<a href="{% if n %}{{ js }}{% endif %}">`, `{% capture u %}{{ js }}{% endcapture %}<a href="{{ u }}">`,
		"<a\nhref=\"{{ js }}\">", `<br/><a title=x href="{{ js }}">`, `{% raw %}<a href="{% endraw %}{{ js }}">`,
	} {
		_, err := filledHTML(source, d)
		require.ErrorIs(t, err, fanfare.ErrInvalid, source)
		require.ErrorContains(t, err, "puts a link where one leads to", source)
		require.NotContains(t, err.Error(), "script", source)
	}
	got, err := filled(`<a href="{{ js }}" title={{ evil }}>`, d)
	require.NoError(t, err)
	require.Equal(t, `<a href="javascript:alert(1)" title=x onmouseover=alert(1)>`, got, "what is no HTML stays as it is")
}

// A message whose time runs out when it is sent was rendered in time when it was accepted: the
// machine is slow, or stood still, and the next try may do. It is no fault of what was written,
// for which there would be no next try.
func TestRenderRunsOutOfTimeForNow(t *testing.T) {
	t.Parallel()
	a := announce(fanfare.Content{Template: "article", Data: map[string]any{"big": make([]any, 5000)}})
	for _, source := range []string{
		"{% for i in (1..99999) %}{% if big contains 'x' %}{% endif %}{% endfor %}x", "{% for i in (1..99999) %}{% assign x = 'a' | upcase %}{% endfor %}x",
	} {
		a.Template = template(fanfare.SMS, texts{"en": {Text: source}})
		_, err := render.Hurry(20*time.Millisecond).Render(fanfare.SMS, a, "")
		require.ErrorContains(t, err, "takes longer")
		require.NotErrorIs(t, err, fanfare.ErrInvalid)
	}
}
