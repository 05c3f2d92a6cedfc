// Package render turns what a publisher wrote into what a channel carries.
//
// It owns the default layouts. It never sends, never stores and never looks
// anything up; what comes out depends on nothing but what goes in.
//
// It promises that text written by people stays text: it is escaped where it
// lands in HTML, it cannot break a header, and it can neither hold nor form
// fanfare.UnsubscribeTag. That tag stands in a message exactly where the layout
// puts it, byte for byte, for the provider to replace. Only http and https
// links come out.
package render

import (
	"bytes"
	"embed"
	"fmt"
	html "html/template"
	"net/url"
	"regexp"
	"strings"
	text "text/template"
	"unicode"
	"unicode/utf8"

	"github.com/fanfare-dev/fanfare"
)

// The layouts hold the unsubscribe tag as literal text: html/template would
// percent-encode part of it if it came in as data.
//
//go:embed email.html.tmpl email.txt.tmpl
var layouts embed.FS

const (
	// maxSubject bounds a subject, in characters. Mail clients show 40 to 100;
	// encoded, 200 of the longest still fold into a header that servers accept.
	maxSubject = 200
	// maxPreheader is as much as mail clients show beside the subject.
	maxPreheader = 150
)

// Email renders content to email in the default layout. It is safe for
// concurrent use.
type Email struct {
	html *html.Template
	text *text.Template
}

// NewEmail reads the layout that is built in.
func NewEmail() *Email {
	return &Email{
		html: html.Must(html.ParseFS(layouts, "email.html.tmpl")),
		text: text.Must(text.ParseFS(layouts, "email.txt.tmpl")),
	}
}

// page is what the layouts show.
type page struct {
	Topic, Title, Preheader, Summary, URL string
	Paragraphs                            [][]string // lines
}

// Render makes the message that all recipients of a publication share.
// topicName tells them who wrote; it may be empty. An error that matches
// fanfare.ErrInvalid lists every field that cannot be rendered, and any other
// is a fault of the layout. The result is bounded because content is: at worst
// (nothing but one-letter paragraphs) HTML is 20 times as long.
func (e *Email) Render(topicName string, c fanfare.Content) (fanfare.Message, error) {
	p := page{
		Topic:      oneLine(topicName),
		Title:      oneLine(c.Title),
		Summary:    oneLine(c.Summary),
		Paragraphs: paragraphs(c.Body),
	}
	p.Preheader = shorten(p.Summary, maxPreheader)
	var wrong []fanfare.Violation
	if p.Title == "" {
		wrong = append(wrong, fanfare.Violation{Field: "content.title", Detail: "must not be empty"})
	}
	var why string
	if p.URL, why = link(c.URL); why != "" {
		wrong = append(wrong, fanfare.Violation{Field: "content.url", Detail: why})
	}
	if len(wrong) > 0 {
		return fanfare.Message{}, fmt.Errorf("render email: %w", &fanfare.InvalidError{Violations: wrong})
	}
	var asHTML, asText bytes.Buffer
	if err := e.html.Execute(&asHTML, p); err != nil {
		return fanfare.Message{}, fmt.Errorf("render email html: %w", err)
	}
	if err := e.text.Execute(&asText, p); err != nil {
		return fanfare.Message{}, fmt.Errorf("render email text: %w", err)
	}
	return fanfare.Message{Subject: shorten(p.Title, maxSubject), HTML: asHTML.String(), Text: asText.String()}, nil
}

// link checks an address that a button will lead to. why is empty when it may.
func link(raw string) (clean, why string) {
	raw = strings.TrimSpace(raw)
	u, err := url.Parse(raw)
	switch {
	case err != nil || !utf8.ValidString(raw) || strings.ContainsFunc(raw, unicode.IsSpace):
		return "", "is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "", "must begin with http:// or https://"
	case u.Hostname() == "":
		return "", "must name a host"
	}
	// Percent-encoded, the tag means the same to whoever serves the link and
	// nothing to the provider.
	return unsubscribeTag.ReplaceAllStringFunc(raw, url.QueryEscape), ""
}

// unsubscribeTag matches the tag in any case: whether a provider minds the case
// of its tags is not ours to bet on.
var unsubscribeTag = regexp.MustCompile(`(?i)` + regexp.QuoteMeta(fanfare.UnsubscribeTag))

// disarm breaks the tag up. What it puts there cannot become part of a new tag
// together with its surroundings: it holds no percent sign.
func disarm(s string) string {
	return unsubscribeTag.ReplaceAllString(s, "(unsubscribe)")
}

// oneLine makes text fit for a header: valid UTF-8 without line breaks and
// control characters, white space folded.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return disarm(strings.Join(strings.Fields(s), " "))
}

var (
	lineBreak = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u2028", "\n", "\u2029", "\n\n", "\t", "    ")
	blankLine = regexp.MustCompile(`\n[ \x{00a0}]*\n\s*`)
)

// paragraphs cuts plain text at blank lines, and each paragraph into its lines.
func paragraphs(body string) [][]string {
	body = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return -1
		}
		return r
	}, lineBreak.Replace(strings.ToValidUTF8(body, "\uFFFD")))
	var all [][]string
	for _, p := range blankLine.Split(disarm(body), -1) {
		if p = strings.Trim(p, "\n"); strings.TrimSpace(p) != "" {
			all = append(all, strings.Split(p, "\n"))
		}
	}
	return all
}

// shorten cuts s to n characters, the last one being an ellipsis.
func shorten(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return strings.TrimSpace(string(runes[:n-1])) + "…"
}
