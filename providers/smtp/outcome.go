package smtp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/fanfare-dev/fanfare"
)

// step is how far a call came.
type step int

const (
	atCompose step = iota
	atConnect
	atTLS
	atGreeting
	atHello
	atAuth
	atGate // connected, and nothing of the message was begun
	atMail
	atRcpt
	atData
	atBody // before the dot
	atDot  // from the first byte of the dot on
)

// String is the step in a sentence: "the relay answered 550 to ...".
func (s step) String() string {
	return [...]string{
		"the message", "the connection", "STARTTLS", "the connection", "EHLO", "AUTH", "the connection",
		"MAIL FROM", "RCPT TO", "DATA", "the message", "the message",
	}[s]
}

const (
	// closing is the answer to any command of a relay that is about to close.
	closing = 421
	// rateWait is the wait when a relay asks for a slower pace; none says until
	// when. Postfix counts by the minute (anvil_rate_time_unit).
	rateWait = time.Minute
	// maxDetail bounds what is kept of an error's text, in bytes.
	maxDetail = 200
)

// judge says what it means that a call ended with err at a step.
func judge(ctx context.Context, at step, err error) fanfare.Reply {
	if answer, ok := errors.AsType[*textproto.Error](err); ok {
		return answered(at, answer)
	}
	say := func(kind fanfare.OutcomeKind, code, detail string) fanfare.Reply {
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: kind, Code: code, Detail: detail}}
	}
	switch {
	// The codes are those that a relay gives for the same (RFC 3463, RFC 6531).
	case errors.Is(err, errAddress):
		return say(fanfare.OutcomeRejected, "5.1.3", errAddress.Error())
	case errors.Is(err, errNoUTF8):
		return say(fanfare.OutcomeRejected, "5.6.7", errNoUTF8.Error())
	case errors.Is(err, errLink), errors.Is(err, errNoTLS), errors.Is(err, errNoAuth):
		reply := say(fanfare.OutcomeUnavailable, "", "the settings do not fit: "+err.Error())
		reply.Outcome.Account = true
		return reply
	case at == atDot:
		return say(fanfare.OutcomeAmbiguous, "", "the message was written and no answer came: "+reason(ctx, at, err))
	case errors.Is(err, fanfare.ErrTooLate), errors.Is(ctx.Err(), context.Canceled):
		return say(fanfare.OutcomeReleased, "", "the message was not written whole: "+reason(ctx, at, err))
	case at < atMail:
		return say(fanfare.OutcomeUnavailable, "", fmt.Sprintf("the relay was not reached (%s): %s", at, reason(ctx, at, err)))
	default:
		return say(fanfare.OutcomeUnavailable, "", fmt.Sprintf("the conversation with the relay broke off at %s: %s", at, reason(ctx, at, err)))
	}
}

// reason puts an error in words that hold nothing of what the relay said.
func reason(ctx context.Context, at step, err error) string {
	op, failed := errors.AsType[*net.OpError](err)
	_, garbled := errors.AsType[textproto.ProtocolError](err)
	switch {
	case errors.Is(err, fanfare.ErrTooLate):
		return fanfare.ErrTooLate.Error()
	case ctx.Err() != nil:
		return "the call's time was over"
	case garbled:
		return "what it said is not SMTP"
	case errors.Is(err, io.EOF):
		return "it closed the connection"
	case failed:
		err = op.Err // without addresses and ports
	case at != atConnect && at != atTLS:
		return "an error in the conversation"
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxDetail)], "")
}

// answered says what a relay's answer means that was not the one hoped for.
func answered(at step, answer *textproto.Error) fanfare.Reply {
	enhanced := enhancedCode(answer)
	out := fanfare.Outcome{Code: cmp.Or(enhanced, strconv.Itoa(answer.Code))}
	out.Detail = strings.TrimSpace(fmt.Sprintf("the relay answered %d %s", answer.Code, enhanced)) + " to " + at.String()
	say := func(kind fanfare.OutcomeKind) fanfare.Reply {
		out.Kind = kind
		return fanfare.Reply{Outcome: out}
	}
	switch class := answer.Code / 100; {
	case class == 4:
		return deferred(at, answer.Code, enhanced, out)
	case class == 5 && atFault(at, answer.Code, enhanced):
		out.Account = true
		out.Detail += ": " + advice(at)
		return say(fanfare.OutcomeUnavailable)
	case class == 5:
		return say(fanfare.OutcomeRejected)
	case at == atDot && class == 2:
		return accepted(answer.Code, answer.Msg)
	case at == atDot:
		return say(fanfare.OutcomeAmbiguous) // no answer that this question can have
	default:
		return say(fanfare.OutcomeUnavailable)
	}
}

// atFault tells a refusal of us from a refusal of one recipient or one message.
// Before there is a recipient it can only be us. At RCPT and DATA the codes for
// "relaying denied" and other policy (5.7.x), for a sender who must not send
// (5.1.7, 5.1.8) and for who should have signed in (530, 503) are about us. From
// the body on it is the message, whatever the code.
func atFault(at step, code int, enhanced string) bool {
	switch at {
	case atRcpt, atData:
		return code == 530 || code == 503 || strings.HasPrefix(enhanced, "5.7.") || enhanced == "5.1.7" || enhanced == "5.1.8"
	case atBody, atDot:
		return false
	default:
		return true
	}
}

// advice is what a person can do about a refusal of us.
func advice(at step) string {
	switch at {
	case atAuth:
		return "set SMTP_URL to a user and a password that it takes"
	case atMail:
		return "see that it lets this user send as SMTP_FROM, or give SMTP_URL a user"
	case atRcpt, atData:
		return "see that it relays mail to others for this user and SMTP_FROM, or give SMTP_URL a user"
	default:
		return "see that it takes mail from this machine, and that SMTP_URL names the right port"
	}
}

// deferred is an answer that says "not now". While there is a recipient it is
// theirs, costs them an attempt and stops nobody else; what is said before, by a
// relay that closes, and about the relay's own state (4.3.x), is for everyone.
func deferred(at step, code int, enhanced string, out fanfare.Outcome) fanfare.Reply {
	paced := strings.HasPrefix(enhanced, "4.7.")
	switch {
	case at < atMail:
		out.Kind = fanfare.OutcomeUnavailable
	case (at == atMail || code == closing) && paced, at == atMail && code == closing && enhanced == "":
		out.Kind, out.RetryAfter = fanfare.OutcomeThrottled, rateWait
	case at == atMail, code == closing, strings.HasPrefix(enhanced, "4.3."):
		out.Kind = fanfare.OutcomeUnavailable
	default:
		mine := out
		mine.Kind, out.Kind = fanfare.OutcomeThrottled, fanfare.OutcomeReleased
		return fanfare.Reply{Outcome: out, Named: map[int]fanfare.Outcome{0: mine}}
	}
	return fanfare.Reply{Outcome: out}
}

func accepted(code int, answer string) fanfare.Reply {
	return fanfare.Reply{
		Outcome:    fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: strconv.Itoa(code)},
		ProviderID: queueID(answer),
	}
}

var enhancedForm = regexp.MustCompile(`^([245])\.\d{1,3}\.\d{1,3}\b`)

// enhancedCode is the code of RFC 2034 at the begin of an answer, if it agrees
// with the answer's own.
func enhancedCode(answer *textproto.Error) string {
	found := enhancedForm.FindString(answer.Msg)
	if found == "" || int(found[0]-'0') != answer.Code/100 {
		return ""
	}
	return found
}

// queueForms are those in which relays name the message they took. An id ends
// where a word ends, so that none is a piece of an address.
var queueForms = []*regexp.Regexp{
	regexp.MustCompile(`(?i)\bqueued as ([A-Za-z0-9._-]{4,64})(?:[\s;,)]|$)`),                                // Postfix, SendGrid, Mailpit
	regexp.MustCompile(`\bid=([A-Za-z0-9._-]{4,64})(?:[\s;,)]|$)`),                                           // Exim
	regexp.MustCompile(`^(?:2\.\d\.\d )?([A-Za-z0-9]{8,32}) Message accepted for delivery`),                  // Sendmail, OpenSMTPD
	regexp.MustCompile(`^(?:2\.\d\.\d )?(?i:OK) ([0-9a-f]{16}-[0-9a-f-]{20,48})(?:\s|$)`),                    // Amazon SES
	regexp.MustCompile(`\[InternalId=(\d{4,32})[,\]]`),                                                       // Exchange
	regexp.MustCompile(`(?i)\bqueued \(([0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F.]{8,20})\)`), // Haraka
}

// queueID is what the relay calls the message it took; empty if it does not say
// so in a form that is known.
func queueID(answer string) string {
	for _, form := range queueForms {
		if found := form.FindStringSubmatch(answer); found != nil {
			return found[1]
		}
	}
	return ""
}
