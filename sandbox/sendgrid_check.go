package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// SendGrid's limits on one request (its v3 mail send reference and limitations).
const (
	maxPersonalizations = 1000
	maxRecipients       = 1000
	maxArgBytes         = 10_000
	maxCategories       = 10
	maxCategoryLength   = 255
	maxAhead            = 72 * time.Hour
	// maxErrors bounds an answer; nobody reads the hundred and first.
	maxErrors = 100
)

// rejectedLocal begins addresses that are refused whatever the settings, so
// that a call can always be made to fail for one recipient.
const rejectedLocal = "bad-address"

// checker collects what is wrong with a request.
type checker struct {
	errs []sgError
}

func (c *checker) bad(field, anchor, message string, args ...any) {
	if len(c.errs) == maxErrors {
		return
	}
	e := sgError{Message: fmt.Sprintf(message, args...), Field: &field}
	if anchor != "" {
		help := errorsPage + "#" + anchor
		e.Help = &help
	}
	c.errs = append(c.errs, e)
}

// checkMail says everything SendGrid would refuse m for. reject lists addresses
// to refuse on demand (see Faults.Reject).
func checkMail(m *sgMail, reject []string, now time.Time) []sgError {
	c := &checker{}
	c.sender(m)
	c.recipients(m, reject)
	shared := mapBytes(m.CustomArgs)
	for i := range m.Personalizations {
		c.personalization(m, i, shared, now)
	}
	c.subject(m)
	c.content(m)
	c.categories(m.Categories)
	c.headers(m.Headers, func() string { return "headers" })
	if shared > maxArgBytes {
		c.bad("custom_args", "message.custom_args", "The custom_args may not exceed %d bytes; these are %d.", maxArgBytes, shared)
	}
	c.sendAt("send_at", m.SendAt, now)
	return c.errs
}

func (c *checker) sender(m *sgMail) {
	switch {
	case m.From == nil || m.From.Email == "":
		c.bad("from.email", "message.from", "The from object must be provided for every email send. It is an object that requires the email parameter, but may also contain a name parameter.")
	case !validAddress(m.From.Email):
		c.bad("from.email", "message.from", "The from email does not contain a valid address.")
	}
	if m.ReplyTo != nil && !validAddress(m.ReplyTo.Email) {
		c.bad("reply_to.email", "message.reply_to", "The reply_to email does not contain a valid address.")
	}
}

// recipients checks the personalizations as a whole, and every address.
func (c *checker) recipients(m *sgMail, reject []string) {
	switch n, total := len(m.Personalizations), m.recipients(); {
	case n == 0:
		c.bad("personalizations", "-Personalizations-Errors", "The personalizations field is required and must have at least one personalization.")
		return
	case n > maxPersonalizations:
		c.bad("personalizations", "message.personalizations", "The personalization block is limited to %d personalizations per API request. You have provided %d personalizations. Please consider splitting this into multiple requests and resending your request.", maxPersonalizations, n)
		return
	case total > maxRecipients:
		c.bad("personalizations", "message.personalizations", "There is a limit of %d total recipients (to + cc + bcc) per request.", maxRecipients)
		return
	}
	seen := make(map[string]struct{}, len(m.Personalizations))
	for i := range m.Personalizations {
		p := &m.Personalizations[i]
		if len(p.To) == 0 {
			c.bad(fmt.Sprintf("personalizations.%d.to", i), "message.personalizations.to", "The to array is required for all personalization objects, and must have at least one email object with a valid email address.")
		}
		c.addresses(i, "to", p.To, seen, reject)
		c.addresses(i, "cc", p.CC, seen, reject)
		c.addresses(i, "bcc", p.BCC, seen, reject)
	}
}

func (c *checker) addresses(i int, list string, all []sgAddress, seen map[string]struct{}, reject []string) {
	for j := range all {
		field := func(name string) string { return fmt.Sprintf("personalizations.%d.%s.%d.%s", i, list, j, name) }
		anchor := "message.personalizations." + list
		address := all[j].Email
		key := strings.ToLower(address)
		switch {
		case address == "":
			c.bad(field("email"), anchor, "The %s email parameter is required.", list)
		case !validAddress(address) || matchesReject(key, reject):
			c.bad(field("email"), anchor, "Does not contain a valid address.")
		}
		if strings.ContainsAny(all[j].Name, ";,") {
			c.bad(field("name"), anchor, "The %s name may not contain a semicolon or a comma.", list)
		}
		if _, twice := seen[key]; twice && key != "" {
			// SendGrid repeats the address here: callers must not log this.
			c.bad(fmt.Sprintf("personalizations.%d", i), "message.personalizations", "Each unique email address in the personalizations array should only be included once. You have included [%s] more than once.", address)
		}
		seen[key] = struct{}{}
	}
}

// personalization checks one; shared is the size of the custom arguments of all.
func (c *checker) personalization(m *sgMail, i, shared int, now time.Time) {
	p := &m.Personalizations[i]
	field := func(name string) string { return fmt.Sprintf("personalizations.%d.%s", i, name) }
	if len(p.Substitutions) > 0 {
		if strings.HasPrefix(m.TemplateID, "d-") {
			c.bad(field("substitutions"), "message.personalizations.substitutions", "Substitutions may not be used with dynamic templating")
		}
		if n := mapBytes(p.Substitutions); n > maxArgBytes {
			c.bad(field("substitutions"), "message.personalizations.substitutions", "The substitutions may not exceed %d bytes per personalization; these are %d.", maxArgBytes, n)
		}
	}
	c.headers(p.Headers, func() string { return field("headers") })
	// What travels with the mail is both together.
	if n := mapBytes(p.CustomArgs) + shared; n > maxArgBytes && shared <= maxArgBytes {
		c.bad(field("custom_args"), "message.custom_args", "The custom_args may not exceed %d bytes; these are %d with those of the message.", maxArgBytes, n)
	}
	if p.SendAt != nil {
		c.sendAt(field("send_at"), p.SendAt, now)
	}
}

func (c *checker) subject(m *sgMail) {
	without := func(p sgPersonalization) bool { return p.Subject == "" }
	if m.Subject == "" && m.TemplateID == "" && slices.ContainsFunc(m.Personalizations, without) {
		c.bad("subject", "message.subject", "The subject is required. You can get around this requirement if you use a template with a subject defined or if every personalization has a subject defined.")
	}
}

func (c *checker) content(m *sgMail) {
	if len(m.Content) == 0 && m.TemplateID == "" {
		c.bad("content", "message.content", "Unless a valid template_id is provided, the content parameter is required. There must be at least one defined content block. We typically suggest both text/plain and text/html blocks are included, but only one block is required.")
	}
	last := 0
	for i, part := range m.Content {
		field := func(name string) string { return fmt.Sprintf("content.%d.%s", i, name) }
		if part.Type == "" || strings.ContainsAny(part.Type, ";,\r\n") {
			c.bad(field("type"), "message.content.type", "The content type must be a string at least one character in length, without ';', ',' or CRLF.")
		}
		if part.Value == "" {
			c.bad(field("value"), "message.content.value", "The content value must be a string at least one character in length.")
		}
		rank := contentRank(part.Type)
		if rank < last {
			c.bad("content", "message.content", "Following RFC 1341, section 7.2, if either text/html or text/plain are to be sent in your email: text/plain needs to be first, followed by text/html, followed by any other content.")
		}
		last = rank
	}
}

func contentRank(kind string) int {
	switch kind {
	case "text/plain":
		return 0
	case "text/html":
		return 1
	default:
		return 2
	}
}

func (c *checker) categories(all []string) {
	if len(all) > maxCategories {
		c.bad("categories", "message.categories", "You cannot have more than %d categories per request.", maxCategories)
	}
	seen := map[string]bool{}
	for i, category := range all {
		field := fmt.Sprintf("categories.%d", i)
		if category == "" || len([]rune(category)) > maxCategoryLength {
			c.bad(field, "message.categories", "Each category must be between 1 and %d characters.", maxCategoryLength)
		}
		if seen[category] {
			c.bad(field, "message.categories", "The categories must be unique.")
		}
		seen[category] = true
	}
}

func (c *checker) headers(headers map[string]string, field func() string) {
	for name := range headers {
		switch strings.ToLower(name) {
		case "x-sg-id", "x-sg-eid", "received", "dkim-signature", "content-type", "content-transfer-encoding",
			"to", "from", "subject", "reply-to", "cc", "bcc":
			c.bad(field()+"."+name, "message.headers", "The header %q is reserved and may not be set.", name)
		}
	}
}

func (c *checker) sendAt(field string, at *int64, now time.Time) {
	if at != nil && *at > now.Add(maxAhead).Unix() {
		c.bad(field, "message.send_at", "The send_at parameter must be a unix timestamp in seconds, not more than 72 hours ahead.")
	}
}

// mapBytes is the size of m as JSON. Whether SendGrid counts the punctuation is
// not written down; counting it errs on the strict side.
func mapBytes(m map[string]string) int {
	n := 0
	for k, v := range m {
		n += len(k) + len(v) + len(`"":"",`)
	}
	return n
}

// validAddress accepts what SendGrid does, as far as it is known: a dot-atom of
// ASCII, at most 64 bytes, at a host name of two labels or more.
func validAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at > 64 || len(s) > 254 {
		return false
	}
	return validLocal(s[:at]) && validHost(s[at+1:])
}

func validLocal(s string) bool {
	dot := true // as if after one: none may come first
	for i := range len(s) {
		if s[i] == '.' {
			if dot {
				return false
			}
			dot = true
			continue
		}
		if !alphanumeric(s[i]) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~", s[i]) < 0 {
			return false
		}
		dot = false
	}
	return !dot
}

func validHost(s string) bool {
	labels := 0
	for label := range strings.SplitSeq(s, ".") {
		labels++
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !alphanumeric(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return labels >= 2
}

func alphanumeric(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}

// matchesReject says whether address, in lower case, is one of the patterns:
// "@domain" for a whole domain, else the beginning of the part before the @.
func matchesReject(address string, patterns []string) bool {
	if strings.HasPrefix(address, rejectedLocal) {
		return true
	}
	for _, p := range patterns {
		p = strings.ToLower(p)
		if strings.HasPrefix(p, "@") && strings.HasSuffix(address, p) || !strings.HasPrefix(p, "@") && strings.HasPrefix(address, p) {
			return true
		}
	}
	return false
}
