package sandbox_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

type logged struct {
	Messages []struct {
		FromEmail string    `json:"from_email"`
		ID        string    `json:"sg_message_id"`
		Subject   string    `json:"subject"`
		ToEmail   string    `json:"to_email"`
		Status    string    `json:"status"`
		CreatedAt time.Time `json:"sg_message_id_created_at"`
	} `json:"messages"`
}

func (s *server) search(body any) logged {
	s.t.Helper()
	a := s.call(http.MethodPost, "/v3/logs", body)
	require.Equal(s.t, http.StatusOK, a.status, string(a.body))
	var got logged
	a.into(s.t, &got)
	return got
}

func TestLogSearch(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	ids := map[string]string{}
	for _, call := range []string{"call-a", "call-b", "call-c"} {
		m := mail(12)
		m["categories"] = []any{call, "every"}
		ids[call] = s.send(m).header.Get("X-Message-Id") + ".recvd-sandbox.4"
	}
	tests := []struct {
		name, query string
		limit, want int
	}{
		{"everything", ``, 1000, 36},
		{"one category", `categories IN ("call-a")`, 1000, 12},
		{"single quotes", `categories IN ('call-a')`, 1000, 12},
		{"two categories", `categories in ("call-a" , "call-c")`, 1000, 24},
		{"category of all", `categories IN ("every")`, 1000, 36},
		{"unknown category", `categories IN ("call-z")`, 1000, 0},
		{"limit", `categories IN ("every")`, 5, 5},
		{"address", `to_email = "reader-3@readers.example"`, 1000, 3},
		{"address in other case", `to_email="READER-3@readers.example"`, 1000, 3},
		{"id", `sg_message_id = "` + ids["call-b"] + `"`, 1000, 1},
		{"unknown id", `sg_message_id = "nothing"`, 1000, 0},
		{"AND", `to_email = "reader-3@readers.example" AND categories IN ("call-b")`, 1000, 1},
		{"created after", `categories IN ('call-a') AND sg_message_id_created_at > TIMESTAMP "2020-01-31T08:00:00Z"`, 1000, 12},
		{"created before", `sg_message_id_created_at < TIMESTAMP "2020-01-31T08:00:00Z"`, 1000, 0},
		{"created between", `sg_message_id_created_at >= TIMESTAMP "2020-01-31T08:00:00Z" AND sg_message_id_created_at<=TIMESTAMP '2999-01-31T08:00:00+01:00'`, 1000, 36},
		{"AND that contradicts", `sg_message_id = "` + ids["call-b"] + `" AND categories IN ("call-a")`, 1000, 0},
	}
	for _, tt := range tests {
		require.Len(t, s.search(object{"query": tt.query, "limit": tt.limit}).Messages, tt.want, tt.name)
	}
	require.Len(t, s.search(object{"query": `categories IN ("every")`}).Messages, 10, "the limit is 10 unless told")

	got := s.search(object{"query": `sg_message_id = "` + ids["call-b"] + `"`}).Messages[0]
	require.Equal(t, ids["call-b"], got.ID)
	require.Equal(t, "news@fanfare.example", got.FromEmail)
	require.Equal(t, "reader-4@readers.example", got.ToEmail)
	require.Equal(t, "A new article", got.Subject)
	require.Equal(t, "processed", got.Status)
	require.WithinDuration(t, time.Now(), got.CreatedAt, time.Minute)
}

func TestLogSearchRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, body := range []any{
		object{"query": `custom_args = "x"`},
		object{"query": `to_email "x"`},
		object{"query": `to_email = "x" OR to_email = "y"`},
		object{"query": `to_email = "x" to_email = "y"`},
		object{"query": `to_email = "x`},
		object{"query": `categories = "x"`},
		object{"query": `categories IN ()`},
		object{"query": `categories IN ("x"`},
		object{"query": `sg_message_id_created_at > TIMESTAMP "yesterday"`},
		object{"query": `sg_message_id_created_at = TIMESTAMP "2020-01-31T08:00:00Z"`},
		object{"limit": 0},
		object{"limit": 1001},
		"not json",
		object{"query": 7},
	} {
		a := s.call(http.MethodPost, "/v3/logs", body)
		require.Equal(t, http.StatusBadRequest, a.status, body)
		var got refused
		a.into(t, &got)
		require.NotEmpty(t, got.Errors[0].Message)
	}
	r := s.request(http.MethodPost, "/v3/logs", object{})
	r.Header.Del("Authorization")
	a, err := s.do(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, a.status)
}

func TestLogOfOneMessage(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	id := s.send(mail(3)).header.Get("X-Message-Id") + ".recvd-sandbox.2"
	a := s.call(http.MethodGet, "/v3/logs/"+id, nil)
	require.Equal(t, http.StatusOK, a.status)
	var got struct {
		ID         string            `json:"sg_message_id"`
		FromEmail  string            `json:"from_email"`
		ToEmail    string            `json:"to_email"`
		Subject    string            `json:"subject"`
		Status     string            `json:"status"`
		CreatedAt  time.Time         `json:"sg_message_id_created_at"`
		APIKeyID   string            `json:"api_key_id"`
		ClientIP   string            `json:"client_ip"`
		Category   []string          `json:"category"`
		CustomArgs map[string]string `json:"custom_args"`
		Events     []map[string]any  `json:"events"`
	}
	a.into(t, &got)
	require.Equal(t, id, got.ID)
	require.Equal(t, "reader-2@readers.example", got.ToEmail)
	require.Equal(t, []string{"call-1"}, got.Category)
	require.Equal(t, map[string]string{"call": "call-1", "delivery": "pub.email.2"}, got.CustomArgs)
	require.Len(t, got.Events, 1)
	for _, field := range []string{"event", "email", "sg_event_id", "sg_message_id", "smtp-id", "timestamp", "custom_args", "category"} {
		require.NotEmpty(t, got.Events[0][field], field)
	}
	for _, unknown := range []string{"nothing", id + "9", id[:22], id[:22] + ".recvd-sandbox.-1", id[:22] + ".recvd-sandbox.3"} {
		require.Equal(t, http.StatusNotFound, s.call(http.MethodGet, "/v3/logs/"+unknown, nil).status, unknown)
	}
}

func TestLogFaults(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	id := s.send(mail(1)).header.Get("X-Message-Id") + ".recvd-sandbox.0"
	both := func() (search, one int) {
		return s.call(http.MethodPost, "/v3/logs", object{}).status, s.call(http.MethodGet, "/v3/logs/"+id, nil).status
	}
	for want, faults := range map[int]sandbox.LogFaults{
		403: {Mode: sandbox.LogsOff},
		404: {Mode: sandbox.LogsOff, Status: 404},
		500: {Mode: sandbox.LogsFailing},
		429: {Mode: sandbox.LogsFailing, Status: 429, RetryAfter: 3},
	} {
		require.NoError(t, s.SetFaults(sandbox.Faults{Logs: faults}))
		search, one := both()
		require.Equal(t, want, search)
		require.Equal(t, want, one)
		if faults.RetryAfter > 0 {
			require.Equal(t, "3", s.call(http.MethodPost, "/v3/logs", object{}).header.Get("Retry-After"))
		}
	}
	require.NoError(t, s.SetFaults(sandbox.Faults{Logs: sandbox.LogFaults{Lag: sandbox.Duration(time.Hour)}}))
	require.Empty(t, s.search(object{}).Messages)
	_, one := both()
	require.Equal(t, http.StatusNotFound, one)
	require.NoError(t, s.SetFaults(sandbox.Faults{Logs: sandbox.LogFaults{Lag: sandbox.Duration(50 * time.Millisecond)}}))
	require.Eventually(t, func() bool { return len(s.search(object{}).Messages) == 1 }, 10*time.Second, 5*time.Millisecond)
}
