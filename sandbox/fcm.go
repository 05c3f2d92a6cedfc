package sandbox

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path"
	"slices"
	"strings"
)

const (
	fcm  = "fcm"
	push = "push"
	// maxPushBytes is far more than a message may have, so that one that is too long
	// is refused in words.
	maxPushBytes = 1 << 20
	fcmDomain    = "type.googleapis.com/google.firebase.fcm.v1."
	fcmErrorType = fcmDomain + "FcmError"
	badRequest   = "type.googleapis.com/google.rpc.BadRequest"
)

// fcmRequest is the body of POST messages:send. FCM takes the names in the other
// way of writing them too, as in collapseKey; its clients do not.
type fcmRequest struct {
	ValidateOnly bool        `json:"validate_only"`
	Message      *fcmMessage `json:"message"`
}

// fcmMessage is a message as far as it is checked or shown. RawMessages are what
// only the device reads.
type fcmMessage struct {
	Name         string            `json:"name"`
	Token        string            `json:"token"`
	Topic        string            `json:"topic"`
	Condition    string            `json:"condition"`
	Data         map[string]string `json:"data"`
	Notification *fcmNotification  `json:"notification"`
	Android      *fcmAndroid       `json:"android"`
	APNS         *fcmAPNS          `json:"apns"`
	Webpush      *fcmWebpush       `json:"webpush"`
	FCMOptions   json.RawMessage   `json:"fcm_options"`
}

type fcmNotification struct {
	Title string `json:"title"`
	Body  string `json:"body"`
	Image string `json:"image"`
}

type fcmAndroid struct {
	CollapseKey           string            `json:"collapse_key"`
	Priority              string            `json:"priority"`
	TTL                   string            `json:"ttl"`
	RestrictedPackageName string            `json:"restricted_package_name"`
	Data                  map[string]string `json:"data"`
	Notification          json.RawMessage   `json:"notification"`
	FCMOptions            json.RawMessage   `json:"fcm_options"`
	DirectBootOK          bool              `json:"direct_boot_ok"`
}

type fcmAPNS struct {
	Headers               map[string]string `json:"headers"`
	Payload               json.RawMessage   `json:"payload"`
	FCMOptions            json.RawMessage   `json:"fcm_options"`
	LiveActivityToken     string            `json:"live_activity_token"`
	LiveActivityPushToken string            `json:"live_activity_push_to_start_token"`
}

type fcmWebpush struct {
	Headers      map[string]string `json:"headers"`
	Data         map[string]string `json:"data"`
	Notification json.RawMessage   `json:"notification"`
	FCMOptions   json.RawMessage   `json:"fcm_options"`
}

// collapse is what another message has to have in common with this one to take its
// place on the device.
func (m *fcmMessage) collapse() []string {
	var all []string
	tagged := func(notification json.RawMessage) {
		var n struct {
			Tag string `json:"tag"`
		}
		_ = json.Unmarshal(notification, &n) // none, or none that could be read
		all = append(all, n.Tag)
	}
	if m.Android != nil {
		all = append(all, m.Android.CollapseKey)
		tagged(m.Android.Notification)
	}
	if m.APNS != nil {
		all = append(all, header(m.APNS.Headers, "apns-collapse-id"))
	}
	if m.Webpush != nil {
		all = append(all, header(m.Webpush.Headers, "topic"))
		tagged(m.Webpush.Notification)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(id string) bool { return id == "" })
}

// header gives a header of any case.
func header(all map[string]string, name string) string {
	for n, value := range all {
		if strings.EqualFold(n, name) {
			return value
		}
	}
	return ""
}

// replaces says whether a message takes the place of an earlier one of the same
// delivery and device.
func replaces(m messages, i int, earlier messages, at int) bool {
	if m.channel(i) != push {
		return false
	}
	before := earlier.message(at).Collapse
	return slices.ContainsFunc(m.message(i).Collapse, func(id string) bool { return slices.Contains(before, id) })
}

// pushed is a push as a person looks at it.
func pushed(e *single, key string) Message {
	var r fcmRequest
	_ = json.Unmarshal([]byte(e.body), &r) // it could be read when it came
	m := Message{
		Channel: push, ID: "projects/" + e.owner + "/messages/" + key, Call: r.Message.Data["call"], Delivery: e.delivery, At: e.at,
		From: e.owner, To: e.address, Data: r.Message.Data, Collapse: r.Message.collapse(),
	}
	if n := r.Message.Notification; n != nil {
		m.Subject, m.Text = n.Title, n.Body
	}
	return m
}

func indented(body string) string {
	var out bytes.Buffer
	_ = json.Indent(&out, []byte(body), "", "  ") // it could be read when it came
	return out.String()
}

func (s *Sandbox) routeFCM(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/projects/{project}/messages:send", s.sendPush)
	mux.HandleFunc("/v1/projects/", func(w http.ResponseWriter, _ *http.Request) {
		// Google's front answers this, which speaks HTML.
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write(htmlError(http.StatusNotFound)) // a client that left is not an error of ours
	})
}

// fcmDetail is one of the details of an error: a code of FCM's own, or the fields
// that are wrong.
type fcmDetail struct {
	Type       string         `json:"@type"`
	ErrorCode  string         `json:"errorCode,omitempty"`
	Violations []fcmViolation `json:"fieldViolations,omitempty"`
}

type fcmViolation struct {
	Field       string `json:"field,omitempty"`
	Description string `json:"description"`
}

func fcmNo(status int, state, message string, details ...fcmDetail) *answer {
	type inner struct {
		Code    int         `json:"code"`
		Message string      `json:"message"`
		Status  string      `json:"status"`
		Details []fcmDetail `json:"details,omitempty"`
	}
	body, _ := json.Marshal(struct { // numbers and texts always marshal
		Error inner `json:"error"`
	}{inner{status, message, state, details}})
	return &answer{status: status, contentType: "application/json; charset=UTF-8", body: body, note: state + ": " + message}
}

// fcmCode is an error with a code of FCM's own.
func fcmCode(status int, state, message, code string) *answer {
	return fcmNo(status, state, message, fcmDetail{Type: fcmErrorType, ErrorCode: code})
}

// fcmField is an error that names a field, which is a mistake of the sender's and
// none of the token's.
func fcmField(field, message string) *answer {
	return fcmNo(http.StatusBadRequest, "INVALID_ARGUMENT", message, fcmDetail{
		Type: badRequest, Violations: []fcmViolation{{Field: field, Description: message}},
	})
}

// fcmFailure is how FCM words a status that no rule of its own led to.
func fcmFailure(status int) []byte {
	switch status {
	case http.StatusUnauthorized:
		return fcmNo(status, "UNAUTHENTICATED", "Request had invalid authentication credentials.").body
	case http.StatusForbidden:
		return fcmNo(status, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied.").body
	case http.StatusTooManyRequests:
		return fcmCode(status, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Sending requests'.", "QUOTA_EXCEEDED").body
	case http.StatusServiceUnavailable:
		return fcmCode(status, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE").body
	case http.StatusInternalServerError:
		return fcmCode(status, "INTERNAL", "Internal error encountered.", "INTERNAL").body
	default:
		return fcmNo(status, strings.ToUpper(strings.ReplaceAll(http.StatusText(status), " ", "_")), http.StatusText(status)).body
	}
}

// sendPush takes one call. What it would have been answered is worked out first;
// then a fault may answer something else.
func (s *Sandbox) sendPush(w http.ResponseWriter, r *http.Request) {
	x, buf, ok := s.open(w, r, fcm, push, maxPushBytes, fcmFailure)
	if !ok {
		return
	}
	defer s.release(buf)
	e := single{kind: 'p', owner: r.PathValue("project"), body: buf.String()}
	request, no := readPush(buf.Bytes())
	if m := request.Message; m != nil {
		e.address, e.delivery = m.Token, m.Data["delivery"]
		x.describe(m.Data["call"], 1)
	}
	if no == nil {
		no = checkPush(request.Message)
	}
	x.end(no, 1, func() answer {
		key := "fake_message_id"
		if !request.ValidateOnly {
			in, i := s.store.acceptSingle(x.n, &e)
			key = in.key(i)
		}
		body, _ := json.Marshal(map[string]string{"name": path.Join("projects", e.owner, "messages", key)}) // texts always marshal
		return answer{status: http.StatusOK, contentType: "application/json; charset=UTF-8", body: body}
	})
}
