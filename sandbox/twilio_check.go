package sandbox

import (
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Twilio's limits on one message (its Messages reference).
const (
	maxTextLength     = 1600
	maxValidity       = 36_000
	maxCallbackLength = 4000
)

var (
	e164       = regexp.MustCompile(`^\+[1-9]\d{6,14}$`)
	shortCode  = regexp.MustCompile(`^\d{3,8}$`)
	senderID   = regexp.MustCompile(`^[0-9 &_+-]*[A-Za-z][A-Za-z0-9 &_+-]*$`) // a letter at least; at most 11
	serviceSID = regexp.MustCompile(`^MG[0-9a-fA-F]{32}$`)
	hostName   = regexp.MustCompile(`^[A-Za-z0-9.:\[\]-]+$`)
)

// twilioReasons are Twilio's words for its codes. They quote no number, as some of
// its own do.
var twilioReasons = map[int]string{
	20003: "Authenticate",
	20004: "Method not allowed",
	20404: "The requested resource was not found",
	20429: "Too Many Requests",
	20500: "Internal Server Error",
	20503: "Service unavailable",
	21211: "Invalid 'To' Phone Number",
	21212: "The 'From' number is not a valid phone number, shortcode, or alphanumeric sender ID",
	21266: "'To' and 'From' number cannot be the same",
	21408: "Permission to send an SMS has not been enabled for the region indicated by the 'To' number",
	21602: "Message body is required",
	21603: "A 'From' phone number is required",
	21604: "A 'To' phone number is required",
	21606: "The 'From' phone number provided is not a valid, SMS-capable inbound phone number or short code for your account",
	21609: "Invalid 'StatusCallback' URL",
	21610: "Attempt to send to unsubscribed recipient",
	21611: "This 'From' number has exceeded the maximum number of queued messages",
	21612: "The 'To' phone number is not currently reachable using the 'From' phone number",
	21614: "'To' number is not a valid mobile number",
	21617: "The concatenated message body exceeds the 1600 character limit",
	21701: "The Messaging Service does not exist",
	30001: "Queue overflow",
	30003: "Unreachable destination handset",
	30004: "Message blocked",
	30005: "Unknown destination handset",
	30006: "Landline or unreachable carrier",
	30007: "Carrier violation",
	30008: "Unknown error",
	30034: "US A2P 10DLC - Message from an Unregistered Number",
	90007: "Invalid validity period value",
	90011: "The request could not be read as a form",
}

func twilioReason(code int) string {
	if reason := twilioReasons[code]; reason != "" {
		return reason
	}
	return http.StatusText(code - 20000)
}

// testNumbers fail as Twilio's own test numbers do, and testSenders as those that
// messages are sent from.
var (
	testNumbers = map[string]int{
		"+15005550001": 21211, "+15005550002": 21612, "+15005550003": 21408, "+15005550004": 21610, "+15005550009": 21614,
	}
	testSenders = map[string]int{"+15005550001": 21212, "+15005550007": 21606, "+15005550008": 21611}
)

// Numbers that begin so choose what becomes of them by how they end: mobile
// telephones in Spain, of which there are 5,000 to an ending. Those that begin with
// +346 are left to be nobody in particular.
const magicCountry = "+347"

// refusedEndings are those of numbers that are refused, the last four digits of
// the code.
var refusedEndings = map[string]int{
	"1211": 21211, "1408": 21408, "1610": 21610, "1611": 21611, "1612": 21612, "1614": 21614,
}

// ending is what a number of ours chooses by; empty for the rest.
func ending(number string) string {
	if !strings.HasPrefix(number, magicCountry) || len(number) != len("+34712345678") {
		return ""
	}
	return number[len(number)-4:]
}

// judgeText says why a request is refused, nil if it is not. err is why the form
// could not be read.
func (s *Sandbox) judgeText(r *http.Request, t *text, body string, err error) *answer {
	if !s.phones.admit(r) {
		return twilioNo(http.StatusUnauthorized, 20003)
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" || err != nil || strings.ContainsAny(body, deliveryMark+addressMark) {
		return twilioNo(http.StatusBadRequest, 90011)
	}
	code := checkText(t)
	if code == 0 && s.phones.isStopped(subscription{r.PathValue("account"), t.to}) {
		code = 21610
	}
	if code == 0 {
		return nil
	}
	return twilioNo(http.StatusBadRequest, code)
}

// checkText gives the code of the first thing that is wrong, 0 for none.
func checkText(t *text) int {
	switch {
	case t.to == "":
		return 21604
	case !e164.MatchString(t.to):
		return 21211
	case t.from == "" && t.service == "":
		return 21603
	case t.to == t.from:
		return 21266
	case t.body == "":
		return 21602
	case utf8.RuneCountInString(t.body) > maxTextLength:
		return 21617
	case t.service != "" && !serviceSID.MatchString(t.service):
		return 21701
	case t.from != "" && !validSender(t.from):
		return 21212
	case !validValidity(t.validity):
		return 90007
	case !validCallback(t.callback):
		return 21609
	}
	if code := testSenders[t.from]; code != 0 {
		return code
	}
	if code := testNumbers[t.to]; code != 0 {
		return code
	}
	return refusedEndings[ending(t.to)]
}

func validSender(from string) bool {
	return e164.MatchString(from) || shortCode.MatchString(from) || len(from) <= 11 && senderID.MatchString(from)
}

func validValidity(seconds string) bool {
	if seconds == "" {
		return true
	}
	n, err := strconv.Atoi(seconds)
	return err == nil && n >= 1 && n <= maxValidity
}

func validCallback(address string) bool {
	if address == "" {
		return true
	}
	u, err := url.Parse(address)
	return err == nil && len(address) <= maxCallbackLength && (u.Scheme == "http" || u.Scheme == "https") && hostName.MatchString(u.Host)
}

// gsm7 are the letters of an SMS of 160, and gsm7Extended those that take the room
// of two (3GPP TS 23.038).
const (
	gsm7 = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?" +
		"¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
	gsm7Extended = "\f^{}\\[~]|€"
)

// countSegments is how many SMS a text takes: 160 letters of GSM-7, 153 to each where
// they are several; where one letter is not among them 70 and 67 of UTF-16. What takes
// two places is not cut in two.
func countSegments(body string) int {
	var septets, units []int
	plain := true
	for _, c := range body {
		units = append(units, 1+min(int(c>>16), 1))
		switch {
		case strings.ContainsRune(gsm7, c):
			septets = append(septets, 1)
		case strings.ContainsRune(gsm7Extended, c):
			septets = append(septets, 2)
		default:
			plain = false
		}
	}
	letters, one, each := septets, 160, 153
	if !plain {
		letters, one, each = units, 70, 67
	}
	total, segments, room := 0, 1, each
	for _, places := range letters {
		total += places
		if room -= places; room < 0 {
			segments, room = segments+1, each-places
		}
	}
	if total <= one {
		return 1
	}
	return segments
}
