// Package sendgrid sends email through SendGrid's v3 API, and is the only
// importer of its SDK.
//
// It owns the shape of a request, the meaning of an answer and that of the events
// which come later. It never retries, never waits, never decides who is sent to and
// keeps nothing between calls; what it is told to send, it sends once.
//
// It promises:
//
//  1. A call is one request, with one personalization per recipient: nobody sees
//     anybody else.
//  2. Every end of a call is one fanfare.OutcomeKind. "Accepted" needs a 2xx that
//     was read whole. "Ambiguous" is everything that may have been accepted, and
//     nothing else.
//  3. What it says about a call holds no address and no content, so that it can be
//     logged and kept.
//  4. Nothing of a webhook's post is believed before its signature and its age are
//     right, and of an event nothing personal comes out but the address.
//
// Of the SDK it uses the request's frame, the mail structs, the REST client and the
// check of a webhook's signature.
// sendgrid.Client is not used: it keeps the body of the call under way in a field
// that concurrent calls overwrite, and its client has no time-out. Nor are the
// SDK's retries, which sleep without looking at the context.
package sendgrid

import (
	"cmp"
	"fmt"
	"net/http"
	netmail "net/mail"
	"strings"
	"unicode"

	"github.com/sendgrid/rest"
	sdk "github.com/sendgrid/sendgrid-go"
	"github.com/sendgrid/sendgrid-go/helpers/mail"

	"github.com/fanfare-dev/fanfare"
)

const (
	// maxRecipients is SendGrid's limit of personalizations in one request.
	maxRecipients = 1000
	// host is SendGrid's global API.
	host = "https://api.sendgrid.com"
)

// Config is what SendGrid needs to know of us.
type Config struct {
	// Name is the provider's name in records and in front of its codes; empty is
	// "sendgrid". It is also how messages call its settings: those of "sendgrid-2"
	// begin with SENDGRID_2_.
	Name string
	// APIKey needs the Mail Send permission, and Email Logs for look-ups.
	APIKey fanfare.Secret
	// BaseURL is another host to talk to, "https://api.eu.sendgrid.com" or a
	// stand-in; empty is SendGrid's global API.
	BaseURL string
	// From is the verified sender: an address, or "Name <address>".
	From string
}

// Sender sends email through SendGrid. It is safe for concurrent use.
type Sender struct {
	name   string
	from   *mail.Email
	client *rest.Client
	// request makes an empty request to a path. The key lives in the closure, where
	// not even %+v of a Sender finds it.
	request func(method rest.Method, path string) rest.Request
}

// New checks the settings and makes a sender that talks through hc. To keep its
// promise of no late call, hc's transport has to be a fanfare.GatedTransport.
// Redirects are answers, never followed: a second request would be a second
// call. The error matches fanfare.ErrInvalid and names every bad setting.
func New(c Config, hc *http.Client) (*Sender, error) {
	name := cmp.Or(c.Name, "sendgrid")
	var wrong []fanfare.Violation
	bad := func(which, detail string) {
		wrong = append(wrong, fanfare.Violation{Field: fanfare.SettingName(name, which), Detail: detail})
	}
	if strings.TrimSpace(string(c.APIKey)) == "" {
		bad("API_KEY", "must not be empty")
	} else if strings.ContainsFunc(string(c.APIKey), unicode.IsSpace) {
		bad("API_KEY", "must not hold white space")
	}
	base, why := fanfare.ParseBaseURL(cmp.Or(c.BaseURL, host))
	if why != "" {
		bad("BASE_URL", why)
	}
	from, why := sender(c.From)
	if why != "" {
		bad("FROM", why)
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("configure %s: %w", name, &fanfare.InvalidError{Violations: wrong})
	}
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Sender{
		name:   name,
		from:   from,
		client: &rest.Client{HTTPClient: &own},
		request: func(method rest.Method, path string) rest.Request {
			r := sdk.GetRequest(string(c.APIKey), path, base.String())
			r.Method = method
			return r
		},
	}, nil
}

// sender reads "a@b" or "Name <a@b>". SendGrid takes no Unicode in the address.
func sender(raw string) (from *mail.Email, why string) {
	parsed, err := netmail.ParseAddress(raw)
	switch {
	case err != nil:
		return nil, `must be an address or "Name <address>"`
	case strings.ContainsFunc(parsed.Address, func(r rune) bool { return r > unicode.MaxASCII }):
		return nil, "must hold an address in ASCII"
	case strings.ContainsFunc(parsed.Name, unicode.IsControl):
		return nil, "must not hold control characters"
	}
	return mail.NewEmail(parsed.Name, parsed.Address), ""
}

// Name is the provider's name in records and in front of its codes.
func (s *Sender) Name() string { return s.name }

// MaxRecipients is how many recipients one call may have.
func (s *Sender) MaxRecipients() int { return maxRecipients }
