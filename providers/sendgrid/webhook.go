package sendgrid

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sendgrid/sendgrid-go/helpers/eventwebhook"

	"github.com/fanfare-dev/fanfare"
)

const (
	// signatureAge is how far a signature's time may be from ours, before or after:
	// the tolerance that implementations of the Standard Webhooks specification have.
	// SendGrid names none. What is repeated within it is harmless, because events are
	// stored once by what they say.
	signatureAge = 5 * time.Minute
	// lastSecond is the end of the year 9999. What is later is not in seconds, or
	// cannot be stored.
	lastSecond = 253402300799
)

// Webhook reads what SendGrid's Event Webhook posts. It is safe for concurrent use.
type Webhook struct {
	name string
	key  *ecdsa.PublicKey
}

// NewWebhook makes the webhook of the provider called name. publicKey is the
// verification key as SendGrid shows it: base64 of DER. The error matches
// fanfare.ErrInvalid and names the setting.
func NewWebhook(name, publicKey string) (*Webhook, error) {
	key := readKey(publicKey)
	if key == nil {
		return nil, fmt.Errorf("configure the webhook of %s: %w", name, &fanfare.InvalidError{Violations: []fanfare.Violation{{
			Field:  fanfare.SettingName(name, "WEBHOOK_PUBLIC_KEY"),
			Detail: "must be the verification key that SendGrid shows for its signed Event Webhook, base64 in one line that begins with MFkwEwYH",
		}}})
	}
	return &Webhook{name: name, key: key}, nil
}

// readKey reads a key on the curve P-256, and nothing else. It does not use the SDK's
// helper, which panics on a key of another kind.
func readKey(text string) *ecdsa.PublicKey {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if key, ok := parsed.(*ecdsa.PublicKey); err == nil && ok && key.Curve == elliptic.P256() {
		return key
	}
	return nil
}

// Events gives the events of a post, in its order. SendGrid does not sign the address
// that it called, so that nothing depends on it. body is the body as it came,
// with whatever stands at its end: the signature is made over its bytes. It fails
// with fanfare.ErrBadSignature, with fanfare.ErrStaleSignature when a valid
// signature is more than five minutes away from now, and with fanfare.ErrInvalid
// when the body is no JSON array. No error quotes the body.
//
// An entry that means nothing here, of an unknown type or without a time, is left
// out and takes no other with it.
func (w *Webhook) Events(_ string, header http.Header, body []byte, now time.Time) ([]fanfare.ProviderEvent, error) {
	if err := w.verify(header, body, now); err != nil {
		return nil, fmt.Errorf("verify a post of %s: %w", w.name, err)
	}
	return w.read(body)
}

// verify looks at the time last: only a signed one says anything.
func (w *Webhook) verify(header http.Header, body []byte, now time.Time) error {
	stamp := header.Get(eventwebhook.TimestampHTTPHeader)
	valid, err := eventwebhook.VerifySignature(w.key, body, header.Get(eventwebhook.VerificationHTTPHeader), stamp)
	if err != nil || !valid {
		return fanfare.ErrBadSignature
	}
	seconds, err := strconv.ParseUint(stamp, 10, 40)
	if err != nil {
		return fanfare.ErrBadSignature
	}
	if now.Sub(time.Unix(int64(seconds), 0)).Abs() > signatureAge {
		return fanfare.ErrStaleSignature
	}
	return nil
}

// read reads a body that was verified.
func (w *Webhook) read(body []byte) ([]fanfare.ProviderEvent, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(body, &entries); err != nil || entries == nil {
		return nil, fmt.Errorf("read a post of %s: the body is not a JSON array: %w", w.name, fanfare.ErrInvalid)
	}
	events := make([]fanfare.ProviderEvent, 0, len(entries))
	for _, entry := range entries {
		if event, ok := w.event(entry); ok {
			events = append(events, event)
		}
	}
	return events, nil
}

// eventTypes are the events that mean something here.
var eventTypes = map[string]fanfare.EventType{
	"processed":         fanfare.EventProcessed,
	"deferred":          fanfare.EventDeferred,
	"delivered":         fanfare.EventDelivered,
	"bounce":            fanfare.EventBounced,
	"dropped":           fanfare.EventDropped,
	"open":              fanfare.EventOpened,
	"click":             fanfare.EventClicked,
	"spamreport":        fanfare.EventComplained,
	"unsubscribe":       fanfare.EventUnsubscribed,
	"group_unsubscribe": fanfare.EventUnsubscribed,
	"group_resubscribe": fanfare.EventResubscribed,
}

var (
	// enhancedStatus is a code of RFC 3463. Nothing personal has this form.
	enhancedStatus = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}$`)
	// requestID is the form of an X-Message-Id.
	requestID = regexp.MustCompile(`^[A-Za-z0-9_=-]{1,100}$`)
)

// event reads one entry.
func (w *Webhook) event(entry []byte) (event fanfare.ProviderEvent, ok bool) {
	var fields map[string]any
	read := json.NewDecoder(bytes.NewReader(entry))
	read.UseNumber() // the digest is over the digits that came
	if err := read.Decode(&fields); err != nil {
		return event, false
	}
	text := func(name string) string {
		s, _ := fields[name].(string)
		return s
	}
	kind, known := eventTypes[text("event")]
	stamp, _ := fields["timestamp"].(json.Number)
	seconds, err := stamp.Int64()
	if !known || err != nil || seconds < 1 || seconds > lastSecond {
		return event, false
	}
	event = fanfare.ProviderEvent{Provider: w.name, Type: kind, At: time.Unix(seconds, 0).UTC(), Address: text("email")}
	// The zero value where the event does not name one of ours.
	event.Delivery, _ = fanfare.ParseDeliveryID(text(argDelivery))
	if call := text(argCall); fanfare.ValidCallID(call) {
		event.Call = fanfare.CallID(call)
	}
	if id, _, _ := strings.Cut(strings.TrimSpace(text("sg_message_id")), "."); requestID.MatchString(id) {
		event.ProviderID = id
	}
	switch kind {
	case fanfare.EventUnsubscribed, fanfare.EventResubscribed:
		event.Channel = fanfare.Email
	case fanfare.EventBounced:
		event.Permanent = text("type") != "blocked"
		if !event.Permanent && slices.Contains(aboutUs, text("bounce_classification")) {
			event.Address = ""
		}
		if status := text("status"); enhancedStatus.MatchString(status) {
			event.Code = status
		}
	case fanfare.EventDropped:
		event.Code = dropCode(text("reason"))
	}
	event.Digest, err = digest(fields)
	return event, err == nil
}

// aboutUs are those of SendGrid's bounce classifications that say nothing of the address: what its receiver
// thinks of the sender or the message.
var aboutUs = []string{"Reputation", "Content", "Frequency or Volume Too High"}

// dropReasons are how the reasons of SendGrid's dropped events begin, in lower
// case, and their codes. The first that fits counts.
var dropReasons = []struct{ begins, code string }{
	{"bounced address", "bounced_address"},
	{"unsubscribed address", "unsubscribed_address"},
	{"spam reporting address", "spam_reporting_address"},
	{"spam content", "spam_content"},
	{"recipient list over package quota", "recipient_list_over_quota"},
	{"invalid smtpapi", "smtpapi"},
	{"invalid", "invalid_email"},
}

// dropCode makes a reason a code; "" where it is none of the known ones, because an
// unknown sentence can hold an address.
func dropCode(reason string) string {
	reason = strings.ToLower(strings.TrimSpace(reason))
	for _, known := range dropReasons {
		if strings.HasPrefix(reason, known.begins) {
			return known.code
		}
	}
	return ""
}

// digest is over all that an event says, in one order of keys, but for the id that
// SendGrid gave it: it then is the same when the event comes again under another.
func digest(fields map[string]any) ([sha256.Size]byte, error) {
	delete(fields, "sg_event_id")
	sorted, err := json.Marshal(fields)
	return sha256.Sum256(sorted), err
}
