package fcm

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strconv"
	"time"

	"firebase.google.com/go/v4/messaging"

	"github.com/fanfare-dev/fanfare"
)

const (
	// maxPayload is what FCM and Apple carry to a device, in bytes.
	maxPayload = 4096
	// maxTTL is how long FCM keeps a message for a device that is away: four weeks.
	maxTTL = 28 * 24 * time.Hour
)

// compose makes the message of a call, without a token. expires is when it is not to be
// delivered any more, and lies after now.
//
// Everything is for a person to see, hence the high priority: Android delivers the
// normal one to a sleeping phone when it next wakes, which may be hours later.
//
// The delivery's id is what a second message of this delivery is known by, everywhere:
// it is at most 61 bytes, and Apple takes 64. A device that is away is kept the
// messages of at most four collapse keys; without a key it would be kept one, since all
// notifications of an app then share the app's name.
func compose(call fanfare.Call, now, expires time.Time) *messaging.Message {
	to := call.Recipients[0]
	delivery := fanfare.DeliveryID{Publication: call.Publication, Channel: call.Channel, Number: to.Number}.String()
	ttl := min(expires.Sub(now), maxTTL).Truncate(time.Second)
	m := &messaging.Message{
		Notification: &messaging.Notification{Title: call.Message.Subject, Body: call.Message.Text},
		Data:         map[string]string{"call": string(call.ID), "delivery": delivery},
		Android: &messaging.AndroidConfig{
			CollapseKey: delivery, Priority: "high", TTL: &ttl,
			Notification: &messaging.AndroidNotification{Tag: delivery},
		},
		APNS: &messaging.APNSConfig{
			Headers: map[string]string{
				"apns-collapse-id": delivery,
				"apns-expiration":  strconv.FormatInt(expires.Unix(), 10),
				"apns-priority":    "10", // at once
			},
			Payload: &messaging.APNSPayload{Aps: &messaging.Aps{Alert: &messaging.ApsAlert{Title: call.Message.Subject, Body: call.Message.Text}}},
		},
		Webpush: &messaging.WebpushConfig{
			Headers:      map[string]string{"TTL": strconv.FormatInt(int64(ttl/time.Second), 10)},
			Notification: &messaging.WebpushNotification{Tag: delivery},
		},
	}
	if call.Message.URL != "" {
		m.Data["url"] = call.Message.URL
	}
	if secure(call.Message.URL) {
		m.Webpush.FCMOptions = &messaging.WebpushFCMOptions{Link: call.Message.URL}
	}
	return m
}

// secure says whether FCM takes a link for the web: it wants HTTPS.
func secure(link string) bool {
	u, err := url.ParseRequestURI(link)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

// payloadSize is how many bytes of a message go to a device. What FCM adds to them for
// Apple, about 150 bytes, is not written down and not counted.
func payloadSize(m *messaging.Message) int {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // the devices get the characters, not their escapes
	// Texts always marshal.
	_ = enc.Encode(struct {
		Notification *messaging.Notification `json:"notification"`
		Data         map[string]string       `json:"data"`
	}{m.Notification, m.Data})
	return buf.Len() - len("\n")
}
