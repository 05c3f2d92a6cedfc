package sendgrid

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sendgrid/sendgrid-go/helpers/mail"

	"github.com/fanfare-dev/fanfare"
)

// The custom arguments that come back with events and from the logs. They and
// the category are kept by SendGrid and visible to its staff: ids only.
const (
	argCall     = "call"
	argDelivery = "delivery"
)

// maxLink keeps "List-Unsubscribe: <link>" within a header's 998 bytes (RFC 5322,
// 2.1.1), and both links far below SendGrid's 10,000 bytes of substitutions.
const maxLink = 900

var errLink = errors.New("a link is not a plain http(s) URL: check FANFARE_PUBLIC_URL")

// encode writes the request of a call.
//
// What all recipients share is encoded by the SDK's structs; the recipients are
// appended by hand. Measured for 1,000 recipients (BenchmarkEncode), the structs
// take 2.5 us and 26 allocations a recipient, most of it in maps that are filled,
// sorted and thrown away, and this 0.3 us and 2. At 60,000 recipients/s that is
// a seventh of a core or a fiftieth. A test holds the two to the same result.
func (s *Sender) encode(call fanfare.Call) ([]byte, error) {
	shared, err := marshal(s.shared(call))
	if err != nil {
		return nil, fmt.Errorf("encode call %s: %w", call.ID, err)
	}
	id, err := marshal(call.ID)
	if err != nil {
		return nil, fmt.Errorf("encode call %s: %w", call.ID, err)
	}
	body := make([]byte, 0, len(shared)+len(call.Recipients)*640)
	body = append(body, `{"personalizations":[`...)
	prefers := strings.Contains(call.Message.HTML, fanfare.PreferencesTag) || strings.Contains(call.Message.Text, fanfare.PreferencesTag)
	for i, to := range call.Recipients {
		if !prefers {
			to.Preferences = "" // no need to carry what stands nowhere
		}
		if !plainLink(to.Unsubscribe) || prefers && !plainLink(to.Preferences) {
			return nil, fmt.Errorf("encode call %s: recipient %d: %w", call.ID, to.Number, errLink)
		}
		if i > 0 {
			body = append(body, ',')
		}
		delivery := fanfare.DeliveryID{Publication: call.Publication, Channel: call.Channel, Number: to.Number}
		body = appendPersonalization(body, to, id, delivery.String())
	}
	body = append(body, "],"...)
	return append(body, shared[1:]...), nil
}

// shared is the request without its recipients.
func (s *Sender) shared(call fanfare.Call) *mail.SGMailV3 {
	off := false
	m := &mail.SGMailV3{
		From:       s.from,
		Subject:    call.Message.Subject,
		Categories: []string{string(call.ID)}, // what LookUp searches by
		CustomArgs: map[string]string{argCall: string(call.ID)},
		// Left on, it would add a second List-Unsubscribe of its own, and its tag
		// "[unsubscribe]" would be live in what people write. Click and open tracking
		// are as the account has them.
		TrackingSettings: &mail.TrackingSettings{SubscriptionTracking: &mail.SubscriptionTrackingSetting{Enable: &off}},
	}
	// SendGrid wants text before HTML, and no empty part.
	if call.Message.Text != "" {
		m.AddContent(mail.NewContent("text/plain", call.Message.Text))
	}
	if call.Message.HTML != "" {
		m.AddContent(mail.NewContent("text/html", call.Message.HTML))
	}
	return m
}

// appendPersonalization writes one recipient; id is the call's, as JSON. Headers
// and arguments are whole in every personalization although some are the same
// for all: whether SendGrid merges those of the request with them key by key or
// replaces them is not written down, and a lost List-Unsubscribe-Post would go
// unnoticed.
func appendPersonalization(b []byte, to fanfare.Recipient, id []byte, delivery string) []byte {
	b = append(b, `{"to":[{"email":`...)
	b = appendString(b, to.Address)
	b = append(b, `}],"headers":{"List-Unsubscribe":"<`...)
	b = append(b, to.Unsubscribe...)
	b = append(b, `>","List-Unsubscribe-Post":"List-Unsubscribe=One-Click"},"substitutions":{"`+fanfare.UnsubscribeTag+`":"`...)
	b = append(b, to.Unsubscribe...)
	if to.Preferences != "" {
		b = append(b, `","`+fanfare.PreferencesTag+`":"`...)
		b = append(b, to.Preferences...)
	}
	b = append(b, `"},"custom_args":{"`+argCall+`":`...)
	b = append(b, id...)
	b = append(b, `,"`+argDelivery+`":`...)
	b = appendString(b, delivery)
	return append(b, "}}"...)
}

// plainLink says whether a URL means the same in a header, in text, in JSON and
// inside an HTML attribute, so that it needs no escaping anywhere: SendGrid puts
// one and the same text in all of them.
func plainLink(link string) bool {
	if len(link) > maxLink || !strings.HasPrefix(link, "https://") && !strings.HasPrefix(link, "http://") {
		return false
	}
	for i := range len(link) {
		if !alphanumeric(link[i]) && strings.IndexByte("-._~:/?=%+[]", link[i]) < 0 {
			return false
		}
	}
	return true
}

func alphanumeric(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}

// appendString writes s as JSON.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			quoted, _ := marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// marshal is json.Marshal without its escapes for HTML, which make mail up to
// six times as long.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
