package fanfare

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
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

const (
	linkPurpose = "fanfare unsubscribe 1" // keeps one purpose's signature from serving another
	linkMAC     = 16                      // bytes; half of SHA-256, still beyond guessing
)

// Token signs the link. It does not expire: a person may unsubscribe by a mail
// of any age.
func (u UnsubscribeLink) Token(secret Secret) string {
	payload := binary.AppendUvarint(nil, uint64(u.Topic))
	payload = binary.AppendUvarint(payload, uint64(u.Number))
	return base64.RawURLEncoding.EncodeToString(append(payload, linkSignature(secret, payload)...))
}

// ParseUnsubscribeToken checks a token's signature and reads it. Anything that was not
// signed with this secret is ErrLinkTampered.
func ParseUnsubscribeToken(secret Secret, token string) (UnsubscribeLink, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(raw) <= linkMAC {
		return UnsubscribeLink{}, fmt.Errorf("parse unsubscribe token: %w", ErrLinkTampered)
	}
	payload, mac := raw[:len(raw)-linkMAC], raw[len(raw)-linkMAC:]
	if !hmac.Equal(mac, linkSignature(secret, payload)) {
		return UnsubscribeLink{}, fmt.Errorf("parse unsubscribe token: %w", ErrLinkTampered)
	}
	topic, n := binary.Uvarint(payload)
	number, m := binary.Uvarint(payload[max(n, 0):])
	if n <= 0 || m <= 0 || n+m != len(payload) {
		return UnsubscribeLink{}, fmt.Errorf("parse unsubscribe token: %w", ErrLinkTampered)
	}
	return UnsubscribeLink{Topic: TopicID(topic), Number: SubscriberNumber(number)}, nil
}

func linkSignature(secret Secret, payload []byte) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(linkPurpose))
	mac.Write(payload)
	return mac.Sum(nil)[:linkMAC]
}
