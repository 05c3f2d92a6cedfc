package sandbox

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // Twilio signs so
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// twilioPostsAtOnce keeps a target busy that commits each status by itself.
	twilioPostsAtOnce = 32
	twilioPostTimeout = 15 * time.Second
	// maxTwilioRetries is the most that an address can ask for.
	maxTwilioRetries = 5

	twilioSignature = "X-Twilio-Signature"
)

// statusCallbacks posts as Twilio's status callbacks do: each status of each message
// by itself, to the address that the message was sent with.
type statusCallbacks struct {
	phones *phones
}

func (h *statusCallbacks) letter(ctx context.Context, events []event, g guise) (*http.Request, error) {
	e := &events[0]
	in, _ := e.of.(*series)
	m := in.whole(int(e.i))
	form, _ := url.ParseQuery(m.body) // it could be read when it came
	t := readText(form)
	truth := callback(&m, &t, in.key(int(e.i)), e.step)
	told := truth
	if g != honest {
		told = callback(&m, &t, in.key(int(e.i)), falseStep(m.address))
	}
	token := h.phones.token(m.owner)
	r, address, err := twilioPost(ctx, t.callback, told)
	if err != nil {
		return nil, err
	}
	switch g {
	case honest:
		// The same at each attempt, and for both of a doubled one.
		r.Header.Set("I-Twilio-Idempotency-Token", in.key(int(e.i))+"-"+e.step.event)
		r.Header.Set(twilioSignature, signTwilio(token, address, told))
	case signedForAnother:
		r.Header.Set(twilioSignature, signTwilio(token, address, truth))
	case signedByAnother:
		r.Header.Set(twilioSignature, signTwilio(rand.Text(), address, told))
	case signedBadly:
		r.Header.Set(twilioSignature, "bm90IGEgc2lnbmF0dXJl")
	}
	return r, nil
}

// twilioPost makes an unsigned request, and says which address is to be signed: all
// but the fragment.
func twilioPost(ctx context.Context, target string, form url.Values) (*http.Request, string, error) {
	address, _, _ := strings.Cut(target, "#")
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, "", fmt.Errorf("make a post of Twilio's: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
	r.Header.Set("User-Agent", "TwilioProxy/1.1")
	return r, address, nil
}

// callback is what is posted of one step.
func callback(m *single, t *text, key string, s *step) url.Values {
	sid := "SM" + key
	form := url.Values{
		"MessageSid": {sid}, "SmsSid": {sid}, "MessageStatus": {s.event}, "SmsStatus": {s.event},
		"AccountSid": {m.owner}, "From": {t.number()}, "To": {t.to}, "ApiVersion": {twilioVersion},
	}
	if t.service != "" {
		form.Set("MessagingServiceSid", t.service)
	}
	if s.code != 0 {
		form.Set("ErrorCode", strconv.Itoa(s.code))
		form.Set("ErrorMessage", twilioReason(s.code))
	}
	if s.event == "delivered" || s.event == "undelivered" {
		form.Set("RawDlrDoneDate", m.at.Add(s.after).Format("0601021504"))
	}
	return form
}

// falseStep is what did not happen to the message to a number.
func falseStep(number string) *step {
	steps := smsCourse(number)
	if steps[len(steps)-1].code != 0 {
		return &forgedTextSteps[1]
	}
	return &forgedTextSteps[0]
}

// again follows Twilio: once more when there was no connection, unless the address
// says otherwise in its fragment, such as #rc=3&rp=ct,rt,5xx.
func (h *statusCallbacks) again(e *event, err error) bool {
	in, _ := e.of.(*series)
	m := in.whole(int(e.i))
	form, _ := url.ParseQuery(m.body)
	_, fragment, _ := strings.Cut(form.Get("StatusCallback"), "#")
	wishes, _ := url.ParseQuery(fragment)
	most, reasons := 1, "ct"
	if n, err := strconv.Atoi(wishes.Get("rc")); err == nil {
		most = min(n, maxTwilioRetries)
	}
	if wishes.Has("rp") {
		reasons = wishes.Get("rp")
	}
	why := reason(err)
	asked := func(r string) bool { return r == "all" || r == why }
	return int(e.tries) < most && slices.ContainsFunc(strings.Split(reasons, ","), asked)
}

// reason names a failure as Twilio's retry policies do.
func reason(err error) string {
	var refused *refusedError
	var dial *net.OpError
	switch {
	case errors.As(err, &refused) && refused.status >= 500:
		return "5xx"
	case errors.As(err, &refused):
		return "4xx"
	case errors.As(err, &dial) && dial.Op == "dial":
		return "ct"
	default:
		return "rt"
	}
}

// signTwilio signs the address followed by the fields in order of their names.
func signTwilio(token, address string, form url.Values) string {
	mac := hmac.New(sha1.New, []byte(token))
	_, _ = io.WriteString(mac, address)
	for _, name := range slices.Sorted(maps.Keys(form)) {
		_, _ = io.WriteString(mac, name+form.Get(name))
	}
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// lines writes a form for a person, a field to a line.
func lines(body string) string {
	form, _ := url.ParseQuery(body) // it could be read when it came
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(form)) {
		for _, value := range form[name] {
			fmt.Fprintf(&out, "%s: %s\n", name, value)
		}
	}
	return out.String()
}
