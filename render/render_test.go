package render_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
)

func announce(c fanfare.Content) fanfare.Announcement {
	return fanfare.Announcement{TopicName: "The Slow Coast", Key: "article-1", Content: c}
}

func TestRenderDefaults(t *testing.T) {
	t.Parallel()
	r := render.New()
	a := announce(article())
	for channel, want := range map[fanfare.Channel]fanfare.Message{
		fanfare.SMS: {Text: "The Slow Coast: Why the tide tables were wrong https://blog.example/writer-1/tide-tables?utm_source=mail&n=1"},
		fanfare.Push: {
			Subject: "Why the tide tables were wrong", Text: "A harbor master, a rounding error and forty years of wet feet.",
			URL: "https://blog.example/writer-1/tide-tables?utm_source=mail&n=1",
		},
		fanfare.InApp: {
			Subject: "Why the tide tables were wrong", Text: "A harbor master, a rounding error and forty years of wet feet.",
			URL: "https://blog.example/writer-1/tide-tables?utm_source=mail&n=1",
		},
	} {
		got, err := r.Render(channel, a, "")
		require.NoError(t, err)
		require.Equal(t, want, got, channel)
	}
	a.Content.Summary = ""
	got, err := r.Render(fanfare.Push, a, "")
	require.NoError(t, err)
	require.Equal(t, "The Slow Coast", got.Text, "without a summary, who wrote")
}

func TestRenderDefaultSMSStaysSmall(t *testing.T) {
	t.Parallel()
	r := render.New()
	long := announce(fanfare.Content{Title: "one\r\ntwo\x00 " + strings.Repeat("word ", 60), URL: "https://blog.example/" + strings.Repeat("x", 38)})
	long.TopicName = strings.Repeat("n", 100)
	m, err := r.Render(fanfare.SMS, long, "")
	require.NoError(t, err)
	require.Equal(t, fanfare.Segments{Encoding: "GSM-7", Units: 160, Segments: 1}, render.Segments(m.Text), m.Text)
	require.Contains(t, m.Text, strings.Repeat("n", 27)+"...: one two word")
	require.True(t, strings.HasSuffix(m.Text, " "+long.Content.URL), "the link is whole")
	long.Content.URL += strings.Repeat("x", 1500)
	_, err = r.Render(fanfare.SMS, long, "")
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorContains(t, err, "content.url: is too long for an SMS")
}

func TestRenderDefaultPushFitsItsPayload(t *testing.T) {
	t.Parallel()
	r := render.New()
	wide := announce(fanfare.Content{Title: strings.Repeat("😀", 1000), URL: "https://blog.example/" + strings.Repeat("x", 2200), Summary: strings.Repeat("😀", 1000)})
	m, err := r.Render(fanfare.Push, wide, "")
	require.NoError(t, err)
	require.Less(t, len(m.Subject+m.Text+m.URL), 3501)
	wide.Content.URL += strings.Repeat("x", 200)
	_, err = r.Render(fanfare.Push, wide, "")
	require.ErrorContains(t, err, "content.url: is too long for a push")
}

// What cannot be rendered on any of the channels is said for all of them at once.
func TestProveWithoutTemplate(t *testing.T) {
	t.Parallel()
	r := render.New()
	a := announce(article())
	a.Channels = []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp}
	require.NoError(t, r.Prove(a))
	a.Content.URL = "https://blog.example/" + strings.Repeat("x", 4000)
	err := r.Prove(a)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorContains(t, err, "SMS")
	require.ErrorContains(t, err, "push")
}
