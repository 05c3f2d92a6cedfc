package twilio

import (
	"net/http"
	"strconv"

	"github.com/fanfare-dev/fanfare"
)

// refusal is what one of Twilio's codes means.
type refusal struct {
	kind     fanfare.OutcomeKind
	sentence string
	// setting is the one to look at, without the provider's name, where the account or
	// its settings are at fault; atTwilio where it is nothing that is set here.
	setting string
	// suppress is why the number must not be used again; empty where it may be.
	suppress fanfare.SuppressionReason
	// shortCode is true where the fault is the recipient's country if we send from a
	// short code, which works in its own country only.
	shortCode bool
}

// atTwilio stands for settings that a person changes at Twilio.
const atTwilio = "Twilio's console"

// account reports whether only a person can put it right.
func (r refusal) account() bool { return r.setting != "" }

// says is the sentence for people, with what to do.
func (r refusal) says(provider string) string {
	switch r.setting {
	case "":
		return r.sentence
	case atTwilio, publicSetting:
		return r.sentence + ": look at " + r.setting
	}
	return r.sentence + ": check " + fanfare.SettingName(provider, r.setting)
}

func rejected(sentence string) refusal {
	return refusal{kind: fanfare.OutcomeRejected, sentence: sentence}
}

func suppressed(reason fanfare.SuppressionReason, sentence string) refusal {
	return refusal{kind: fanfare.OutcomeRejected, suppress: reason, sentence: sentence}
}

func throttled(sentence string) refusal {
	return refusal{kind: fanfare.OutcomeThrottled, sentence: sentence}
}

func unavailable(sentence string) refusal {
	return refusal{kind: fanfare.OutcomeUnavailable, sentence: sentence}
}

// account is one where a setting is at fault and no recipient.
func account(setting, sentence string) refusal {
	return refusal{kind: fanfare.OutcomeUnavailable, setting: setting, sentence: sentence}
}

// sender is one where From is at fault, unless it is a short code.
func sender(sentence string) refusal {
	r := account("FROM", sentence)
	r.shortCode = true
	return r
}

// refusals are Twilio's codes (https://www.twilio.com/docs/api/errors) as far as
// they can be about an SMS of ours, in answers and in status callbacks. Their
// meanings move, as Twilio warns, so that this is data: a code that is not here
// rejects the message and suppresses nobody.
var refusals = map[int]refusal{
	// The account.
	10001: account(atTwilio, "Twilio says that the account is not active"),
	20003: account("AUTH_TOKEN", "Twilio does not take the account and its token"),
	20005: account(atTwilio, "Twilio says that the account is not active"),
	20008: account("ACCOUNT_SID", "Twilio does not do this with test credentials"),
	20403: account(atTwilio, "Twilio forbids the account to send"),
	20404: account("ACCOUNT_SID", "Twilio does not find the account"),
	20429: throttled("Twilio asks to send more slowly"),
	20503: unavailable("Twilio says it is not available"),
	21730: unavailable("Twilio is under maintenance"),
	30002: account(atTwilio, "Twilio has suspended the account"),
	90010: account(atTwilio, "Twilio says that the account is not active"),

	// Whom we send as.
	21212: account("FROM", "Twilio does not take the sender for a number"),
	21601: account("FROM", "Twilio does not send SMS from this sender"),
	21603: account("FROM", "Twilio misses the sender"),
	21606: sender("Twilio does not send SMS from this sender for this account"),
	21607: account("FROM", "Twilio does not send from this sender on a trial account"),
	21609: account(publicSetting, "Twilio cannot report to the address that it was given"),
	21659: sender("Twilio does not know the sender as one of its own"),
	21660: account("FROM", "Twilio says that the sender belongs to another account"),
	21661: account("FROM", "Twilio says that the sender cannot send SMS"),
	21701: account("FROM", "Twilio does not find the Messaging Service in this account"),
	21703: account(atTwilio, "the Messaging Service has no number that it can send from"),
	21704: account(atTwilio, "the Messaging Service has no numbers"),
	21705: account("FROM", "Twilio does not take the sender for a Messaging Service"),
	30034: account(atTwilio, "the number is not registered for A2P 10DLC in the United States"),

	// Whom we send to.
	21211: suppressed(fanfare.SuppressedInvalid, "Twilio says that there can be no such number"),
	21217: suppressed(fanfare.SuppressedInvalid, "Twilio says that there can be no such number"),
	21265: rejected("the recipient's number is a short code, which Twilio does not send to"),
	21266: rejected("the recipient's number is the one that we send from"),
	21408: rejected("sending to the recipient's country is not switched on at Twilio: see its Messaging Geographic Permissions"),
	21604: rejected("there is no number to send to"),
	21608: rejected("a trial account sends to verified numbers only"),
	21610: suppressed(fanfare.SuppressedStopped, "the recipient has answered STOP"),
	21612: rejected("Twilio does not reach the recipient from this sender"),
	21614: suppressed(fanfare.SuppressedInvalid, "Twilio says that the number is not that of a mobile phone"),
	21635: suppressed(fanfare.SuppressedInvalid, "Twilio says that the number is that of a landline"),

	// What we send.
	21602: rejected("the message has no text"),
	21617: rejected("the text is longer than the 1,600 characters that Twilio takes"),
	21618: rejected("Twilio does not send a message with this text"),
	21619: rejected("the message has no text"),

	// What becomes of it later. In an answer they would be refusals too.
	21611: unavailable("more is waiting for the sender than it can send in ten hours"),
	30001: unavailable("more is waiting for the sender than it can send in time"),
	30003: throttled("the recipient's phone is off or out of reach"),
	30004: rejected("the recipient's phone or carrier blocks the message"),
	30005: suppressed(fanfare.SuppressedInvalid, "the carrier does not know the number"),
	30006: suppressed(fanfare.SuppressedInvalid, "the number is that of a landline, or its carrier cannot be reached"),
	30007: rejected("the carrier took the message for spam"),
	30008: throttled("the carrier does not say why it did not take the message"),
	30450: rejected("Twilio took the message for SMS pumping and blocked it"),
	30610: rejected("Twilio blocked the message because of the hour at the recipient's"),
	30640: rejected("Twilio blocked the message because the recipient is known to go to court"),
}

// byStatus are the meanings of answers without a code that is known here.
var byStatus = map[int]refusal{
	http.StatusUnauthorized:          refusals[20003],
	http.StatusPaymentRequired:       account(atTwilio, "Twilio wants the account to be paid for"),
	http.StatusForbidden:             refusals[20403],
	http.StatusNotFound:              account("BASE_URL", "there is no account with this SID at Twilio's address"),
	http.StatusMethodNotAllowed:      account("BASE_URL", "there is no Messages API at Twilio's address"),
	http.StatusRequestEntityTooLarge: rejected("Twilio finds the request too large"),
}

// moved is an answer that names another address.
var moved = account("BASE_URL", "Twilio's address redirects elsewhere")

// abroad is a refusal of a short code.
var abroad = rejected("Twilio does not send to the recipient's country from a short code")

// outOfReach are the codes by which a number was not reached for the time being. A number
// of which that is said too often is given up. All codes but these and those that suppress
// are about our account, our text, its way or nobody knows what, also those not known here.
var outOfReach = []string{"30003", "30004", "30008"}

// refusalOf is the meaning of a code as it stands in a form.
func refusalOf(code string) refusal {
	n, _ := strconv.Atoi(code) // 0, which means nothing, for what is no number
	return refusals[n]
}
