package render_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
)

// What docs/templates.md shows is what comes out.
func TestDocumentedExample(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../docs/templates.md")
	require.NoError(t, err)
	block := func(name string) string {
		found := regexp.MustCompile("(?s)<!-- " + name + " -->\n```\\w+\n(.*?)\n```").FindSubmatch(document)
		require.NotNil(t, found, "%s is not there", name)
		return string(found[1])
	}
	a := fanfare.Announcement{TopicName: "Ada's notes", Key: "article-1", Template: &fanfare.Template{}}
	require.NoError(t, json.Unmarshal([]byte(block("template")), a.Template))
	require.NoError(t, json.Unmarshal([]byte(block("data")), &a.Content.Data))
	r := render.New()
	require.Empty(t, r.Check(*a.Template))
	for _, c := range []struct {
		channel      fanfare.Channel
		locale, part string
		of           func(fanfare.Message) string
	}{
		{fanfare.Email, "en", "html", func(m fanfare.Message) string { return m.HTML }},
		{fanfare.Email, "es", "text", func(m fanfare.Message) string { return m.Text[:len(m.Text)-1] }},
		{fanfare.SMS, "en", "sms", func(m fanfare.Message) string { return m.Text }},
	} {
		m, err := r.Render(c.channel, a, c.locale)
		require.NoError(t, err)
		require.Equal(t, block(c.part), c.of(m))
	}
	require.Equal(t, fanfare.Segments{Encoding: "GSM-7", Units: 56, Segments: 1}, render.Segments(block("sms")))
}
