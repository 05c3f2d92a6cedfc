package twilio

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twilio/twilio-go/client"

	"github.com/fanfare-dev/fanfare"
)

// signatureHeader is where Twilio puts the signature of a post.
const signatureHeader = "X-Twilio-Signature"

// Webhook reads what Twilio posts: what becomes of messages (status callbacks), and
// what people answer. It is safe for concurrent use.
type Webhook struct {
	name string
	// signed checks the signature of a post to a path and query. The token lives in
	// the closure, where not even %+v of a Webhook finds it.
	signed func(uri string, body []byte, signature string) bool
}

// NewWebhook makes the webhook of the provider called name. Twilio signs with the
// account's token, and signs the address that it called as well: publicURL is the
// one that New was given. The error matches fanfare.ErrInvalid and names every bad
// setting.
func NewWebhook(name string, token fanfare.Secret, publicURL string) (*Webhook, error) {
	var wrong []fanfare.Violation
	if why := checkToken(token); why != "" {
		wrong = append(wrong, fanfare.Violation{Field: fanfare.SettingName(name, "AUTH_TOKEN"), Detail: why})
	}
	public, why := fanfare.ParseBaseURL(publicURL)
	if why != "" {
		wrong = append(wrong, fanfare.Violation{Field: publicSetting, Detail: why})
	}
	if len(wrong) > 0 {
		return nil, fmt.Errorf("configure the webhook of %s: %w", name, &fanfare.InvalidError{Violations: wrong})
	}
	validator := client.NewRequestValidator(string(token))
	return &Webhook{name: name, signed: func(uri string, body []byte, signature string) bool {
		return validator.ValidateBody(public.String()+uri, body, signature)
	}}, nil
}

// Events gives the events of a post: mostly one, or none where it means nothing here. uri is
// the path and the query as they were called, because the signature is made over them
// too. It fails with fanfare.ErrBadSignature, and with fanfare.ErrInvalid when the
// body is no form. No error quotes the body.
//
// Twilio's posts carry no time, so that an event's is now, and one that was heard by
// others is valid forever: what is repeated is harmless, because events are stored
// once by what they say.
func (w *Webhook) Events(uri string, header http.Header, body []byte, now time.Time) ([]fanfare.ProviderEvent, error) {
	if !w.signed(uri, body, header.Get(signatureHeader)) {
		return nil, fmt.Errorf("verify a post of %s: %w", w.name, fanfare.ErrBadSignature)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("read a post of %s: the body is not a form: %w", w.name, fanfare.ErrInvalid)
	}
	var events []fanfare.ProviderEvent
	if form.Has("MessageStatus") {
		events = status(uri, form)
	} else if event, means := inbound(form); means {
		events = append(events, event)
	}
	for i := range events {
		events[i].Provider, events[i].At = w.name, now.UTC()
	}
	return events, nil
}

// ours reads which delivery and which call of ours an address names; zero values where
// it names none.
func ours(uri string) (delivery fanfare.DeliveryID, call fanfare.CallID) {
	_, raw, _ := strings.Cut(uri, "?")
	query, err := url.ParseQuery(raw)
	if err != nil {
		return delivery, ""
	}
	delivery, _ = fanfare.ParseDeliveryID(query.Get(argDelivery))
	if id := query.Get(argCall); fanfare.ValidCallID(id) {
		call = fanfare.CallID(id)
	}
	return delivery, call
}

// statuses are the states of an outbound message that mean something here. Any of
// them shows that Twilio took it.
var statuses = map[string]fanfare.EventType{
	"accepted":    fanfare.EventProcessed,
	"queued":      fanfare.EventProcessed,
	"sending":     fanfare.EventProcessed,
	"sent":        fanfare.EventProcessed,
	"delivered":   fanfare.EventDelivered,
	"read":        fanfare.EventDelivered,
	"undelivered": fanfare.EventBounced,
	"failed":      fanfare.EventBounced,
}

// errorCode is the form of Twilio's codes. Nothing personal is that short.
var errorCode = regexp.MustCompile(`^\d{5}$`)

// status reads a status callback. That a message was not delivered is held against its
// number only where the code says something of the number; who had stopped has left, and
// may start again.
func status(uri string, form url.Values) []fanfare.ProviderEvent {
	sid, state := form.Get("MessageSid"), form.Get("MessageStatus")
	kind, known := statuses[state]
	if !known || !messageSID.MatchString(sid) {
		return nil
	}
	code, to := form.Get("ErrorCode"), phone(form.Get("To"))
	event := fanfare.ProviderEvent{Type: kind, ProviderID: sid, Address: to, Digest: digest(sid, state, code)}
	event.Delivery, event.Call = ours(uri)
	if kind != fanfare.EventBounced {
		return []fanfare.ProviderEvent{event}
	}
	if errorCode.MatchString(code) {
		event.Code = code
	}
	reason := refusalOf(event.Code).suppress
	event.Permanent = reason == fanfare.SuppressedInvalid
	if !event.Permanent && !slices.Contains(outOfReach, event.Code) {
		event.Address = ""
	}
	if reason != fanfare.SuppressedStopped || to == "" {
		return []fanfare.ProviderEvent{event}
	}
	stop := fanfare.ProviderEvent{Type: fanfare.EventUnsubscribed, Address: to, Channel: fanfare.SMS}
	stop.Digest = digest(sid, string(stop.Type), code)
	return []fanfare.ProviderEvent{event, stop}
}

// What a message of one word means that a person sends: Twilio's own words. It acts
// on them itself, and refuses to send (21610) until the person starts again.
var (
	stops  = []string{"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"}
	starts = []string{"START", "YES", "UNSTOP"}
)

// inbound reads what a person sent. Where the account has words of its own (Advanced
// Opt-Out), Twilio says what they mean, and the text is not looked at.
func inbound(form url.Values) (event fanfare.ProviderEvent, ok bool) {
	sid, from := form.Get("MessageSid"), phone(form.Get("From"))
	if !messageSID.MatchString(sid) || from == "" {
		return event, false
	}
	word := cmp.Or(form.Get("OptOutType"), strings.ToUpper(strings.TrimSpace(form.Get("Body"))))
	event = fanfare.ProviderEvent{Address: from, Channel: fanfare.SMS}
	switch {
	case slices.Contains(stops, word):
		event.Type = fanfare.EventUnsubscribed
	case slices.Contains(starts, word):
		event.Type = fanfare.EventResubscribed
	default:
		return event, false
	}
	event.Digest = digest(sid, string(event.Type), "")
	return event, true
}

// phone is a number as it is; "" for what is none, such as the address of another
// channel.
func phone(address string) string {
	if !number.MatchString(address) {
		return ""
	}
	return address
}

// digest tells one message's events apart. It is the same when Twilio repeats one:
// what else it adds to a post may differ.
func digest(sid, what, code string) [sha256.Size]byte {
	return sha256.Sum256([]byte(sid + "\x00" + what + "\x00" + code))
}
