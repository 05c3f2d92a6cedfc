package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Twilio's default words, alone in a message and in any case.
var (
	stopWords  = []string{"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"}
	startWords = []string{"START", "YES", "UNSTOP"}
)

// inbound is an SMS from a person's phone. To is the number that it answers; where
// it is empty, the one that the last SMS to From was from.
type inbound struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Body    string `json:"body"`
	Account string `json:"account"`
}

// taken is what became of one.
type taken struct {
	MessageSID string `json:"message_sid"`
	// Stopped says whether the phone is now one that may not be sent to.
	Stopped bool `json:"stopped"`
	// Posted says whether the webhook took it, Error why not.
	Posted bool   `json:"posted"`
	Error  string `json:"error,omitempty"`
}

// adminInbound has a phone answer: {"from": "+34600000001", "body": "STOP"}. The
// account is that which called last, unless it is given.
func (s *Sandbox) adminInbound(w http.ResponseWriter, r *http.Request) {
	var in inbound
	err := readJSON(w, r, &in)
	if err == nil && (!e164.MatchString(in.From) || in.Body == "") {
		err = errors.New("from, body: want a telephone number such as +34600000001, and what it says")
	}
	if in.Account = s.phones.account(in.Account); err == nil && in.Account == "" {
		err = errors.New("account: none has called yet, so say which one is answered")
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, s.takeInbound(r, &in))
}

func (s *Sandbox) takeInbound(r *http.Request, in *inbound) taken {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails, crypto/rand says
	out := taken{MessageSID: "SM" + hex.EncodeToString(raw[:]), Stopped: s.phones.hear(in)}
	form := url.Values{
		"MessageSid": {out.MessageSID}, "SmsSid": {out.MessageSID}, "SmsMessageSid": {out.MessageSID}, "SmsStatus": {"received"},
		"AccountSid": {in.Account}, "From": {in.From}, "To": {in.To}, "Body": {in.Body}, "ApiVersion": {twilioVersion},
		"NumMedia": {"0"}, "NumSegments": {"1"},
	}
	if last, _ := s.store.find(exactly(sms, "", in.From), newest, 1); len(last) > 0 && in.To == "" {
		form.Set("To", last[0].From)
		if strings.HasPrefix(last[0].From, "MG") {
			form.Set("To", serviceNumber)
			form.Set("MessagingServiceSid", last[0].From)
		}
	}
	if s.phones.InboundURL == "" {
		out.Error = "nobody is told: the sandbox was started without an address for inbound messages"
		return out
	}
	post, address, err := twilioPost(r.Context(), s.phones.InboundURL, form)
	if err == nil {
		post.Header.Set(twilioSignature, signTwilio(s.phones.token(in.Account), address, form))
		err = deliver(s.smsEvents.client, post)
	}
	if out.Posted = err == nil; err != nil {
		out.Error = err.Error()
	}
	return out
}

// account is the one given, or else the only one there is, or the last that called.
func (p *phones) account(given string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, account := range []string{given, p.AccountSID, p.last} {
		if account != "" {
			return account
		}
	}
	return ""
}

// hear takes a person's word and says whether the account may not send to them now.
func (p *phones) hear(in *inbound) (stopped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who, word := subscription{in.Account, in.From}, strings.ToUpper(strings.TrimSpace(in.Body))
	for _, stop := range stopWords {
		if word == stop {
			p.stopped[who] = struct{}{}
		}
	}
	for _, start := range startWords {
		if word == start {
			delete(p.stopped, who)
		}
	}
	_, stopped = p.stopped[who]
	return stopped
}
