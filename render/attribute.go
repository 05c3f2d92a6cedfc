package render

import (
	"html"
	"regexp"
	"slices"
	"strings"
)

// Where an output of an html text stands, if escaping alone does not keep it text there.
const (
	bare  = 1 << iota // in an attribute's value without quotes, which a space ends
	aLink             // at the begin of an attribute that is a link
)

// linkAttributes are the attributes of HTML that hold a link, as far as mails use them.
var linkAttributes = []string{"href", "src", "action", "formaction", "background", "cite", "poster", "longdesc"}

// attributes follows an html text to know in which attribute something stands. It reads
// the text once from the begin to the end, as if all branches of conditions were in it.
type attributes struct {
	state byte // one of those below
	name  strings.Builder
	quote byte // of the value; 0 is none
	empty bool // nothing of the value came yet
	last  [3]byte
}

// The states.
const (
	inText byte = iota
	inComment
	inTag       // between attributes
	inName      // of an attribute
	behindName  // where = may come
	beforeValue // behind =
	inValue
)

// of says what is to be minded of something that is put out here.
func (a *attributes) of() (where int) {
	if a.state != beforeValue && a.state != inValue {
		return 0
	}
	if a.state == beforeValue || a.quote == 0 {
		where = bare
	}
	if (a.state == beforeValue || a.empty) && slices.Contains(linkAttributes, strings.ToLower(a.name.String())) {
		where |= aLink
	}
	return where
}

func (a *attributes) feed(text string) {
	for i := range len(text) {
		a.step(text[i])
		a.last = [3]byte{a.last[1], a.last[2], text[i]}
	}
}

// step follows one byte.
func (a *attributes) step(c byte) {
	space := c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '/'
	switch {
	case a.state == inText:
		if letter := c|0x20 >= 'a' && c|0x20 <= 'z'; letter && a.last[2] == '<' {
			a.state = inName // of the element: no = follows it
			a.name.Reset()
		} else if c == '-' && a.last == [3]byte{'<', '!', '-'} {
			a.state = inComment
		}
	case a.state == inComment:
		if c == '>' && a.last[1] == '-' && a.last[2] == '-' {
			a.state = inText
		}
	case a.state == inValue && (a.quote != 0 && c == a.quote || a.quote == 0 && space && c != '/'):
		a.state = inTag
	case a.state == inValue && a.quote != 0, a.state == inValue && c != '>':
		a.empty = false
	case c == '>':
		a.state = inText
	case a.state == beforeValue && !space || a.state == beforeValue && c == '/':
		a.state, a.quote, a.empty = inValue, 0, false
		if c == '"' || c == '\'' {
			a.quote, a.empty = c, true
		}
	case a.state == beforeValue, space && a.state == inTag:
	case space:
		a.state = behindName
	case c == '=':
		a.state = beforeValue
	default:
		if a.state != inName {
			a.name.Reset()
		}
		a.state = inName
		a.name.WriteByte(c)
	}
}

// bareSigns end or open something in a value without quotes.
var bareSigns = strings.NewReplacer(" ", "&#32;", "\t", "&#9;", "\n", "&#10;", "\r", "&#13;", "=", "&#61;", "`", "&#96;")

// scheme is how a link begins that is more than a path.
var scheme = regexp.MustCompile(`^[\s\x00-\x20]*([A-Za-z][A-Za-z0-9+.-]*):`)

// leads reports whether HTML is the begin of a link that a mail may have.
func leads(markup string) bool {
	link := strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(html.UnescapeString(markup)) // as browsers do
	found := scheme.FindStringSubmatch(link)
	return found == nil || slices.Contains([]string{"http", "https", "mailto", "tel", "sms", "cid"}, strings.ToLower(found[1]))
}
