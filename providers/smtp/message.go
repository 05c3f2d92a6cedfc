package smtp

import (
	"bytes"
	"errors"
	"fmt"
	netmail "net/mail"
	"strings"
	"time"
	"unicode"

	"github.com/wneessen/go-mail"

	"github.com/fanfare-dev/fanfare"
)

// maxLink keeps "List-Unsubscribe: <link>" within a line's 998 bytes (RFC 5322,
// 2.1.1).
const maxLink = 900

var (
	errLink    = errors.New("a link is not a plain http(s) URL: check FANFARE_PUBLIC_URL")
	errAddress = errors.New("the address has no form that SMTP takes")
)

// envelope is a message as the relay is given it.
type envelope struct {
	from, to string // in angle brackets
	utf8     bool   // the address needs SMTPUTF8 (RFC 6531)
	data     []byte
}

// compose writes the message of a call to its only recipient. It is written to
// memory first: what can fail on our side must fail before the relay hears of it.
func (s *Sender) compose(call fanfare.Call) (envelope, error) {
	recipient := call.Recipients[0]
	// An address that reads differently than it is written has a name, a comment or
	// quotes in it: it could mean someone else, or several.
	to, err := netmail.ParseAddress(recipient.Address)
	if err != nil || to.Address != recipient.Address || strings.ContainsFunc(to.Address, unicode.IsControl) {
		return envelope{}, errAddress
	}
	prefers := strings.Contains(call.Message.HTML, fanfare.PreferencesTag) || strings.Contains(call.Message.Text, fanfare.PreferencesTag)
	if !plainLink(recipient.Unsubscribe) || prefers && !plainLink(recipient.Preferences) {
		return envelope{}, errLink
	}
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	m.FromMailAddress(s.from)
	m.ToMailAddress(to)
	m.Subject(call.Message.Subject)
	m.SetDateWithValue(time.Now().UTC())
	domain := s.from.Address[strings.LastIndexByte(s.from.Address, '@')+1:]
	m.SetMessageIDWithValue(fmt.Sprintf("%s.%d@%s", call.ID, recipient.Number, domain))
	// Not by go-mail's own setters: they write these two in random order.
	m.SetGenHeader(mail.HeaderListUnsubscribe, "<"+recipient.Unsubscribe+">")
	m.SetGenHeader(mail.HeaderListUnsubscribePost, "List-Unsubscribe=One-Click")
	// Text before HTML, and no empty part.
	if text := personal(call.Message.Text, recipient); text != "" {
		m.AddAlternativeString(mail.TypeTextPlain, text)
	}
	if html := personal(call.Message.HTML, recipient); html != "" {
		m.AddAlternativeString(mail.TypeTextHTML, html)
	}
	var data bytes.Buffer
	if _, err := m.WriteTo(&data); err != nil {
		return envelope{}, fmt.Errorf("write message of call %s: %w", call.ID, err)
	}
	return envelope{
		from: (&netmail.Address{Address: s.from.Address}).String(),
		to:   (&netmail.Address{Address: to.Address}).String(),
		utf8: strings.ContainsFunc(to.Address, func(r rune) bool { return r > unicode.MaxASCII }),
		data: data.Bytes(),
	}, nil
}

func personal(content string, to fanfare.Recipient) string {
	return strings.NewReplacer(fanfare.UnsubscribeTag, to.Unsubscribe, fanfare.PreferencesTag, to.Preferences).Replace(content)
}

// linkSigns need no escaping anywhere that a link is put.
const linkSigns = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/?=%+[]"

// plainLink says whether a URL means the same in a header, in text and inside an
// HTML attribute, so that it needs no escaping anywhere.
func plainLink(link string) bool {
	web := strings.HasPrefix(link, "https://") || strings.HasPrefix(link, "http://")
	return web && len(link) <= maxLink && strings.TrimLeft(link, linkSigns) == ""
}
