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

// The layouts hold the tags as literal text: html/template would percent-encode
// part of them if they came in as data.
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

// email renders content to email in the default layout.
type email struct {
	html *html.Template
	text *text.Template
}

// newEmail reads the layout that is built in.
func newEmail() *email {
	return &email{
		html: html.Must(html.ParseFS(layouts, "email.html.tmpl")),
		text: text.Must(text.ParseFS(layouts, "email.txt.tmpl")),
	}
}

// page is what the layouts show.
type page struct {
	Topic, Title, Preheader, Summary, URL string
	Paragraphs                            [][]string // lines
}

// render makes the email that all recipients of a publication share. Its size is
// bounded because content is: at worst (nothing but one-letter paragraphs) HTML is
// 20 times as long.
func (e *email) render(topicName string, c fanfare.Content) (fanfare.Message, error) {
	title, address, err := essentials(c)
	if err != nil {
		return fanfare.Message{}, err
	}
	p := page{Topic: oneLine(topicName), Title: title, Summary: oneLine(c.Summary), URL: address, Paragraphs: paragraphs(c.Body)}
	p.Preheader = shorten(p.Summary, maxPreheader, "…")
	var asHTML, asText bytes.Buffer
	if err := e.html.Execute(&asHTML, p); err != nil {
		return fanfare.Message{}, fmt.Errorf("html: %w", err)
	}
	if err := e.text.Execute(&asText, p); err != nil {
		return fanfare.Message{}, fmt.Errorf("text: %w", err)
	}
	return fanfare.Message{Subject: shorten(title, maxSubject, "…"), HTML: asHTML.String(), Text: asText.String()}, nil
}

// footer is what the default layouts end with, "footer", for a template that has no link to
// unsubscribe, or of that only the link to the preferences, "preferences".
func (e *email) footer(name, which, topicName string) (string, error) {
	var out bytes.Buffer
	var err error
	if p := (page{Topic: oneLine(topicName)}); name == "html" {
		err = e.html.ExecuteTemplate(&out, which, p)
	} else {
		err = e.text.ExecuteTemplate(&out, which, p)
	}
	return out.String(), err
}

// essentials are what content without a template must have.
func essentials(c fanfare.Content) (title, address string, err error) {
	var wrong []fanfare.Violation
	if title = oneLine(c.Title); title == "" {
		wrong = append(wrong, fanfare.Violation{Field: "content.title", Detail: "must not be empty"})
	}
	address, why := link(c.URL)
	if why != "" {
		wrong = append(wrong, fanfare.Violation{Field: "content.url", Detail: why})
	}
	if len(wrong) > 0 {
		return "", "", &fanfare.InvalidError{Violations: wrong}
	}
	return title, address, nil
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
	return anyTag.ReplaceAllStringFunc(raw, url.QueryEscape), ""
}

// anyTag matches the tags in any case: whether a provider minds the case of its tags
// is not ours to bet on.
var anyTag = regexp.MustCompile(`(?i)` + regexp.QuoteMeta(fanfare.UnsubscribeTag) + `|` + regexp.QuoteMeta(fanfare.PreferencesTag))

// disarm breaks the tags up. What it puts there cannot become part of a new tag
// together with its surroundings: it holds no percent sign.
func disarm(s string) string {
	return anyTag.ReplaceAllString(s, "(link)")
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

// shorten cuts s to n characters, the ellipsis among them.
func shorten(s string, n int, ellipsis string) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return strings.TrimSpace(string(runes[:n-utf8.RuneCountInString(ellipsis)])) + ellipsis
}
