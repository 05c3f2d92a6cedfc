// Package twilio sends SMS through Twilio's Messages API, and is the only importer
// of its SDK.
//
// It owns the shape of a request, the meaning of an answer, and that of the status
// callbacks and inbound messages which come later. It never retries, never waits,
// never decides who is sent to and keeps nothing between calls; what it is told to
// send, it sends once.
//
// It promises:
//
//  1. A call is one request for one recipient. It names its delivery and its call in
//     the address that Twilio reports to, because Twilio keeps no id of ours.
//  2. Every end of a call is one fanfare.OutcomeKind. "Accepted" needs a 2xx that
//     was read whole and names the message. "Ambiguous" is everything that may have
//     been accepted, and nothing else.
//  3. What it says about a call holds no number and no text, so that it can be
//     logged and kept: of Twilio's answers it repeats the code and never the words.
//  4. Nothing of a webhook's post is believed before its signature is right, and of
//     an event nothing personal comes out but the number.
//
// Of the SDK it uses the Messages resource, the client's frame and the check of a
// signature. The SDK knows no context, no other host and no headers of an answer,
// and leaves bodies open: a transport made for each call (wire.go) makes up for all
// of it.
package twilio

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/twilio/twilio-go/client"
	api "github.com/twilio/twilio-go/rest/api/v2010"

	"github.com/fanfare-dev/fanfare"
)

const (
	// maxRecipients is one: Twilio takes one number in a request.
	maxRecipients = 1
	// host is Twilio's API in its home region.
	host = "https://api.twilio.com"
	// publicSetting is a setting that is not this provider's own.
	publicSetting = "FANFARE_PUBLIC_URL"
)

// Config is what Twilio needs to know of us.
type Config struct {
	// Name is the provider's name in records, in front of its codes and in the path
	// of its webhook; empty is "twilio". It is also how messages call its settings:
	// those of "twilio-2" begin with TWILIO_2_.
	Name string
	// AccountSID begins with AC. AuthToken belongs to it, and is what Twilio signs
	// its posts with; an API key would not do.
	AccountSID string
	AuthToken  fanfare.Secret
	// From is a number of the account (+34612345678, or a short code), or a Messaging
	// Service (MG...) that chooses one.
	From string
	// BaseURL is another host to talk to, "https://api.dublin.ie1.twilio.com" or a
	// stand-in; empty is api.twilio.com.
	BaseURL string
	// PublicURL is where Twilio reaches us: it reports to <PublicURL>/webhooks/<Name>.
	PublicURL string
}

// Sender sends SMS through Twilio. It is safe for concurrent use.
type Sender struct {
	name     string
	from     string
	service  bool   // from is a Messaging Service
	callback string // where Twilio reports to, without a query
	base     http.RoundTripper
	to       *url.URL
	// api makes the SDK's Messages resource over a client. The token lives in the
	// closure, where not even %+v of a Sender finds it.
	api func(hc *http.Client) *api.ApiService
}

// New checks the settings and makes a sender that talks through hc's transport. To
// keep its promise of no late call, that has to be a fanfare.GatedTransport. Nothing
// else of hc is used: a call ends with its context, and a redirect is an answer,
// never followed, because a second request would be a second call. The error matches
// fanfare.ErrInvalid and names every bad setting.
func New(c Config, hc *http.Client) (*Sender, error) {
	name := cmp.Or(c.Name, "twilio")
	var wrong []fanfare.Violation
	bad := func(which, why string) {
		if why != "" {
			wrong = append(wrong, fanfare.Violation{Field: which, Detail: why})
		}
	}
	to, why := fanfare.ParseBaseURL(cmp.Or(c.BaseURL, host))
	bad(fanfare.SettingName(name, "ACCOUNT_SID"), checkSID(c.AccountSID))
	bad(fanfare.SettingName(name, "AUTH_TOKEN"), checkToken(c.AuthToken))
	bad(fanfare.SettingName(name, "FROM"), checkFrom(c.From))
	bad(fanfare.SettingName(name, "BASE_URL"), why)
	public, why := fanfare.ParseBaseURL(c.PublicURL)
	bad(publicSetting, why)
	if len(wrong) > 0 {
		return nil, fmt.Errorf("configure %s: %w", name, &fanfare.InvalidError{Violations: wrong})
	}
	base := hc.Transport
	if base == nil {
		base = http.DefaultTransport
	}
	return &Sender{
		name:     name,
		from:     c.From,
		service:  strings.HasPrefix(c.From, "MG"),
		callback: public.String() + "/webhooks/" + name,
		base:     base,
		to:       to,
		api: func(hc *http.Client) *api.ApiService {
			sdk := &client.Client{Credentials: client.NewCredentials(c.AccountSID, string(c.AuthToken)), HTTPClient: hc}
			sdk.SetAccountSid(c.AccountSID)
			return api.NewApiServiceWithClient(sdk)
		},
	}, nil
}

var (
	// The SDK refuses anything else by itself, and each call with it.
	alphanumeric = regexp.MustCompile(`^[A-Za-z0-9]+$`)
	// number is E.164, or a short code.
	number = regexp.MustCompile(`^(?:\+[1-9]\d{6,14}|\d{3,8})$`)
)

func checkSID(sid string) (why string) {
	if !strings.HasPrefix(sid, "AC") || !alphanumeric.MatchString(sid) {
		return "must be the SID of the account, which begins with AC"
	}
	return ""
}

func checkToken(token fanfare.Secret) (why string) {
	switch {
	case token == "":
		return "must not be empty"
	case !alphanumeric.MatchString(string(token)):
		return "must be the account's token, which has letters and digits only"
	}
	return ""
}

func checkFrom(from string) (why string) {
	if number.MatchString(from) || strings.HasPrefix(from, "MG") && alphanumeric.MatchString(from) {
		return ""
	}
	return "must be a number such as +34612345678, a short code, or a Messaging Service, which begins with MG"
}

// Name is the provider's name in records and in front of its codes.
func (s *Sender) Name() string { return s.name }

// MaxRecipients is how many recipients one call may have.
func (s *Sender) MaxRecipients() int { return maxRecipients }
