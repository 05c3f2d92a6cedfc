package sandbox

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"
)

const (
	sendgrid = "sendgrid"
	email    = "email"
	// maxMailBytes is SendGrid's 30 MB for a request, read as the smaller of the
	// two sizes that the words can mean.
	maxMailBytes = 30_000_000
	errorsPage   = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html"
)

// sgMail is the body of POST /v3/mail/send, as far as it is checked or shown.
type sgMail struct {
	Personalizations []sgPersonalization `json:"personalizations,omitempty"`
	From             *sgAddress          `json:"from,omitempty"`
	ReplyTo          *sgAddress          `json:"reply_to,omitempty"`
	Subject          string              `json:"subject,omitempty"`
	Content          []sgContent         `json:"content,omitempty"`
	TemplateID       string              `json:"template_id,omitempty"`
	Headers          map[string]string   `json:"headers,omitempty"`
	Categories       []string            `json:"categories,omitempty"`
	CustomArgs       map[string]string   `json:"custom_args,omitempty"`
	SendAt           *int64              `json:"send_at,omitempty"`
}

type sgPersonalization struct {
	To            []sgAddress       `json:"to,omitempty"`
	CC            []sgAddress       `json:"cc,omitempty"`
	BCC           []sgAddress       `json:"bcc,omitempty"`
	Subject       string            `json:"subject,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	Substitutions map[string]string `json:"substitutions,omitempty"`
	CustomArgs    map[string]string `json:"custom_args,omitempty"`
	SendAt        *int64            `json:"send_at,omitempty"`
}

type sgAddress struct {
	Email string `json:"email"`
	Name  string `json:"name,omitempty"`
}

type sgContent struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// arg is a custom argument as it holds for p: its own, else the message's.
func (m *sgMail) arg(p *sgPersonalization, name string) string {
	if v, ok := p.CustomArgs[name]; ok {
		return v
	}
	return m.CustomArgs[name]
}

// callID is the message's call id, else that of its first personalization.
func (m *sgMail) callID() string {
	if len(m.Personalizations) > 0 && m.CustomArgs["call"] == "" {
		return m.arg(&m.Personalizations[0], "call")
	}
	return m.CustomArgs["call"]
}

func (m *sgMail) recipients() int {
	n := 0
	for i := range m.Personalizations {
		p := &m.Personalizations[i]
		n += len(p.To) + len(p.CC) + len(p.BCC)
	}
	return n
}

// sgError is one entry of SendGrid's error answer.
type sgError struct {
	Message string  `json:"message"`
	Field   *string `json:"field"`
	Help    *string `json:"help"`
}

// refusal is an answer that accepts nothing.
type refusal struct {
	status int
	errors []sgError
}

func refuse(status int, message string) *refusal {
	return &refusal{status: status, errors: []sgError{{Message: message}}}
}

func (r *refusal) body() []byte {
	// Two string fields and a list of them always marshal.
	body, _ := json.Marshal(struct {
		Errors []sgError `json:"errors"`
		ID     string    `json:"id"`
	}{r.errors, newMessageID()})
	return body
}

// answer is nil of a nil refusal.
func (r *refusal) answer() *answer {
	if r == nil {
		return nil
	}
	return &answer{status: r.status, contentType: "application/json", body: r.body(), note: r.sentence()}
}

// sentence is the first error in words, for the list of calls.
func (r *refusal) sentence() string {
	first := r.errors[0]
	if first.Field == nil {
		return first.Message
	}
	return *first.Field + ": " + first.Message
}

func (s *Sandbox) routeSendGrid(mux *http.ServeMux) {
	mux.HandleFunc("POST /v3/mail/send", s.sendMail)
	mux.HandleFunc("POST /v3/logs", s.searchLogs)
	mux.HandleFunc("GET /v3/logs/{id}", s.readLog)
	mux.HandleFunc("/v3/mail/send", sendgridRefuses(http.StatusMethodNotAllowed, "method not allowed"))
	mux.HandleFunc("/v3/logs", sendgridRefuses(http.StatusMethodNotAllowed, "method not allowed"))
	mux.HandleFunc("/v3/", sendgridRefuses(http.StatusNotFound, "not found"))
}

func sendgridRefuses(status int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answerRefusal(w, refuse(status, message)) }
}

func answerRefusal(w http.ResponseWriter, r *refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body()) // a client that left is not an error of ours
}

// sendMail takes one call. What it would have been answered is worked out
// first; then a fault may answer something else.
func (s *Sandbox) sendMail(w http.ResponseWriter, r *http.Request) {
	x, buf, ok := s.open(w, r, sendgrid, email, maxMailBytes, sendgridFailure)
	if !ok {
		return
	}
	defer s.release(buf)
	m, no := s.judge(r, buf.Bytes())
	recipients := 0
	if m != nil {
		recipients = m.recipients()
		x.describe(m.callID(), recipients)
	}
	x.end(no.answer(), recipients, func() answer {
		messageID := newMessageID()
		w.Header().Set("X-Message-Id", messageID)
		b := newBatch(messageID, m)
		s.store.accept(x.n, b)
		s.mailEvents.report(r.Context(), b, 0, b.size())
		return answer{status: http.StatusAccepted}
	})
}

func sendgridFailure(status int) []byte {
	return refuse(status, strings.ToLower(http.StatusText(status))).body()
}

// judge reads and checks a request: what was sent, as far as it can be read,
// and why it is refused, nil if it is not.
func (s *Sandbox) judge(r *http.Request, body []byte) (*sgMail, *refusal) {
	m := new(sgMail)
	err := json.Unmarshal(body, m)
	var wrongType *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &wrongType) {
		m = nil
	}
	if no := s.checkKey(r); no != nil {
		return m, no
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return m, refuse(http.StatusUnsupportedMediaType, "Content-Type should be application/json.")
	}
	switch {
	case wrongType != nil:
		return m, refuseType(body, wrongType)
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "Bad Request")
	}
	if errs := checkMail(m, s.faults.rejectList(), time.Now()); len(errs) > 0 {
		return m, &refusal{status: http.StatusBadRequest, errors: errs}
	}
	return m, nil
}

func (s *Sandbox) checkKey(r *http.Request) *refusal {
	key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if key = strings.TrimSpace(key); !bearer || key == "" {
		return refuse(http.StatusUnauthorized, "authorization required")
	}
	if s.config.APIKey != "" && key != s.config.APIKey {
		return refuse(http.StatusUnauthorized, "The provided authorization grant is invalid, expired, or revoked")
	}
	return nil
}

// refuseType names the field of a wrong JSON type. encoding/json leaves out
// array indexes, so the personalization is looked for anew.
func refuseType(body []byte, wrong *json.UnmarshalTypeError) *refusal {
	field := wrong.Field
	var outer struct {
		Personalizations []json.RawMessage `json:"personalizations"`
	}
	if strings.HasPrefix(field, "personalizations") && json.Unmarshal(body, &outer) == nil {
		for i, raw := range outer.Personalizations {
			var inner *json.UnmarshalTypeError
			if errors.As(json.Unmarshal(raw, new(sgPersonalization)), &inner) {
				field = strings.TrimSuffix(fmt.Sprintf("personalizations.%d.%s", i, inner.Field), ".")
				break
			}
		}
	}
	given, _, _ := strings.Cut(wrong.Value, " ")
	c := checker{}
	c.bad(field, "", "Invalid type. Expected: %s, given: %s.", jsonKind(wrong.Type), given)
	return &refusal{status: http.StatusBadRequest, errors: c.errs}
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Slice:
		return "array"
	case reflect.Int64:
		return "integer"
	case reflect.Bool:
		return "boolean"
	default:
		return "object"
	}
}

// newMessageID is 22 characters without a dot, as SendGrid's are.
func newMessageID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand says
	return base64.RawURLEncoding.EncodeToString(b[:])
}
