package smtp

import (
	"bytes"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/fanfare-dev/fanfare"
)

func composer(t require.TestingT) *Sender {
	s, err := New(Config{URL: unencrypted, From: "The Slow Coast <news@blog.example>"})
	require.NoError(t, err)
	return s
}

var headers = []string{"Content-Type", "Date", "From", "List-Unsubscribe", "List-Unsubscribe-Post", "Message-Id", "Mime-Version", "Subject", "To"}

// Whatever a field holds, a message has our headers and no others, goes to one
// address, and its lines are such as SMTP takes.
func TestNoFieldBreaksOut(t *testing.T) {
	t.Parallel()
	s := composer(t)
	piece := rapid.SampledFrom([]string{"\r\n", "\n", "\r", "Bcc: x@evil.example", ".", "a", "é", " ", "<", ">", ",", "\"", "@", "\x00", "=?utf-8?q?", "?=", "--", ":", "\u2028", "tide", fanfare.UnsubscribeTag, fanfare.PreferencesTag})
	text := func(t *rapid.T, name string) string {
		return strings.Join(rapid.SliceOfN(piece, 0, 30).Draw(t, name), "")
	}
	rapid.Check(t, func(t *rapid.T) {
		c := call(7)
		c.Message = fanfare.Message{Subject: text(t, "subject"), HTML: "!" + text(t, "html"), Text: "!" + text(t, "text")}
		if rapid.Bool().Draw(t, "wild") {
			c.Recipients[0].Address = text(t, "address") + "reader@readers.example" + text(t, "after")
			c.Recipients[0].Unsubscribe = "https://blog.example/" + text(t, "link")
			c.Recipients[0].Preferences = "https://blog.example/" + text(t, "other link")
		}
		e, err := s.compose(c)
		if err != nil {
			return
		}
		require.NotRegexp(t, `[\r\n\s]`, e.to)
		require.Equal(t, 1, strings.Count(e.to, "<"))
		require.Equal(t, "<"+c.Recipients[0].Address+">", e.to)
		m, err := netmail.ReadMessage(bytes.NewReader(e.data))
		require.NoError(t, err)
		require.Equal(t, headers, slices.Sorted(maps.Keys(m.Header)))
		for name, values := range m.Header {
			require.Len(t, values, 1, name)
		}
		for line := range bytes.SplitSeq(e.data, []byte("\r\n")) {
			require.LessOrEqual(t, len(line), 998)
			require.NotContains(t, string(line), "\n")
			require.NotContains(t, string(line), "\r")
		}
	})
}

func TestAddressesThatAreNotPlainAreRejected(t *testing.T) {
	t.Parallel()
	s := composer(t)
	for _, address := range []string{
		"", "reader", "a@b.example, c@d.example", "Name <a@b.example>", "<a@b.example>", "a@b.example (c)",
		`"a b"@c.example`, `"a>b"@c.example`, "a@b.example\r\nRCPT TO:<c@d.example>", " a@b.example", "a@b.example\n", "a@b>c", "a\x00b@c.example",
	} {
		c := call(7)
		c.Recipients[0].Address = address
		_, err := s.compose(c)
		require.ErrorIs(t, err, errAddress, "%q", address)
		outcome := s.Send(leased(t), c).Outcome
		require.Equal(t, fanfare.OutcomeRejected, outcome.Kind)
		require.Equal(t, "5.1.3", outcome.Code)
	}
}

func TestLinksThatAreNotPlainAreOurFault(t *testing.T) {
	t.Parallel()
	s := composer(t)
	for _, link := range []string{
		"", "blog.example/unsubscribe/x", "javascript:alert(1)", "https://blog.example/<x>", "https://blog.example/\r\nBcc: a@b", `https://blog.example/"x`,
		"https://blog.example/é", "https://blog.example/" + strings.Repeat("x", maxLink),
	} {
		for _, place := range []func(*fanfare.Recipient) *string{
			func(r *fanfare.Recipient) *string { return &r.Unsubscribe }, func(r *fanfare.Recipient) *string { return &r.Preferences },
		} {
			c := call(7)
			*place(&c.Recipients[0]) = link
			outcome := s.Send(leased(t), c).Outcome
			require.Equal(t, fanfare.OutcomeUnavailable, outcome.Kind, "%q", link)
			require.True(t, outcome.Account)
			require.Contains(t, outcome.Detail, "FANFARE_PUBLIC_URL")
		}
	}
	c := call(7)
	c.Message, c.Recipients[0].Preferences = fanfare.Message{Subject: "Tides", Text: "No link stands here."}, ""
	_, err := s.compose(c)
	require.NoError(t, err, "a message in which no preferences link stands needs none")
}

func TestContentArrivesAsWritten(t *testing.T) {
	t.Parallel()
	c := call(7)
	c.Message = fanfare.Message{
		Subject: "Über die Gezeiten: " + strings.Repeat("längere Titel ", 12) + "…",
		Text:    "Ebbe\n\n.\n..\nFrom here\n" + strings.Repeat("ö", 3000) + "\n" + fanfare.UnsubscribeTag + " " + fanfare.PreferencesTag + " " + fanfare.UnsubscribeTag + "\n",
		HTML:    "<p>" + strings.Repeat("Flut &amp; Ebbe ", 500) + `</p><a href="` + fanfare.UnsubscribeTag + `">x</a>`,
	}
	e, err := composer(t).compose(c)
	require.NoError(t, err)
	m, err := netmail.ReadMessage(bytes.NewReader(e.data))
	require.NoError(t, err)
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, c.Message.Subject, subject)
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	require.NoError(t, err)
	parts := multipart.NewReader(m.Body, params["boundary"])
	links := strings.NewReplacer(fanfare.UnsubscribeTag, c.Recipients[0].Unsubscribe, fanfare.PreferencesTag, c.Recipients[0].Preferences)
	for _, want := range []string{c.Message.Text, c.Message.HTML} {
		part, err := parts.NextRawPart()
		require.NoError(t, err)
		got, err := io.ReadAll(quotedprintable.NewReader(part))
		require.NoError(t, err)
		require.Equal(t, links.Replace(want), strings.ReplaceAll(string(got), "\r\n", "\n"))
	}
	_, err = parts.NextRawPart()
	require.ErrorIs(t, err, io.EOF)
}

// A message of one kind is no multipart.
func TestMessageWithoutText(t *testing.T) {
	t.Parallel()
	c := call(7)
	c.Message.Text = ""
	e, err := composer(t).compose(c)
	require.NoError(t, err)
	require.Contains(t, string(e.data), "\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<p>")
}
