package twilio

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"

	"github.com/twilio/twilio-go/client"
	api "github.com/twilio/twilio-go/rest/api/v2010"

	"github.com/fanfare-dev/fanfare"
)

// messageSID is the form of the id of a message: SM or MM and 32 more.
var messageSID = regexp.MustCompile(`^[A-Za-z0-9]{1,100}$`)

// answer is what came back: as it was on the wire, and as the SDK understood it.
type answer struct {
	*wire

	message *api.ApiV2010Message
	err     error
}

// sid is the id of the message that Twilio made; "" where the answer does not say
// so, or was not read whole.
func (a answer) sid() string {
	if a.wire.err != nil || a.err != nil || a.message == nil || a.message.Sid == nil || !messageSID.MatchString(*a.message.Sid) {
		return ""
	}
	return *a.message.Sid
}

// code is Twilio's own code of a refusal; 0 where the answer holds none, as that of
// a proxy does.
func (a answer) code() int {
	if refused, ok := errors.AsType[*client.TwilioRestError](a.err); ok {
		return refused.Code
	}
	return 0
}

// judge says what an answer means. The status comes before the code where it leaves
// open whether the message was taken, or says for certain that it was not.
func (s *Sender) judge(a answer, to fanfare.Recipient) fanfare.Reply {
	out := fanfare.Outcome{Code: strconv.Itoa(a.status)}
	if code := a.code(); code > 0 {
		out.Code = strconv.Itoa(code)
	}
	say := func(kind fanfare.OutcomeKind, detail string) fanfare.Reply {
		out.Kind, out.Detail = kind, detail
		return fanfare.Reply{Outcome: out}
	}
	switch {
	case a.status/100 == 2 && a.sid() == "":
		return say(fanfare.OutcomeAmbiguous, "the answer said accepted and could not be read")
	case a.status/100 == 2:
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: out.Code}, ProviderID: a.sid()}
	case a.status == http.StatusTooManyRequests:
		out.RetryAfter = fanfare.RetryAfter(a.header)
		return say(fanfare.OutcomeThrottled, "Twilio asks to send more slowly")
	case a.status == http.StatusServiceUnavailable:
		out.RetryAfter = fanfare.RetryAfter(a.header)
		return say(fanfare.OutcomeUnavailable, "Twilio says it is not available")
	case a.status == http.StatusRequestTimeout:
		return say(fanfare.OutcomeAmbiguous, "Twilio gave up waiting for the request")
	case a.status >= 500:
		return say(fanfare.OutcomeAmbiguous, "Twilio failed, and does not say whether it took the request")
	}
	return s.refused(a, out, to)
}

// refused judges an answer by which the message was certainly not taken: by its
// code, and where that says nothing to us, by its status.
func (s *Sender) refused(a answer, out fanfare.Outcome, to fanfare.Recipient) fanfare.Reply {
	meaning, known := refusals[a.code()]
	if !known {
		meaning, known = byStatus[a.status]
	}
	switch {
	case known:
	case a.status/100 == 3:
		meaning = moved
	case a.wire.err != nil:
		meaning = refusal{kind: fanfare.OutcomeUnavailable, sentence: "Twilio refuses the request, and the answer broke off before it said why"}
	case a.code() > 0:
		meaning = refusal{kind: fanfare.OutcomeRejected, sentence: "Twilio refuses the message; https://www.twilio.com/docs/api/errors/" + out.Code + " says why"}
	default:
		meaning = refusal{kind: fanfare.OutcomeRejected, sentence: "Twilio refuses the message and does not say why"}
	}
	if meaning.shortCode && !s.service && s.from[0] != '+' {
		meaning = abroad
	}
	out.Kind, out.Detail, out.Account = meaning.kind, meaning.says(s.name), meaning.account()
	if out.Kind == fanfare.OutcomeThrottled || out.Kind == fanfare.OutcomeUnavailable {
		out.RetryAfter = fanfare.RetryAfter(a.header)
	}
	reply := fanfare.Reply{Outcome: out}
	if meaning.suppress != "" {
		reply.Suppress = []fanfare.Refused{{Address: to.Address, Reason: meaning.suppress}}
	}
	return reply
}
