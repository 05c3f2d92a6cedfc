package fanfare

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"
)

// Secret signs links and tokens. It never prints.
type Secret string

// String keeps the secret out of logs.
func (Secret) String() string { return "[redacted]" }

// GoString keeps the secret out of %#v.
func (Secret) GoString() string { return "[redacted]" }

// MarshalText keeps the secret out of JSON and of structured logs.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// UnsubscribeLink says whose subscription to what an unsubscribe link ends.
type UnsubscribeLink struct {
	Topic  TopicID
	Number SubscriberNumber
}

// PreferencesLink says whose preferences page a link opens, and about which topic.
// Messages are passed on, and their links with them: the page therefore shows this
// topic and no other that the person reads. Topic is 0 in a message without one.
type PreferencesLink struct {
	Topic  TopicID
	Number SubscriberNumber
}

// SubscriberToken is the right to act as one subscriber until it expires.
type SubscriberToken struct {
	Number  SubscriberNumber
	Expires time.Time // to the second
}

// purpose keeps a signature that was made for one thing from serving another.
type purpose string

// The purposes. None begins with another.
const (
	toUnsubscribe     purpose = "fanfare unsubscribe 1"
	toPrefer          purpose = "fanfare preferences 1"
	toActAsSubscriber purpose = "fanfare subscriber 1"
)

const tokenMAC = 16 // bytes; half of SHA-256, still beyond guessing

// Token signs the link. It does not expire: a person may unsubscribe by a mail
// of any age.
func (u UnsubscribeLink) Token(secret Secret) string {
	return writeToken(secret, toUnsubscribe, uint64(u.Topic), uint64(u.Number))
}

// ParseUnsubscribeToken checks a token's signature and reads it. Anything that was not
// signed with this secret is ErrLinkTampered.
func ParseUnsubscribeToken(secret Secret, token string) (UnsubscribeLink, error) {
	var topic, number uint64
	if err := readToken(secret, toUnsubscribe, token, &topic, &number); err != nil {
		return UnsubscribeLink{}, fmt.Errorf("parse unsubscribe token: %w", err)
	}
	return UnsubscribeLink{Topic: TopicID(topic), Number: SubscriberNumber(number)}, nil
}

// Token signs the link. It does not expire: the way out that a message shows must
// work as long as the message is kept. What it opens is small for that.
func (p PreferencesLink) Token(secret Secret) string {
	return writeToken(secret, toPrefer, uint64(p.Topic), uint64(p.Number))
}

// ParsePreferencesToken checks a token's signature and reads it. Anything that was not
// signed with this secret is ErrLinkTampered.
func ParsePreferencesToken(secret Secret, token string) (PreferencesLink, error) {
	var topic, number uint64
	if err := readToken(secret, toPrefer, token, &topic, &number); err != nil {
		return PreferencesLink{}, fmt.Errorf("parse preferences token: %w", err)
	}
	return PreferencesLink{Topic: TopicID(topic), Number: SubscriberNumber(number)}, nil
}

// Sign makes the token's text.
func (s SubscriberToken) Sign(secret Secret) string {
	return writeToken(secret, toActAsSubscriber, uint64(s.Number), uint64(s.Expires.Unix()))
}

// ParseSubscriberToken checks a token's signature and reads it. Anything that was not
// signed with this secret is ErrLinkTampered; what was and is over by now, ErrTokenExpired.
func ParseSubscriberToken(secret Secret, token string, now time.Time) (SubscriberToken, error) {
	var number, expires uint64
	if err := readToken(secret, toActAsSubscriber, token, &number, &expires); err != nil {
		return SubscriberToken{}, fmt.Errorf("parse subscriber token: %w", err)
	}
	s := SubscriberToken{Number: SubscriberNumber(number), Expires: time.Unix(int64(expires), 0).UTC()}
	if !now.Before(s.Expires) {
		return SubscriberToken{}, fmt.Errorf("parse subscriber token: %w", ErrTokenExpired)
	}
	return s, nil
}

func writeToken(secret Secret, p purpose, numbers ...uint64) string {
	var payload []byte
	for _, n := range numbers {
		payload = binary.AppendUvarint(payload, n)
	}
	return base64.RawURLEncoding.EncodeToString(append(payload, signature(secret, p, payload)...))
}

// readToken reads what writeToken wrote, for the same purpose and as many numbers.
func readToken(secret Secret, p purpose, token string, numbers ...*uint64) error {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) <= tokenMAC {
		return ErrLinkTampered
	}
	payload, mac := raw[:len(raw)-tokenMAC], raw[len(raw)-tokenMAC:]
	if !hmac.Equal(mac, signature(secret, p, payload)) {
		return ErrLinkTampered
	}
	for _, number := range numbers {
		value, n := binary.Uvarint(payload)
		if n <= 0 {
			return ErrLinkTampered
		}
		*number, payload = value, payload[n:]
	}
	if len(payload) > 0 {
		return ErrLinkTampered
	}
	return nil
}

func signature(secret Secret, p purpose, payload []byte) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(p))
	mac.Write(payload)
	return mac.Sum(nil)[:tokenMAC]
}
