package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Limits of the Email Logs search (SendGrid's tsg_logs_v3 description).
const (
	defaultLogLimit = 10
	maxLogLimit     = 1000
	maxLogBody      = 64 << 10
)

// processed is the only status there is: the sandbox takes mail and delivers none.
const processed = "processed"

// logMessage is one entry of a search; logDetail is one message in full. Names
// are the provider's, "category" in the singular included.
type logMessage struct {
	FromEmail string    `json:"from_email"`
	ID        string    `json:"sg_message_id"`
	Subject   string    `json:"subject"`
	ToEmail   string    `json:"to_email"`
	Status    string    `json:"status"`
	CreatedAt time.Time `json:"sg_message_id_created_at"`
}

type logDetail struct {
	FromEmail  string            `json:"from_email"`
	ID         string            `json:"sg_message_id"`
	Subject    string            `json:"subject"`
	ToEmail    string            `json:"to_email"`
	Status     string            `json:"status"`
	TemplateID string            `json:"template_id,omitempty"`
	APIKeyID   string            `json:"api_key_id"`
	ClientIP   string            `json:"client_ip"`
	Category   []string          `json:"category"`
	CustomArgs map[string]string `json:"custom_args"`
	Events     []logEvent        `json:"events"`
}

type logEvent struct {
	Event      string            `json:"event"`
	Email      string            `json:"email"`
	ID         string            `json:"sg_message_id"`
	EventID    string            `json:"sg_event_id"`
	Timestamp  int64             `json:"timestamp"`
	SMTPID     string            `json:"smtp-id"`
	Category   []string          `json:"category"`
	CustomArgs map[string]string `json:"custom_args"`
}

func (s *Sandbox) searchLogs(w http.ResponseWriter, r *http.Request) {
	if !s.logsAnswer(w, r) {
		return
	}
	request := struct {
		Query string `json:"query"`
		Limit *int   `json:"limit"`
	}{}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLogBody)).Decode(&request); err != nil {
		answerRefusal(w, refuse(http.StatusBadRequest, "Bad Request"))
		return
	}
	limit := defaultLogLimit
	if request.Limit != nil {
		limit = *request.Limit
	}
	query, err := parseLogQuery(request.Query)
	c := &checker{}
	if err != nil {
		c.bad("query", "", "invalid query: %v", err)
	}
	if limit < 1 || limit > maxLogLimit {
		c.bad("limit", "", "limit must be between 1 and %d", maxLogLimit)
	}
	if len(c.errs) > 0 {
		answerRefusal(w, &refusal{status: http.StatusBadRequest, errors: c.errs})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"messages": s.store.search(query, s.logsUntil(), limit)})
}

func (s *Sandbox) readLog(w http.ResponseWriter, r *http.Request) {
	if !s.logsAnswer(w, r) {
		return
	}
	b, i := s.store.locate(r.PathValue("id"))
	if b == nil || b.at.After(s.logsUntil()) {
		answerRefusal(w, refuse(http.StatusNotFound, "message not found"))
		return
	}
	m := b.message(i)
	writeJSON(w, http.StatusOK, logDetail{
		FromEmail: m.From, ID: m.ID, Subject: m.Subject, ToEmail: m.To, Status: processed,
		TemplateID: m.TemplateID, APIKeyID: "sandbox", ClientIP: "127.0.0.1",
		Category: m.Categories, CustomArgs: m.CustomArgs,
		Events: []logEvent{{
			Event: processed, Email: m.To, ID: m.ID, Timestamp: m.At.Unix(),
			EventID:  base64.RawURLEncoding.EncodeToString([]byte(processed + "-" + m.ID)),
			SMTPID:   "<" + b.messageID + "@sandbox>",
			Category: m.Categories, CustomArgs: m.CustomArgs,
		}},
	})
}

// logsAnswer says whether a look-up may go on; if not, it has been answered.
func (s *Sandbox) logsAnswer(w http.ResponseWriter, r *http.Request) bool {
	switch s.faults.down(sendgrid) {
	case DownClose:
		panic(http.ErrAbortHandler)
	case DownUnavailable:
		answerRefusal(w, refuse(http.StatusServiceUnavailable, "service not available"))
		return false
	}
	if no := s.checkKey(r); no != nil {
		answerRefusal(w, no)
		return false
	}
	logs := s.faults.logs()
	switch {
	case logs.Mode == LogsFailing:
		answerRefusal(w, refuse(http.StatusInternalServerError, "internal server error"))
	case logs.Mode == LogsOff && logs.Status == http.StatusNotFound:
		answerRefusal(w, refuse(http.StatusNotFound, "not found"))
	case logs.Mode == LogsOff:
		answerRefusal(w, refuse(http.StatusForbidden, "access forbidden"))
	default:
		return true
	}
	return false
}

// logsUntil is the time up to which messages have reached the logs.
func (s *Sandbox) logsUntil() time.Time {
	return time.Now().Add(-time.Duration(s.faults.logs().Lag))
}

// locate finds the message with a provider id; nil if there is none.
func (st *store) locate(id string) (*batch, int) {
	messageID, i, ok := splitID(id)
	if !ok {
		return nil, 0
	}
	for _, b := range st.snapshot(messageID, nil) {
		if i < b.size() {
			return b, i
		}
	}
	return nil, 0
}

// search gives matching messages accepted up to until, newest first.
func (st *store) search(q logQuery, until time.Time, limit int) []logMessage {
	out := []logMessage{}
	messageID, _, _ := splitID(q.id)
	for _, b := range slices.Backward(st.snapshot(messageID, q.categories)) {
		if b.at.After(until) || !q.matchesBatch(b) {
			continue
		}
		for i := b.size() - 1; i >= 0; i-- {
			if !q.matches(b, i) {
				continue
			}
			r := b.recipient(i)
			from := r.from
			if from == "" {
				from = b.shared.From.Email
			}
			out = append(out, logMessage{
				FromEmail: from, ID: b.id(i), Subject: b.subject(&r),
				ToEmail: r.email, Status: processed, CreatedAt: b.at,
			})
			if len(out) == limit {
				return out
			}
		}
	}
	return out
}

// logQuery is a parsed search: every condition that is set must hold.
type logQuery struct {
	id, to, subject string
	categories      []string
	statuses        []string
	reason          bool // asked for; no message has one
	created         []createdAt
}

type createdAt struct {
	op string
	at time.Time
}

func (q *logQuery) matchesBatch(b *batch) bool {
	if q.reason || q.statuses != nil && !slices.Contains(q.statuses, processed) {
		return false
	}
	any := func(c string) bool { return slices.Contains(b.shared.Categories, c) }
	if q.categories != nil && !slices.ContainsFunc(q.categories, any) {
		return false
	}
	for _, c := range q.created {
		order := b.at.Compare(c.at)
		holds := c.op == ">" && order > 0 || c.op == ">=" && order >= 0 ||
			c.op == "<" && order < 0 || c.op == "<=" && order <= 0
		if !holds {
			return false
		}
	}
	return true
}

func (q *logQuery) matches(b *batch, i int) bool {
	if q.id != "" && q.id != b.id(i) {
		return false
	}
	if to, _ := b.who(i); q.to != "" && !strings.EqualFold(q.to, to) {
		return false
	}
	if q.subject == "" {
		return true
	}
	r := b.recipient(i)
	return q.subject == b.subject(&r)
}

// parseLogQuery reads conditions joined by AND:
//
//	sg_message_id = "x"  to_email = "x"  subject = "x"  reason = "x"
//	categories IN ("x", "y")  status IN ("x")
//	sg_message_id_created_at >= TIMESTAMP "2026-01-02T15:04:05Z"   (also > < <=)
//
// Quotes are single or double. Anything else is an error that says where.
func parseLogQuery(text string) (logQuery, error) {
	var q logQuery
	words, err := splitQuery(text)
	if err != nil || len(words) == 0 {
		return q, err
	}
	for {
		if words, err = q.condition(words); err != nil {
			return q, err
		}
		if len(words) == 0 {
			return q, nil
		}
		if !strings.EqualFold(words[0], "AND") {
			return q, fmt.Errorf("want AND, found %s", words[0])
		}
		words = words[1:]
	}
}

// condition takes one condition off the front of words.
func (q *logQuery) condition(words []string) ([]string, error) {
	if len(words) < 3 {
		return nil, fmt.Errorf("want a field, an operator and a value at the end")
	}
	field, op, rest := words[0], strings.ToUpper(words[1]), words[2:]
	switch {
	case field == "sg_message_id_created_at" && slices.Contains([]string{"<", "<=", ">", ">="}, op):
		if len(rest) < 2 || !strings.EqualFold(rest[0], "TIMESTAMP") {
			return nil, fmt.Errorf("%s: want TIMESTAMP and a quoted time", field)
		}
		at, err := time.Parse(time.RFC3339, unquoted(rest[1]))
		q.created = append(q.created, createdAt{op: op, at: at})
		return rest[2:], err
	case field == "categories" && op == "IN":
		return listOf(&q.categories, rest)
	case field == "status" && op == "IN":
		return listOf(&q.statuses, rest)
	}
	one := map[string]*string{"sg_message_id": &q.id, "to_email": &q.to, "subject": &q.subject, "reason": new(string)}[field]
	if one == nil || op != "=" {
		return nil, fmt.Errorf("the field %s does not exist or does not take %s", field, op)
	}
	if *one = unquoted(rest[0]); *one == "" {
		return nil, fmt.Errorf("%s: want a quoted value", field)
	}
	q.reason = q.reason || field == "reason"
	return rest[1:], nil
}

// listOf takes ("a", "b") off the front of words.
func listOf(out *[]string, words []string) ([]string, error) {
	if words[0] != "(" {
		return nil, fmt.Errorf("IN: want a list in brackets")
	}
	for i := 1; i+1 < len(words); i += 2 {
		value := unquoted(words[i])
		if value == "" {
			break
		}
		*out = append(*out, value)
		if words[i+1] == ")" {
			return words[i+2:], nil
		}
		if words[i+1] != "," {
			break
		}
	}
	return nil, fmt.Errorf("IN: want quoted values, commas and a closing bracket")
}

// unquoted gives the text of a quoted word, and nothing for any other.
func unquoted(word string) string {
	if word[0] != '"' && word[0] != '\'' {
		return ""
	}
	return word[1 : len(word)-1]
}

// splitQuery cuts a query into names, operators, brackets, commas and quoted
// values, which keep their quotes.
func splitQuery(text string) ([]string, error) {
	var words []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		n := 1
		switch c := text[0]; {
		case c == '"' || c == '\'':
			end := strings.IndexByte(text[1:], c)
			if end < 0 {
				return nil, fmt.Errorf("a quote is not closed")
			}
			n = end + 2
		case c == '<' || c == '>':
			if strings.HasPrefix(text[1:], "=") {
				n = 2
			}
		case strings.IndexByte("(),=", c) < 0:
			if n = strings.IndexAny(text, " \t\r\n(),=<>'\""); n < 0 {
				n = len(text)
			}
		}
		words = append(words, text[:n])
		text = text[n:]
	}
	return words, nil
}
