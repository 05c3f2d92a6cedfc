package fcm

import (
	"cmp"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"firebase.google.com/go/v4/errorutils"
	"firebase.google.com/go/v4/messaging"

	"github.com/fanfare-dev/fanfare"
)

const (
	// quotaWait and unavailableWait are what Google asks for where an answer does not say. The
	// latter is only for the message itself: of many requests a few end so, and each would
	// stop all others.
	quotaWait       = 60 * time.Second
	unavailableWait = 10 * time.Second
)

// end is what became of the request for one device.
type end struct {
	fanfare.Outcome

	id   string // FCM's, of the message it accepted
	dead bool   // FCM says that the token is of no use any more
	// own is true where others are not to wait for what this device waits for. Apple's key
	// is no fault of the account's: it would keep every Android phone waiting. Nor is the
	// quota of a device that gets too much.
	own bool
	// wait is how long the message waits where FCM gave no time.
	wait time.Duration
}

// messageID is the form of FCM's ids. Anything else may be what is not to be kept, or cannot be.
var messageID = regexp.MustCompile(`^[A-Za-z0-9:%._-]{1,200}$`)

// judge says what an answer means. id and err are what the SDK read in it; err is as it
// came, since the SDK's predicates do not look into a wrapped one.
func (s *Sender) judge(got *answer, id string, err error) end {
	e := end{Outcome: fanfare.Outcome{Code: code(got.status, err)}}
	switch {
	case got.status/100 == 2 && (got.unread != nil || err != nil || id == ""):
		e.Kind, e.Detail = fanfare.OutcomeAmbiguous, "the answer said accepted and cannot be read"
	case got.status/100 == 2:
		e.Kind = fanfare.OutcomeAccepted
		if id = id[strings.LastIndexByte(id, '/')+1:]; messageID.MatchString(id) {
			e.id = id
		}
	case got.status/100 == 3:
		e.Kind, e.Account = fanfare.OutcomeUnavailable, true
		e.Detail = "FCM's address redirects elsewhere: check " + fanfare.SettingName(s.name, "BASE_URL")
	case got.status == http.StatusTooManyRequests:
		e.Kind, e.RetryAfter, e.Detail = fanfare.OutcomeThrottled, cmp.Or(fanfare.RetryAfter(got.header), quotaWait), "FCM asks to send more slowly"
		if e.own = ofDevice(err); e.own {
			e.Detail += " to this device"
		}
	case got.status == http.StatusServiceUnavailable:
		e.Kind, e.RetryAfter, e.wait, e.Detail = fanfare.OutcomeUnavailable, fanfare.RetryAfter(got.header), unavailableWait, "FCM says it is not available"
	case got.status >= 500, got.status == http.StatusRequestTimeout:
		e.Kind, e.Detail = fanfare.OutcomeAmbiguous, "FCM failed, and does not say whether it took the message"
	case got.unread != nil:
		e.Kind, e.Detail = fanfare.OutcomeUnavailable, "FCM refuses the message, and its answer broke off before it said why"
	default:
		s.refused(&e, got.status, err)
	}
	return e
}

// refused reads a refusal. A token is dead only where FCM names it: INVALID_ARGUMENT is
// also said of texts too long and fields it does not like, and SENDER_ID_MISMATCH of
// every token there is as soon as the project is not the app's. Taken for dead tokens,
// one bad message or one bad setting would cost an app all its devices.
func (s *Sender) refused(e *end, status int, err error) {
	e.Kind = fanfare.OutcomeRejected
	account := func(detail string) { e.Kind, e.Account, e.Detail = fanfare.OutcomeUnavailable, true, detail }
	switch {
	case messaging.IsUnregistered(err):
		e.dead, e.Detail = true, "the token is not registered any more: the app is gone from the device, or has another token"
	case messaging.IsSenderIDMismatch(err):
		e.Detail = "the token belongs to an app of another Firebase project than " + fanfare.SettingName(s.name, "PROJECT_ID") + " names"
	case messaging.IsThirdPartyAuthError(err):
		e.Kind, e.own = fanfare.OutcomeThrottled, true
		e.Detail = "Apple or the browser's push service does not take the project's key: upload a valid one (Firebase console, Project settings, Cloud Messaging)"
	case status == http.StatusUnauthorized:
		account("FCM does not take the sign-in: set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account of this project")
	case status == http.StatusForbidden:
		account("FCM forbids the call: enable the Firebase Cloud Messaging API in the project of " + fanfare.SettingName(s.name, "PROJECT_ID") + ", and give the service account the role Firebase Cloud Messaging API Admin")
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		account("FCM has no such project, or is not at this address: check " + fanfare.SettingName(s.name, "PROJECT_ID") + " and " + fanfare.SettingName(s.name, "BASE_URL"))
	default:
		var fields []string
		if fields, e.dead = complaint(err); e.dead {
			e.Detail = "the token is not one of FCM's"
			return
		}
		e.Detail = "FCM refuses the message"
		if len(fields) > 0 {
			e.Detail += " for " + strings.Join(fields[:min(len(fields), 2)], ", ")
		}
	}
}

// fieldName is a path into the request. Anything else in its place may be content.
var fieldName = regexp.MustCompile(`^message(\.[A-Za-z0-9_\[\]]{1,24}){0,4}$`)

// told is an error as Google writes it, as far as it is looked at.
type told struct {
	Error struct {
		Message string `json:"message"`
		Details []struct {
			FieldViolations []struct {
				Field string `json:"field"`
			} `json:"fieldViolations"`
			Violations []struct {
				Description string `json:"description"`
			} `json:"violations"`
		} `json:"details"`
	} `json:"error"`
}

func read(err error) (said told) {
	if response := errorutils.HTTPResponse(err); response != nil { //nolint:bodyclose // a copy in memory
		// An answer that is not JSON names nothing.
		_ = json.NewDecoder(response.Body).Decode(&said)
	}
	return said
}

// ofDevice says whether it is a device that gets too much, and not a project that sends
// too much: "Device message rate exceeded" against "Quota exceeded for quota metric".
func ofDevice(err error) bool {
	said := read(err).Error
	words := said.Message
	for _, detail := range said.Details {
		for _, violation := range detail.Violations {
			words += " " + violation.Description
		}
	}
	return strings.Contains(strings.ToLower(words), "device message rate")
}

// complaint reads what a refusal is about: the fields it names, and whether it is the
// token. Older answers say that in a sentence only.
func complaint(err error) (fields []string, token bool) {
	said := read(err).Error
	for _, detail := range said.Details {
		for _, violation := range detail.FieldViolations {
			if fieldName.MatchString(violation.Field) {
				fields = append(fields, violation.Field)
			}
		}
	}
	if len(fields) > 0 {
		return fields, len(fields) == 1 && fields[0] == "message.token"
	}
	return nil, messaging.IsInvalidArgument(err) && strings.Contains(said.Message, "registration token")
}

// codes are FCM's own.
var codes = []struct {
	code string
	is   func(error) bool
}{
	{"UNREGISTERED", messaging.IsUnregistered},
	{"INVALID_ARGUMENT", messaging.IsInvalidArgument},
	{"SENDER_ID_MISMATCH", messaging.IsSenderIDMismatch},
	{"QUOTA_EXCEEDED", messaging.IsQuotaExceeded},
	{"UNAVAILABLE", messaging.IsUnavailable},
	{"INTERNAL", messaging.IsInternal},
	{"THIRD_PARTY_AUTH_ERROR", messaging.IsThirdPartyAuthError},
}

// code is FCM's own where the answer has one, else the status.
func code(status int, err error) string {
	for _, known := range codes {
		if known.is(err) {
			return known.code
		}
	}
	return strconv.Itoa(status)
}
