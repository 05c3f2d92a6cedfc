package render_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
)

var update = flag.Bool("update", false, "write the golden files anew")

// email renders content without a template.
func email(topicName string, c fanfare.Content) (fanfare.Message, error) {
	return render.New().Render(fanfare.Email, fanfare.Announcement{TopicName: topicName, Content: c}, "")
}

func article() fanfare.Content {
	return fanfare.Content{
		Title:   "Why the tide tables were wrong",
		URL:     "https://blog.example/writer-1/tide-tables?utm_source=mail&n=1",
		Summary: "A harbor master, a rounding error and forty years of wet feet.",
		Body: "For forty years the printed tables of the old harbor were eleven minutes late.\n" +
			"Nobody noticed, because everybody knew.\n\n" +
			"Then the harbor master retired, and the new one trusted the book.",
	}
}

func TestRenderGolden(t *testing.T) {
	t.Parallel()
	m, err := email("The Slow Coast", article())
	require.NoError(t, err)
	require.Equal(t, "Why the tide tables were wrong", m.Subject)
	for name, got := range map[string]string{"email.html": m.HTML, "email.txt": m.Text} {
		path := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(string(want), got), "if the change is meant: go test ./render -update")
	}
}

// Title and URL are all that a publication must have.
func TestRenderTheLeast(t *testing.T) {
	t.Parallel()
	m, err := email("", fanfare.Content{Title: "Hello", URL: "http://blog.example"})
	require.NoError(t, err)
	require.Equal(t, "Hello\n\nRead more: http://blog.example\n\n--\nYou get this email because you subscribed.\nUnsubscribe: "+fanfare.UnsubscribeTag+"\nPreferences: "+fanfare.PreferencesTag+"\n", m.Text)
	require.NotContains(t, m.HTML, "display:none", "no summary, no preheader")
	require.NotContains(t, m.HTML, "<p ")
}

var tags = []string{fanfare.UnsubscribeTag, fanfare.PreferencesTag}

func TestRenderKeepsTheTagsByteForByte(t *testing.T) {
	t.Parallel()
	m, err := email("The Slow Coast", article())
	require.NoError(t, err)
	for _, tag := range tags {
		require.Equal(t, 1, strings.Count(m.HTML, `href="`+tag+`"`))
		require.Equal(t, 1, strings.Count(m.HTML, tag))
		require.Equal(t, 1, strings.Count(m.Text, tag))
	}
}

func TestRenderEscapes(t *testing.T) {
	t.Parallel()
	evil := `<script>alert("x")</script> & 'co'`
	m, err := email(evil, fanfare.Content{Title: evil, URL: `https://blog.example/?q="><b>`, Summary: evil, Body: evil})
	require.NoError(t, err)
	for _, tag := range []string{"<script", "<b>", `q="`} {
		require.NotContains(t, m.HTML, tag)
	}
	require.Equal(t, 7, strings.Count(m.HTML, "&lt;script&gt;"), "title twice, preheader, summary, body, topic twice")
	require.Equal(t, evil, m.Subject, "a subject is not HTML")
	require.Contains(t, m.Text, evil)
}

func TestRenderSubjectFitsAHeader(t *testing.T) {
	t.Parallel()
	for title, want := range map[string]string{
		"one\r\nBcc: victim":           "one Bcc: victim",
		"  a \t b\u2028c\u0085d\x00e ": "a b c d e",
		"bad \xff utf8":                "bad \uFFFD utf8",
		strings.Repeat("ñ", 200):       strings.Repeat("ñ", 200),
		strings.Repeat("ñ", 201):       strings.Repeat("ñ", 199) + "…",
	} {
		m, err := email("", fanfare.Content{Title: title, URL: "https://blog.example"})
		require.NoError(t, err)
		require.Equal(t, want, m.Subject)
	}
}

func TestRenderParagraphs(t *testing.T) {
	t.Parallel()
	c := fanfare.Content{Title: "T", URL: "https://blog.example", Body: "\r\n\r\none\r\ntwo\r\n \r\n\r\n\n  three\x07\u2029four\n\n"}
	m, err := email("", c)
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(m.HTML, "<p "))
	require.Contains(t, m.HTML, ">one<br>two</p>")
	require.Contains(t, m.HTML, ">four</p>")
	require.Contains(t, m.Text, "T\n\none\ntwo\n\nthree\n\nfour\n\nRead more")
}

func TestRenderNamesEveryBadField(t *testing.T) {
	t.Parallel()
	_, err := email("", fanfare.Content{Title: " \n", URL: "javascript:alert(1)"})
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, []fanfare.Violation{
		{Field: "content.title", Detail: "must not be empty"},
		{Field: "content.url", Detail: "must begin with http:// or https://"},
	}, invalid.Violations)
}

func TestRenderRefusesLinks(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "blog.example", "/path", "//blog.example", "mailto:a@b.example", "data:text/html,x", "ftp://blog.example",
		"https://", "https://:443/", "https://a b.example", "https://blog.example/a b", "https://blog.example/\nx", "java\tscript:x", "https://blog.example/%zz", "https:blog.example",
	} {
		_, err := email("", fanfare.Content{Title: "T", URL: bad})
		require.ErrorIs(t, err, fanfare.ErrInvalid, "%q", bad)
		require.ErrorContains(t, err, "content.url", "%q", bad)
	}
	for _, good := range []string{"HTTPS://Blog.Example/x", " https://blog.example\n", "http://[::1]:8080/x?a[]=1#b", "https://münchen.example/ä"} {
		_, err := email("", fanfare.Content{Title: "T", URL: good})
		require.NoError(t, err, "%q", good)
	}
}

// The longest that 256 KiB of content can become is what the docstring says.
func TestRenderIsBounded(t *testing.T) {
	t.Parallel()
	const limit = 256 << 10
	for _, unit := range []string{"a\n\n", "\"", "a\n"} {
		c := fanfare.Content{Title: "T", URL: "https://blog.example", Body: strings.Repeat(unit, limit/len(unit))}
		m, err := email("", c)
		require.NoError(t, err)
		require.Less(t, len(m.HTML), 20*limit, "%q", unit)
		require.Less(t, len(m.Text), 2*limit, "%q", unit)
	}
}

// Whatever people write, each tag stands once in each part, and never in the subject.
func FuzzRenderTag(f *testing.F) {
	tag := fanfare.UnsubscribeTag
	f.Add(tag, "", tag)
	f.Add("[%fanfare_"+tag+"unsubscribe%]", "?a="+tag, "[%fanfare_\x00unsubscribe%]")
	f.Add("[%fan\nfare_unsubscribe%]", "#"+tag, "[%fan\x07fare_unsub\x7fscribe%]")
	f.Add("[%FANFARE_unsubscribe%]", "/"+tag, tag[:5]+"\n\n"+tag[5:])
	f.Add("\xff[%fanfare_\u200bunsubscribe%]", "?"+tag+tag, "&#91;%fanfare_unsubscribe%&#93;")
	f.Add("", "\xff", "")
	f.Add(strings.Repeat("x", 190)+tag, "?[%25fanfare_unsubscribe%25]", tag+tag)
	f.Add("[%fanfare_"+fanfare.PreferencesTag+"preferences%]", "?"+fanfare.PreferencesTag, "[%fanfare_"+tag+"preferences%]")
	f.Fuzz(func(t *testing.T, words, path, body string) {
		m, err := email(words, fanfare.Content{Title: "T" + words, URL: "https://blog.example/" + path, Summary: words, Body: body})
		if err != nil {
			require.ErrorIs(t, err, fanfare.ErrInvalid)
			return
		}
		for _, tag := range tags {
			require.Equal(t, 1, strings.Count(strings.ToLower(m.HTML), tag))
			require.Equal(t, 1, strings.Count(strings.ToLower(m.Text), tag))
			require.NotContains(t, strings.ToLower(m.Subject), tag)
		}
		require.False(t, strings.ContainsFunc(m.Subject, unicode.IsControl))
		require.True(t, utf8.ValidString(m.HTML+m.Text+m.Subject))
	})
}

func BenchmarkRender(b *testing.B) {
	r := render.New()
	for b.Loop() {
		if _, err := r.Render(fanfare.Email, fanfare.Announcement{TopicName: "The Slow Coast", Content: article()}, ""); err != nil {
			b.Fatal(err)
		}
	}
}
