package sandbox

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	twilio = "twilio"
	sms    = "sms"
	// maxFormBytes holds 1,600 characters of any script, written as a form, and all else.
	maxFormBytes  = 1 << 20
	twilioVersion = "2010-04-01"
	twilioErrors  = "https://www.twilio.com/docs/errors/"
	// serviceNumber is what a messaging service of the sandbox sends from.
	serviceNumber = "+15005550006"
)

// Twilio says who may send SMS and where people's answers go.
type Twilio struct {
	// AccountSID and AuthToken are the only ones accepted, and the token signs the
	// posts. Empty: any, and posts are signed with what the account showed last.
	AccountSID, AuthToken string
	// InboundURL is posted to when a phone answers, such as
	// http://127.0.0.1:8080/webhooks/twilio. Empty: nobody is told.
	InboundURL string
}

// phones is what Twilio knows beside the messages.
type phones struct {
	Twilio

	mu     sync.Mutex
	tokens map[string]string // of the accounts that have called
	last   string            // the account that called last
	// stopped are those who want no SMS from an account any more.
	stopped map[subscription]struct{}
}

// subscription is what a person who answers STOP ends.
type subscription struct{ account, number string }

func newPhones(config Twilio) *phones {
	return &phones{Twilio: config, tokens: map[string]string{}, stopped: map[subscription]struct{}{}}
}

// token signs what is posted to an account.
func (p *phones) token(account string) string {
	if p.AuthToken != "" {
		return p.AuthToken
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tokens[account]
}

// admit says whether a call comes from the account that its path names.
func (p *phones) admit(r *http.Request) bool {
	account, token, given := r.BasicAuth()
	if !given || token == "" || account == "" || account != r.PathValue("account") {
		return false
	}
	if p.AccountSID != "" && account != p.AccountSID || p.AuthToken != "" && token != p.AuthToken {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens[account], p.last = token, account
	return true
}

func (p *phones) isStopped(s subscription) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, stopped := p.stopped[s]
	return stopped
}

// text is a request to send one, as far as it is checked or shown.
type text struct {
	to, from, service, body string
	callback                string
	validity                string
}

func readText(form url.Values) text {
	return text{
		to: form.Get("To"), from: form.Get("From"), service: form.Get("MessagingServiceSid"), body: form.Get("Body"),
		callback: form.Get("StatusCallback"), validity: form.Get("ValidityPeriod"),
	}
}

// ids are the delivery and the call that the callback's address names.
func (t *text) ids() (delivery, call string) {
	_, query, _ := strings.Cut(t.callback, "?")
	query, _, _ = strings.Cut(query, "#")
	values, _ := url.ParseQuery(query) // what can be read of it
	return values.Get("delivery"), values.Get("call")
}

// number is who an SMS comes from once it has been sent.
func (t *text) number() string { return cmp.Or(t.from, serviceNumber) }

// twilioMessage is a Message as Twilio writes it.
type twilioMessage struct {
	AccountSID          string            `json:"account_sid"`
	APIVersion          string            `json:"api_version"`
	Body                string            `json:"body"`
	DateCreated         string            `json:"date_created"`
	DateSent            *string           `json:"date_sent"`
	DateUpdated         string            `json:"date_updated"`
	Direction           string            `json:"direction"`
	ErrorCode           *int              `json:"error_code"`
	ErrorMessage        *string           `json:"error_message"`
	From                *string           `json:"from"`
	MessagingServiceSID *string           `json:"messaging_service_sid"`
	NumMedia            string            `json:"num_media"`
	NumSegments         string            `json:"num_segments"`
	Price               *string           `json:"price"`
	PriceUnit           string            `json:"price_unit"`
	SID                 string            `json:"sid"`
	Status              string            `json:"status"`
	SubresourceURIs     map[string]string `json:"subresource_uris"`
	To                  string            `json:"to"`
	URI                 string            `json:"uri"`
}

// resource writes an SMS as it is at a time.
func resource(e *single, key string, now time.Time) twilioMessage {
	form, _ := url.ParseQuery(e.body) // it could be read when it came
	t := readText(form)
	sid := "SM" + key
	uri := accountURI(e.owner) + "/Messages/" + sid
	state := smsStatus(e, &t, now)
	m := twilioMessage{
		AccountSID: e.owner, APIVersion: twilioVersion, Body: t.body, Direction: "outbound-api", To: t.to,
		DateCreated: twilioTime(e.at), DateUpdated: twilioTime(state.since), NumMedia: "0", PriceUnit: "USD",
		SID: sid, Status: state.name, URI: uri + ".json", SubresourceURIs: map[string]string{"media": uri + "/Media.json"},
		NumSegments: strconv.Itoa(countSegments(t.body)), From: optional(t.number()), MessagingServiceSID: optional(t.service),
	}
	if state.name == "accepted" { // no sender has been chosen
		m.From, m.NumSegments = nil, "0"
	}
	if state.left {
		sent := twilioTime(state.since)
		m.DateSent = &sent
	}
	if state.code != 0 {
		m.ErrorCode, m.ErrorMessage = &state.code, optional(twilioReason(state.code))
	}
	return m
}

// texted is an SMS as a person looks at it.
func texted(e *single, key string) Message {
	form, _ := url.ParseQuery(e.body)
	t := readText(form)
	_, call := t.ids()
	state := smsStatus(e, &t, time.Now())
	return Message{
		Channel: sms, ID: "SM" + key, Call: call, Delivery: e.delivery, At: e.at,
		From: cmp.Or(t.service, t.from), To: e.address, Text: t.body,
		Status: state.name, ErrorCode: state.code, Segments: countSegments(t.body),
	}
}

func accountURI(account string) string { return "/" + twilioVersion + "/Accounts/" + account }

func twilioTime(t time.Time) string { return t.UTC().Format(time.RFC1123Z) }

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (s *Sandbox) routeTwilio(mux *http.ServeMux) {
	const list = "/" + twilioVersion + "/Accounts/{account}/Messages.json"
	mux.HandleFunc("POST "+list, s.sendText)
	mux.HandleFunc("GET "+list, s.listTexts)
	mux.HandleFunc("GET /"+twilioVersion+"/Accounts/{account}/Messages/{sid}", s.fetchText)
	mux.HandleFunc(list, twilioRefuses(http.StatusMethodNotAllowed, 20004))
	mux.HandleFunc("/"+twilioVersion+"/", twilioRefuses(http.StatusNotFound, 20404))
}

func twilioRefuses(status, code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answerTwilio(w, twilioNo(status, code)) }
}

func answerTwilio(w http.ResponseWriter, a *answer) {
	w.Header().Set("Content-Type", a.contentType)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that left is not an error of ours
}

// twilioNo is a refusal in Twilio's shape.
func twilioNo(status, code int) *answer {
	reason := twilioReason(code)
	body, _ := json.Marshal(struct { // numbers and texts always marshal
		Code     int    `json:"code"`
		Message  string `json:"message"`
		MoreInfo string `json:"more_info"`
		Status   int    `json:"status"`
	}{code, reason, twilioErrors + strconv.Itoa(code), status})
	return &answer{status: status, contentType: "application/json", body: body, note: strconv.Itoa(code) + " " + reason}
}

// twilioFailure is how Twilio words a status that no rule of its own led to.
func twilioFailure(status int) []byte {
	code := 20000 + status
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		code = 20003
	}
	return twilioNo(status, code).body
}

// sendText takes one call. What it would have been answered is worked out first;
// then a fault may answer something else.
func (s *Sandbox) sendText(w http.ResponseWriter, r *http.Request) {
	x, buf, ok := s.open(w, r, twilio, sms, maxFormBytes, twilioFailure)
	if !ok {
		return
	}
	defer s.release(buf)
	e := single{kind: 's', owner: r.PathValue("account"), body: buf.String()}
	form, err := url.ParseQuery(e.body)
	t := readText(form)
	var call string
	e.address = t.to
	e.delivery, call = t.ids()
	x.describe(call, 1)
	no := s.judgeText(r, &t, e.body, err)
	x.end(no, 1, func() answer {
		in, i := s.store.acceptSingle(x.n, &e)
		if t.callback != "" {
			s.smsEvents.report(r.Context(), in, i, i+1)
		}
		body, _ := json.Marshal(resource(&e, in.key(i), e.at)) // texts always marshal
		return answer{status: http.StatusCreated, contentType: "application/json", body: body}
	})
}
