package sandbox

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// SendGrid gathers events to about this many, and waits much longer than
	// flushEvery, which nobody who watches would.
	sendgridEventsPerPost = 500
	// sendgridPostsAtOnce keeps a target busy while it commits.
	sendgridPostsAtOnce = 4
	// sendgridPostTimeout is SendGrid's, as far as it is known.
	sendgridPostTimeout = 10 * time.Second

	signatureHeader = "X-Twilio-Email-Event-Webhook-Signature"
	timestampHeader = "X-Twilio-Email-Event-Webhook-Timestamp"
)

// Webhook is where SendGrid's Event Webhook goes.
type Webhook struct {
	// URL is posted to, such as http://127.0.0.1:8080/webhooks/sendgrid. Empty: no
	// events are made.
	URL string
	// Key signs the posts; it is on the curve P-256. nil makes a new one.
	Key *ecdsa.PrivateKey
	// MaxWaiting is how many events wait at most, those being posted included, of
	// each provider. What does not fit is dropped and counted. 0 is 2,000,000.
	MaxWaiting int
}

// NewWebhookKey makes a key that can sign posts.
func NewWebhookKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(fmt.Sprintf("make a webhook key: %v", err)) // no randomness: crypto/rand itself would have stopped us
	}
	return key
}

// WebhookPublicKey writes the public half as SendGrid shows it: base64 of DER, which
// is what a verifier is given as SENDGRID_WEBHOOK_PUBLIC_KEY.
func WebhookPublicKey(key *ecdsa.PrivateKey) string {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		panic(fmt.Sprintf("write a webhook key: %v", err)) // not a key on a known curve: a mistake of the caller's
	}
	return base64.StdEncoding.EncodeToString(der)
}

// eventWebhook posts as SendGrid's Event Webhook does: many events in one request,
// to one address.
type eventWebhook struct {
	Webhook
	faults *faults
}

func (h *eventWebhook) letter(ctx context.Context, events []event, g guise) (*http.Request, error) {
	at := time.Now()
	body := render(events, g == honest && h.faults.webhooks(sendgrid).NewIDs)
	if g != honest {
		body = render(falsified(events), false)
	}
	if g == stale {
		at = at.Add(-staleBy)
	}
	timestamp := strconv.FormatInt(at.Unix(), 10)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "SendGrid Event API")
	r.Header.Set(timestampHeader, timestamp)
	switch g {
	case honest, stale:
		r.Header.Set(signatureHeader, sign(h.Key, timestamp, body))
	case signedForAnother: // for the true events
		r.Header.Set(signatureHeader, sign(h.Key, timestamp, render(events, false)))
	case signedByAnother:
		r.Header.Set(signatureHeader, sign(NewWebhookKey(), timestamp, body))
	case signedBadly:
		r.Header.Set(signatureHeader, "bm90IGEgc2lnbmF0dXJl")
	}
	return r, nil
}

// again is always yes, where SendGrid gives up after a day.
func (h *eventWebhook) again(*event, error) bool { return true }

// sign gives the signature of a post in the form of its header.
func sign(key *ecdsa.PrivateKey, timestamp string, body []byte) string {
	hash := sha256.New()
	_, _ = io.WriteString(hash, timestamp)
	_, _ = hash.Write(body)
	signature, _ := ecdsa.SignASN1(rand.Reader, key, hash.Sum(nil)) // a key on P-256 always signs
	return base64.StdEncoding.EncodeToString(signature)
}
