package sendgrid

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/fanfare-dev/fanfare"
)

// maxDetail bounds what is kept of a foreign text, in bytes.
const maxDetail = 200

// personal matches what may be somebody's: anything quoted or in brackets (that
// is how SendGrid repeats what it was sent), words with an @, links, and digits
// as long as a phone number. Indexes such as "[3]" stay.
var personal = regexp.MustCompile(`"[^"]*"|\B'[^']*'\B|\[[^\]]{5,}\]|<[^>]*>|\S*@\S*|\S*://\S*|\+?\d[\d\s().-]{5,}\d`)

// scrub makes a foreign text fit to be logged: one line, bounded, without what
// looks personal and without the addresses that were sent to.
func scrub(s string, to []fanfare.Recipient) string {
	if len(s) > 4<<10 { // enough for any sentence, and little enough to search
		s = s[:4<<10]
	}
	s = strings.ToValidUTF8(s, "?")
	for _, r := range to {
		if r.Address != "" {
			s = strings.ReplaceAll(s, r.Address, "…")
		}
	}
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
