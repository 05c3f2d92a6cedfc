package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// FCM's limits on one message (its reference and its guide to messages).
const (
	maxPayloadBytes  = 4096
	maxCollapseBytes = 64
	maxTTLSeconds    = 2_419_200 // four weeks
	maxTokenBytes    = 4096
)

var (
	ttlForm = regexp.MustCompile(`^(\d{1,10})(\.\d{1,9})?s$`)
	// A token is never empty and has no spaces; more of its form is not written down.
	tokenForm = regexp.MustCompile(`^[!-~]+$`)
	// webTopic is RFC 8030's.
	webTopic = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
)

// readPush reads a request, as far as it can be read, and says why it is refused
// where it cannot.
func readPush(body []byte) (r fcmRequest, no *answer) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(&r)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return r, nil
		}
		err = errors.New("more than one value")
	}
	var wrong *json.UnmarshalTypeError
	name, unknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case errors.As(err, &wrong):
		return r, fcmField(wrong.Field, fmt.Sprintf("Invalid value at '%s' (%s)", wrong.Field, jsonKind(wrong.Type)))
	case unknown:
		return r, fcmField("message", "Invalid JSON payload received. Unknown name "+name+": Cannot find field.")
	default:
		return r, fcmNo(http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid JSON payload received.")
	}
}

// checkPush says the first thing that FCM would refuse m for, nil if there is none.
func checkPush(m *fcmMessage) *answer {
	if m == nil {
		return fcmField("message", "The message is not set.")
	}
	if m.Topic != "" || m.Condition != "" {
		return fcmField("message.token", "The sandbox has no topics: set a token, and nothing else, as the target.")
	}
	if m.Token == "" {
		return fcmField("message", "Recipient of the message is not set.")
	}
	if no := checkData("message.data", m.Data); no != nil {
		return no
	}
	for _, check := range []func(*fcmMessage) *answer{checkAndroid, checkAPNS, checkWebpush, checkSize} {
		if no := check(m); no != nil {
			return no
		}
	}
	return checkToken(m.Token)
}

// checkData refuses names that FCM uses itself.
func checkData(field string, data map[string]string) *answer {
	for name := range data {
		if name == "" || name == "from" || name == "message_type" || name == "gcm" || strings.HasPrefix(name, "gcm.") || strings.HasPrefix(name, "google") {
			return fcmField(field, "Invalid data payload key: "+name)
		}
	}
	return nil
}

func checkAndroid(m *fcmMessage) *answer {
	a := m.Android
	if a == nil {
		return nil
	}
	if !validTTL(a.TTL) {
		return fcmField("message.android.ttl", "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration): want seconds such as \"3600s\", at most four weeks.")
	}
	switch strings.ToLower(a.Priority) {
	case "", "normal", "high":
	default:
		return fcmField("message.android.priority", "Invalid value at 'message.android.priority': want NORMAL or HIGH.")
	}
	if len(a.CollapseKey) > maxCollapseBytes {
		return fcmField("message.android.collapse_key", fmt.Sprintf("The collapse key is over %d bytes.", maxCollapseBytes))
	}
	return checkData("message.android.data", a.Data)
}

func validTTL(ttl string) bool {
	if ttl == "" {
		return true
	}
	found := ttlForm.FindStringSubmatch(ttl)
	if found == nil {
		return false
	}
	seconds, err := strconv.Atoi(found[1])
	return err == nil && (seconds < maxTTLSeconds || seconds == maxTTLSeconds && strings.Trim(found[2], ".0") == "")
}

func checkAPNS(m *fcmMessage) *answer {
	if m.APNS == nil {
		return nil
	}
	const field = "message.apns.headers"
	headers := m.APNS.Headers
	if len(header(headers, "apns-collapse-id")) > maxCollapseBytes {
		return fcmField(field, fmt.Sprintf("apns-collapse-id is over %d bytes.", maxCollapseBytes))
	}
	if at := header(headers, "apns-expiration"); at != "" {
		if _, err := strconv.ParseUint(at, 10, 32); err != nil {
			return fcmField(field, "apns-expiration must be seconds of Unix time, or 0.")
		}
	}
	switch header(headers, "apns-priority") {
	case "", "1", "5", "10":
		return nil
	}
	return fcmField(field, "apns-priority must be 1, 5 or 10.")
}

func checkWebpush(m *fcmMessage) *answer {
	if m.Webpush == nil {
		return nil
	}
	const field = "message.webpush.headers"
	headers := m.Webpush.Headers
	if ttl := header(headers, "ttl"); ttl != "" {
		if n, err := strconv.Atoi(ttl); err != nil || n < 0 || n > maxTTLSeconds {
			return fcmField(field, "TTL must be seconds, at most four weeks.")
		}
	}
	if topic := header(headers, "topic"); topic != "" && !webTopic.MatchString(topic) {
		return fcmField(field, "Topic must be at most 32 letters of URL-safe base64.")
	}
	if no := checkLink(m.Webpush.FCMOptions); no != nil {
		return no
	}
	return checkData("message.webpush.data", m.Webpush.Data)
}

// checkLink refuses what a browser is not to be led to.
func checkLink(options json.RawMessage) *answer {
	var o struct {
		Link *string `json:"link"`
	}
	if len(options) == 0 {
		return nil
	}
	if err := json.Unmarshal(options, &o); err != nil || o.Link != nil && !strings.HasPrefix(*o.Link, "https://") {
		return fcmField("message.webpush.fcm_options.link", "WebpushFcmOptions.link must be a HTTPS URL.")
	}
	return nil
}

// checkSize bounds what each kind of device would get: what is for all, and what is
// for it alone. How FCM counts is not written down; counting the punctuation errs on
// the strict side.
func checkSize(m *fcmMessage) *answer {
	shared := mapBytes(m.Data)
	if n := m.Notification; n != nil {
		shared += mapBytes(map[string]string{"title": n.Title, "body": n.Body, "image": n.Image})
	}
	android, apns, web := shared, shared, shared
	if m.Android != nil {
		android += mapBytes(m.Android.Data) + len(m.Android.Notification)
	}
	if m.APNS != nil {
		apns += len(m.APNS.Payload)
		if bytes.Contains(m.APNS.Payload, []byte(`"alert"`)) {
			apns -= shared - mapBytes(m.Data) // which it takes the place of
		}
	}
	if m.Webpush != nil {
		web += mapBytes(m.Webpush.Data) + len(m.Webpush.Notification)
	}
	for _, kind := range []struct {
		name string
		size int
	}{{"Android", android}, {"APNs", apns}, {"Web", web}} {
		if kind.size > maxPayloadBytes {
			return fcmCode(http.StatusBadRequest, "INVALID_ARGUMENT", fmt.Sprintf("%s message is too big", kind.name), "INVALID_ARGUMENT")
		}
	}
	return nil
}

// checkToken answers what the beginning of a token asks for. It comes last: FCM looks
// for the device when all else is right.
func checkToken(token string) *answer {
	word, _, magic := strings.Cut(token, "+")
	if !magic {
		word = ""
	}
	if len(token) > maxTokenBytes || !tokenForm.MatchString(token) {
		word = "invalid"
	}
	switch strings.ToLower(word) {
	case "dead":
		return fcmCode(http.StatusNotFound, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED")
	case "invalid":
		return fcmCode(http.StatusBadRequest, "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token", "INVALID_ARGUMENT")
	case "mismatch":
		return fcmCode(http.StatusForbidden, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH")
	case "apns":
		return fcmCode(http.StatusUnauthorized, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR")
	case "quota":
		return fcmCode(http.StatusTooManyRequests, "RESOURCE_EXHAUSTED", "Device message rate exceeded.", "QUOTA_EXCEEDED")
	case "unavailable":
		return fcmCode(http.StatusServiceUnavailable, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE")
	case "internal":
		return fcmCode(http.StatusInternalServerError, "INTERNAL", "Internal error encountered.", "INTERNAL")
	default:
		return nil
	}
}
