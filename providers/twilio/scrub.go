package twilio

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDetail bounds what is kept of an error's text, in bytes.
const maxDetail = 200

// personal matches what may be somebody's in an error of the network, which can
// quote what the other end said: anything quoted, links, words with an @, and digits
// as long as a number.
var personal = regexp.MustCompile(`"[^"]*"|\S*@\S*|\S*://\S*|\+?\d[\d\s().-]{5,}\d`)

// scrub makes an error's text fit to be logged: one line, bounded, without what
// looks personal.
func scrub(s string) string {
	if len(s) > 4<<10 { // enough for any sentence, and little enough to search
		s = s[:4<<10]
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
