package sendgrid

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fanfare-dev/fanfare"
)

const (
	// maxDetail bounds what is kept of a foreign text, in bytes.
	maxDetail = 200
	// repeated is how many bytes of a message in a row are no accident.
	repeated = 16
)

// personal matches what may be somebody's: anything quoted or in brackets (that
// is how SendGrid repeats what it was sent), words with an @, links, and digits
// as long as a phone number. Indexes such as "[3]" stay.
var personal = regexp.MustCompile(`"[^"]*"|\B'[^']*'\B|\[[^\]]{5,}\]|<[^>]*>|\S*@\S*|\S*://\S*|\+?\d[\d\s().-]{5,}\d`)

// scrub makes a foreign text fit to be logged: one line, bounded, without what
// looks personal, without the addresses that a call was for and without what its
// message says.
func scrub(s string, call fanfare.Call) string {
	if len(s) > 1<<10 { // enough for any sentence, and little enough to search
		s = s[:1<<10]
	}
	for _, r := range call.Recipients {
		if r.Address != "" {
			s = strings.ReplaceAll(s, r.Address, "…")
		}
	}
	for _, content := range []string{call.Message.Subject, call.Message.Text, call.Message.HTML} {
		s = without(s, content)
	}
	s = strings.ToValidUTF8(s, "?")
	s = personal.ReplaceAllString(s, "…")
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if len(s) <= maxDetail {
		return s
	}
	s = s[:maxDetail]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// without takes out of s what it repeats of a content, in part or whole.
func without(s, content string) string {
	least := min(repeated, len(content))
	if least < 4 { // a subject of one letter would be found in every word
		return s
	}
	var kept strings.Builder
	for i := 0; i < len(s); {
		end := i + least
		if end > len(s) || !strings.Contains(content, s[i:end]) {
			kept.WriteByte(s[i])
			i++
			continue
		}
		for end < len(s) && strings.Contains(content, s[i:end+1]) {
			end++
		}
		kept.WriteString("…")
		i = end
	}
	return kept.String()
}
