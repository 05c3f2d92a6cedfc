package sendgrid

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sendgrid/rest"

	"github.com/fanfare-dev/fanfare"
)

// messageIDForm is the form of an X-Message-Id, of now and of years ago. Anything else may be
// what is not to be kept, or cannot be.
var messageIDForm = regexp.MustCompile(`^[A-Za-z0-9._=-]{1,100}$`)

// judge says what an answer means. unread is why its body could not be read
// whole: nil, or the call was cut in the middle of it.
func (s *Sender) judge(answer *rest.Response, unread error, call fanfare.Call) fanfare.Reply {
	header := http.Header(answer.Headers)
	status := answer.StatusCode
	out := fanfare.Outcome{Code: strconv.Itoa(status)}
	say := func(kind fanfare.OutcomeKind, detail string) fanfare.Reply {
		out.Kind, out.Detail = kind, detail
		return fanfare.Reply{Outcome: out}
	}
	account := func(detail string) fanfare.Reply {
		out.Account = true
		return say(fanfare.OutcomeUnavailable, detail)
	}
	switch {
	case status/100 == 2 && unread != nil:
		return say(fanfare.OutcomeAmbiguous, "the answer said accepted and broke off")
	case status/100 == 2:
		reply := fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: out.Code}}
		if id := header.Get("X-Message-Id"); messageIDForm.MatchString(id) {
			reply.ProviderID = id
		}
		return reply
	case status/100 == 3:
		return account("SendGrid's address redirects elsewhere: check " + fanfare.SettingName(s.name, "BASE_URL"))
	}
	switch status {
	case http.StatusUnauthorized:
		return account("SendGrid does not take the API key: set " + fanfare.SettingName(s.name, "API_KEY") + " to a valid one")
	case http.StatusPaymentRequired:
		return account("SendGrid wants the account to be paid for: look at its billing")
	case http.StatusForbidden:
		return account("SendGrid forbids the call: verify the sender in " + fanfare.SettingName(s.name, "FROM") + ", give the key the Mail Send permission, and see that the account is not suspended")
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return account("SendGrid has no mail/send at this address: check " + fanfare.SettingName(s.name, "BASE_URL"))
	case http.StatusTooManyRequests:
		out.RetryAfter = retryAfter(status, header)
		return say(fanfare.OutcomeThrottled, "SendGrid asks to send more slowly")
	case http.StatusServiceUnavailable:
		out.RetryAfter = retryAfter(status, header)
		return say(fanfare.OutcomeUnavailable, "SendGrid says it is not available")
	case http.StatusRequestTimeout:
		return say(fanfare.OutcomeAmbiguous, "SendGrid gave up waiting for the request")
	case http.StatusRequestEntityTooLarge:
		return undivided(out, "SendGrid finds the request too large", len(call.Recipients))
	}
	if status >= 500 {
		return say(fanfare.OutcomeAmbiguous, "SendGrid failed, and does not say whether it took the request")
	}
	return refused(out, answer.Body, call)
}

// undivided is a refusal that names nobody. Halves find out whose it is; one
// recipient alone has been found.
func undivided(out fanfare.Outcome, detail string, recipients int) fanfare.Reply {
	out.Kind, out.Detail = fanfare.OutcomeReleased, detail
	if recipients > 1 {
		return fanfare.Reply{Outcome: out, Split: true}
	}
	out.Kind = fanfare.OutcomeRejected
	return fanfare.Reply{Outcome: out}
}

// problem is one entry of SendGrid's error answer. Its field is a path into the
// request, or null, or the word "null".
type problem struct {
	Message string `json:"message"`
	Field   string `json:"field"`
}

// refused reads whom a 400 (or a 4xx without a meaning of its own) is about.
// The whole request comes before single recipients: while it is wrong, a new
// call without them would be refused as well.
func refused(out fanfare.Outcome, body string, call fanfare.Call) fanfare.Reply {
	var answer struct {
		Errors []problem `json:"errors"`
	}
	// An answer that is not JSON names nobody.
	_ = json.Unmarshal([]byte(body), &answer)
	detail := "SendGrid refuses the request and does not say why"
	rejected := map[int]fanfare.Outcome{}
	worst := unknown
	for i, p := range answer.Errors {
		about, n := whose(p.Field, len(call.Recipients))
		sentence := "SendGrid refuses the request: " + p.explain(call)
		if about == recipient {
			rejected[n] = fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: out.Code, Detail: sentence}
		}
		if i == 0 || about > worst {
			worst, detail = about, sentence
		}
	}
	out.Detail = detail
	switch worst {
	case settings:
		out.Kind, out.Account = fanfare.OutcomeUnavailable, true
		return fanfare.Reply{Outcome: out}
	case content:
		out.Kind = fanfare.OutcomeRejected
		return fanfare.Reply{Outcome: out}
	case recipient:
		out.Kind = fanfare.OutcomeReleased
		return fanfare.Reply{Outcome: out, Named: rejected}
	default:
		return undivided(out, detail, len(call.Recipients))
	}
}

// part is what a refusal is about; the greater one decides.
type part int

const (
	unknown   part = iota // perhaps one recipient, perhaps not
	recipient             // one recipient's address
	content               // the message, for everyone
	settings              // the sender, or what only this package writes
)

// recipientField reads "personalizations.3.to.0.email"; older answers wrote
// "personalizations[3]".
var recipientField = regexp.MustCompile(`^personalizations(?:\.(\d+)|\[(\d+)\])(?:\.(.+))?$`)

// whose says what a field is part of, and whose address it is. What this package
// writes into a personalization beside the address has one form for all, so it
// is nobody's address that is wrong with it.
func whose(field string, recipients int) (about part, n int) {
	if m := recipientField.FindStringSubmatch(field); m != nil {
		n, err := strconv.Atoi(m[1] + m[2])
		switch {
		case err != nil || n >= recipients:
			return unknown, 0
		case m[3] == "" || m[3] == "to" || strings.HasPrefix(m[3], "to.") || strings.HasPrefix(m[3], "to["):
			return recipient, n
		}
		return settings, 0
	}
	top, _, _ := strings.Cut(field, ".")
	top, _, _ = strings.Cut(top, "[")
	switch top {
	case "subject", "content":
		return content, 0
	case "from", "reply_to", "headers", "categories", "custom_args", "tracking_settings":
		return settings, 0
	}
	return unknown, 0
}

// explain puts a problem in words without anything personal.
func (p problem) explain(call fanfare.Call) string {
	if p.Field == "" || p.Field == "null" {
		return scrub(p.Message, call)
	}
	return scrub(p.Field+": "+p.Message, call)
}

// retryAfter is how long to wait: as Retry-After says, else until X-RateLimit-Reset, in
// seconds since 1970; 0 when there is neither. Every answer may show the limit, so its
// reset counts only where the limit is the reason: in a 429, or when nothing remains of it.
func retryAfter(status int, header http.Header) time.Duration {
	if wait := fanfare.RetryAfter(header); wait > 0 {
		return wait
	}
	if status != http.StatusTooManyRequests && header.Get("X-Ratelimit-Remaining") != "0" {
		return 0
	}
	if reset, err := strconv.ParseUint(header.Get("X-Ratelimit-Reset"), 10, 40); err == nil {
		return fanfare.RetryAt(header, time.Unix(int64(reset), 0))
	}
	return 0
}
