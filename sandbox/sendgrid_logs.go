package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
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

// processed is the only status that the logs know: what becomes of a message after
// that, only the webhooks tell.
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
	logMessage
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
	writeJSON(w, http.StatusOK, map[string]any{"messages": s.store.search(query, s.faults.logsUntil(sendgrid), limit)})
}

func (s *Sandbox) readLog(w http.ResponseWriter, r *http.Request) {
	if !s.logsAnswer(w, r) {
		return
	}
	b, i := s.store.locate(r.PathValue("id"))
	if b == nil || b.at.After(s.faults.logsUntil(sendgrid)) {
		answerRefusal(w, refuse(http.StatusNotFound, "message not found"))
		return
	}
	m := b.message(i)
	writeJSON(w, http.StatusOK, logDetail{
		logMessage: logEntry(b, i),
		TemplateID: m.TemplateID, APIKeyID: "sandbox", ClientIP: "127.0.0.1",
		Category: m.Categories, CustomArgs: m.CustomArgs,
		Events: []logEvent{{
			Event: processed, Email: m.To, ID: m.ID, Timestamp: m.At.Unix(),
			EventID:  base64.RawURLEncoding.EncodeToString([]byte(processed + "-" + m.ID)),
			SMTPID:   b.smtpID(),
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
	status, failing := s.faults.logsFail(w, sendgrid)
	switch {
	case !failing:
		return true
	case status == http.StatusForbidden:
		answerRefusal(w, refuse(status, "access forbidden"))
	default:
		answerRefusal(w, refuse(status, strings.ToLower(http.StatusText(status))))
	}
	return false
}

// locate finds the message with a provider id; nil if there is none.
func (st *store) locate(id string) (*batch, int) {
	messageID, i, ok := splitID(id)
	if !ok {
		return nil, 0
	}
	for _, b := range st.mails(messageID, nil) {
		if i < b.size() {
			return b, i
		}
	}
	return nil, 0
}

func logEntry(b *batch, i int) logMessage {
	r := b.recipient(i)
	return logMessage{
		FromEmail: b.shared.From.Email, ID: b.id(i), Subject: b.subject(&r),
		ToEmail: r.email, Status: processed, CreatedAt: b.at,
	}
}

// search gives matching messages accepted up to until, newest first.
func (st *store) search(q logQuery, until time.Time, limit int) []logMessage {
	out := []logMessage{}
	messageID, _, _ := splitID(q.id)
	for _, b := range slices.Backward(st.mails(messageID, q.categories)) {
		if b.at.After(until) || !q.matchesBatch(b) {
			continue
		}
		for i := b.size() - 1; i >= 0 && len(out) < limit; i-- {
			if q.matches(b, i) {
				out = append(out, logEntry(b, i))
			}
		}
	}
	return out
}

// logQuery is a parsed search: every condition that is set must hold.
type logQuery struct {
	id, to     string
	categories []string
	times      []timeCondition
}

// timeCondition compares the time at which a message was created.
type timeCondition struct {
	operator string
	at       time.Time
}

func (c timeCondition) holds(created time.Time) bool {
	switch c.operator {
	case "<":
		return created.Before(c.at)
	case "<=":
		return !created.After(c.at)
	case ">":
		return created.After(c.at)
	default:
		return !created.Before(c.at)
	}
}

func (q *logQuery) matchesBatch(b *batch) bool {
	for _, condition := range q.times {
		if !condition.holds(b.at) {
			return false
		}
	}
	has := func(c string) bool { return slices.Contains(b.shared.Categories, c) }
	return q.categories == nil || slices.ContainsFunc(q.categories, has)
}

func (q *logQuery) matches(b *batch, i int) bool {
	to, _ := b.who(i)
	return (q.id == "" || q.id == b.id(i)) && (q.to == "" || strings.EqualFold(q.to, to))
}

// parseLogQuery reads the conditions that the sandbox knows, joined by AND, with
// single or double quotes; SendGrid knows more (subject, status, reason).
//
//	sg_message_id = "x"    to_email = "x"    categories IN ("x", "y")
//	sg_message_id_created_at > TIMESTAMP "2026-01-31T08:00:00Z"    (or < <= >=)
func parseLogQuery(text string) (logQuery, error) {
	const quoted = `("[^"]+"|'[^']+')`
	condition := regexp.MustCompile(`^\s*(?:(sg_message_id|to_email)\s*=\s*` + quoted +
		`|categories\s+(?i:IN)\s*\(\s*(` + quoted + `(?:\s*,\s*` + quoted + `)*)\s*\)` +
		`|sg_message_id_created_at\s*(<=?|>=?)\s*(?i:TIMESTAMP)\s*` + quoted + `)\s*(?:$|(?i:AND)\s+)`)
	value := regexp.MustCompile(quoted)
	var q logQuery
	for rest := strings.TrimSpace(text); rest != ""; {
		found := condition.FindStringSubmatch(rest)
		if found == nil {
			return q, errors.New(`want sg_message_id = "...", to_email = "...", categories IN ("...") or sg_message_id_created_at > TIMESTAMP "...", joined by AND; the sandbox knows no other`)
		}
		switch {
		case found[1] == "sg_message_id":
			q.id = unquoted(found[2])
		case found[1] == "to_email":
			q.to = unquoted(found[2])
		case found[6] != "":
			at, err := time.Parse(time.RFC3339, unquoted(found[7]))
			if err != nil {
				return q, errors.New(`a TIMESTAMP is written like "2026-01-31T08:00:00Z"`)
			}
			q.times = append(q.times, timeCondition{operator: found[6], at: at})
		default:
			for _, v := range value.FindAllString(found[3], -1) {
				q.categories = append(q.categories, unquoted(v))
			}
		}
		rest = rest[len(found[0]):]
	}
	return q, nil
}

func unquoted(value string) string { return value[1 : len(value)-1] }
