package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const someID = "0199c7a0-1c2d-7e3f-8a4b-5c6d7e8f9a0b"

// stub is an API that answers what a test tells it to.
type stub struct {
	t        *testing.T
	url      string
	mu       sync.Mutex
	requests []request
	query    string              // of the last
	answers  map[string][]answer // by "METHOD path"; the last is repeated
}

type request struct {
	method, path, contentType, authorization, body string
}

type answer struct {
	status int
	body   any
}

func newStub(t *testing.T, answers map[string][]answer) *stub {
	t.Helper()
	s := &stub{t: t, answers: answers}
	server := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *stub) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.query = r.URL.RawQuery
	s.requests = append(s.requests, request{r.Method, r.URL.Path, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), string(body)})
	name := r.Method + " " + r.URL.Path
	list := s.answers[name]
	if len(list) == 0 {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	if len(list) > 1 {
		s.answers[name] = list[1:]
	}
	if list[0].status == 0 { // as a server that is killed
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(list[0].status)
	_ = json.NewEncoder(w).Encode(list[0].body)
}

func (s *stub) environ() map[string]string {
	return map[string]string{"FANFARE_API_URL": s.url + "/", "FANFARE_API_KEY": "key-1"}
}

func (s *stub) last() request {
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(s.t, s.requests)
	return s.requests[len(s.requests)-1]
}

func publication(state fanfare.PublicationState, totals fanfare.Totals) fanfare.Publication {
	at := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	p := fanfare.Publication{
		ID: someID, Key: "article-1", Topic: "writer-1", Class: fanfare.Bulk, Channels: []fanfare.Channel{fanfare.Email}, State: state,
		AcceptedAt: at, ExpiresAt: at.Add(time.Hour), StartedAt: &at, Totals: totals, ByChannel: map[fanfare.Channel]fanfare.Totals{fanfare.Email: totals},
		SkippedByReason: map[string]int64{"unsubscribed": 7, "no_address": 1200}, FailedByCode: map[string]int64{"sendgrid:400": 3},
		Links: map[string]string{"self": "http://api.example/p", "temporal": "http://temporal.example/w"},
	}
	if state.Stopped() {
		end := at.Add(90 * time.Second)
		p.FinishedAt = &end
	}
	return p
}

func TestImportStreamsAFile(t *testing.T) {
	t.Parallel()
	report := fanfare.ImportReport{Created: 10000, Updated: 2, Unchanged: 3, RejectedCount: 1500}
	for line := 1; line <= fanfare.MaxRejectedLines; line++ {
		report.Rejected = append(report.Rejected, fanfare.RejectedLine{Line: line, Error: "email must be a plain address"})
	}
	s := newStub(t, map[string][]answer{
		"PUT /v1/topics/writer-1":                     {{http.StatusCreated, api.Topic{}}},
		"POST /v1/topics/writer-1/subscribers/import": {{http.StatusOK, report}},
	})
	file := filepath.Join(t.TempDir(), "readers.CSV")
	require.NoError(t, os.WriteFile(file, []byte("id,email\nreader-1,a@b.example\n"), 0o600))

	got := command(t, s.environ(), "", "import", "writer-1", file, "--topic-name", "Writer One")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "Imported into writer-1: 10,000 created, 2 updated, 3 unchanged, 1,500 rejected.\n")
	require.Contains(t, got.out, "  line 10: email must be a plain address\n  and 1,490 more; --json lists the first 1,000\n")
	require.NotContains(t, got.out, "line 11:")
	require.Contains(t, got.err, "importing: 30 of 30 bytes (100 %)", "progress, also without a terminal")
	require.Equal(t, request{"PUT", "/v1/topics/writer-1", "application/json", "Bearer key-1", `{"name":"Writer One"}`}, s.requests[0])
	require.Equal(t, request{"POST", "/v1/topics/writer-1/subscribers/import", "text/csv", "Bearer key-1", "id,email\nreader-1,a@b.example\n"}, s.requests[1])

	got = command(t, s.environ(), `{"id": "reader-1"}`, "import", "writer-1", "-", "--format", "ndjson", "--json")
	require.Equal(t, 0, got.code, got.err)
	require.Empty(t, cmp.Diff(report, fromJSON[fanfare.ImportReport](t, got)))
	require.Equal(t, "application/x-ndjson", s.last().contentType)
	require.JSONEq(t, `{"id": "reader-1"}`, s.last().body)
	require.Len(t, s.requests, 3, "without a name the topic is left alone")
}

func TestImportThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{
		"POST /v1/topics/nobody/subscribers/import": {{http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Status: 404, Title: "Not found"}}},
		"POST /v1/topics/cut/subscribers/import":    {{}},
	})
	got := command(t, s.environ(), "", "import", "nobody", "-", "--format", "csv")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "topic nobody does not exist; add --topic-name")
	got = command(t, s.environ(), "id\n", "import", "cut", "-", "--format", "csv")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "the API cannot be reached")
	require.Contains(t, got.err, "the same import completes it")
	got = command(t, s.environ(), "", "import", "writer-1", "readers.xml")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "say --format ndjson or --format csv")
	got = command(t, s.environ(), "", "import", "writer-1", filepath.Join(t.TempDir(), "none.csv"))
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "no such file")
	got = command(t, s.environ(), "", "import", "writer-1")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, "fanfare import --help")
}

func TestPublishSendsTheDraft(t *testing.T) {
	t.Parallel()
	accepted := api.AcceptedPublication{Id: someID, Key: "article-1", State: fanfare.Scheduled, Intended: 10000, Links: api.Links{"self": "http://api.example/p"}}
	s := newStub(t, map[string][]answer{"POST /v1/publications": {{http.StatusAccepted, accepted}}})
	got := command(t, s.environ(), "", "publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1", "--summary", "S", "--body", "B",
		"--key", "article-1", "--channels", "email,sms", "--at", "2026-01-31T09:00:00+01:00", "--expires", "2026-02-01T08:00:00Z")
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "Publication "+someID+" is scheduled: 10,000 deliveries.")
	require.Contains(t, got.out, "http://api.example/p")
	require.Contains(t, got.out, "fanfare status "+someID)
	require.JSONEq(t, `{"key": "article-1", "topic": "writer-1", "channels": ["email", "sms"], "scheduled_at": "2026-01-31T09:00:00+01:00", "expires_at": "2026-02-01T08:00:00Z",
		"content": {"title": "Hello", "url": "https://blog.example/1", "summary": "S", "body": "B"}}`, s.last().body)

	keys := map[fanfare.Key]bool{}
	for range 2 {
		got = command(t, s.environ(), "", "publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1", "--json")
		require.Equal(t, 0, got.code, got.err)
		require.Empty(t, cmp.Diff(accepted, fromJSON[api.AcceptedPublication](t, got)))
		var draft fanfare.Draft
		require.NoError(t, json.Unmarshal([]byte(s.last().body), &draft))
		require.True(t, fanfare.ValidName(string(draft.Key)))
		require.Nil(t, draft.ScheduledAt)
		keys[draft.Key] = true
	}
	require.Len(t, keys, 2, "every publication gets a key of its own")
}

func TestPublishSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := newStub(t, map[string][]answer{"POST /v1/publications": {{http.StatusBadRequest, api.Problem{
		Code: api.ProblemCodeInvalidRequest, Status: 400, Title: "The request is not valid", Detail: "2 fields are wrong: topic, content.url",
		Violations: []fanfare.Violation{{Field: "topic", Detail: "does not exist"}, {Field: "content.url", Detail: "must be an address"}},
	}}}})
	asked := []string{"publish", "--topic", "x", "--title", "Hello", "--url", "nowhere"}
	got := command(t, s.environ(), "", asked...)
	require.Equal(t, 1, got.code)
	require.Equal(t, "fanfare: The request is not valid\n  topic does not exist\n  content.url must be an address\n", got.err)
	require.Empty(t, got.out)

	got = command(t, s.environ(), "", append(asked, "--at", "soon", "--expires", "later")...)
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, `--at "soon"`)
	require.Contains(t, got.err, `--expires "later"`)
	got = command(t, s.environ(), "", "publish", "--title", "Hello")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, `"topic", "url" not set`)
	got = command(t, s.environ(), "", "publish", "--colour", "red")
	require.Equal(t, 2, got.code)
	got = command(t, s.environ(), "", "announce")
	require.Equal(t, 2, got.code)
}

func TestTimesAreTimesOrSpansFromNow(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 8, 0, 0, 5000, time.UTC)
	at, err := readTime("--at", "", now)
	require.NoError(t, err)
	require.Nil(t, at)
	at, err = readTime("--at", "90m", now)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC), *at)
	at, err = readTime("--at", "2026-01-31T10:00:00+01:00", now)
	require.NoError(t, err)
	require.Equal(t, time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC), at.UTC())
}

func TestWatchEndsAsThePublicationDoes(t *testing.T) {
	t.Parallel()
	for state, code := range map[fanfare.PublicationState]int{
		fanfare.Completed: 0, fanfare.CompletedWithFailures: 3, fanfare.Cancelled: 4, fanfare.Expired: 4,
	} {
		end := publication(state, fanfare.Totals{Intended: 10000, Sent: 8790, Failed: 3, Skipped: 1207})
		s := newStub(t, map[string][]answer{
			"POST /v1/publications": {{http.StatusAccepted, api.AcceptedPublication{Id: someID, Key: "article-1", State: fanfare.Accepted, Intended: 10000}}},
			"GET /v1/publications/" + someID: {
				{http.StatusOK, publication(fanfare.Running, fanfare.Totals{Intended: 10000, Pending: 9000, Sent: 1000})},
				{},
				{http.StatusServiceUnavailable, api.Problem{Code: api.ProblemCodeUnavailable, Status: 503, Retryable: true}},
				{http.StatusOK, end},
			},
		})
		asked := []string{"publish", "--topic", "writer-1", "--title", "Hello", "--url", "https://blog.example/1", "--watch"}
		got := command(t, s.environ(), "", asked...)
		require.Equal(t, code, got.code, got.err)
		require.Contains(t, got.err, "waiting for the API", "a server that is away is waited for")
		require.Contains(t, got.err, "sending: 10,000 of 10,000 deliveries (100 %)")
		require.NotContains(t, got.err, "fanfare:")
		require.Contains(t, got.out, "is "+strings.ReplaceAll(string(state), "_", " "))
		require.Contains(t, got.out, "Skipped: 1,200 no_address, 7 unsubscribed\nFailed:  3 sendgrid:400\n")
		require.Contains(t, got.out, "after 1m30s")
		require.Contains(t, got.out, "http://temporal.example/w")

		got = command(t, s.environ(), "", append(asked, "--json")...)
		require.Equal(t, code, got.code, got.err)
		require.Empty(t, cmp.Diff(end, fromJSON[fanfare.Publication](t, got)))
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	p := publication(fanfare.Running, fanfare.Totals{Intended: 12345, Pending: 11345, Sent: 990, InDoubt: 10})
	p.RatePerSecond = 1234.5
	s := newStub(t, map[string][]answer{"GET /v1/publications/" + someID: {{http.StatusOK, p}}})
	got := command(t, s.environ(), "", "status", someID)
	require.Equal(t, 0, got.code, got.err)
	lines := strings.Split(got.out, "\n")
	require.Equal(t, "Publication "+someID+" is running.", lines[0])
	require.Contains(t, got.out, "1,234 recipients a second")
	require.Equal(t, []string{"channel", "intended", "sent", "in", "doubt", "pending"}, strings.Fields(lines[4]))
	require.Equal(t, []string{"email", "12,345", "990", "10", "11,345"}, strings.Fields(lines[5]))

	got = command(t, s.environ(), "", "status", someID, "--json")
	require.Empty(t, cmp.Diff(p, fromJSON[fanfare.Publication](t, got)))

	got = command(t, s.environ(), "", "status", "article-1")
	require.Equal(t, 2, got.code)
	require.Contains(t, got.err, `"article-1" is not a publication's id`)
}

func TestStatusSaysWhyItIsNotFinished(t *testing.T) {
	t.Parallel()
	p := publication(fanfare.Running, fanfare.Totals{Intended: 100, Pending: 90, Sent: 8, Dead: 2})
	p.WaitingFor = []fanfare.Waiting{
		{Kind: fanfare.WaitingProvider, Provider: "sendgrid", Count: 90, Sentence: "sendgrid is not called until 12:00:35."},
		{Kind: fanfare.WaitingRetry, Count: 3, Sentence: "3 wait for their next attempt."},
	}
	cancelled := publication(fanfare.Cancelled, fanfare.Totals{Intended: 100, Sent: 98, Dead: 2})
	s := newStub(t, map[string][]answer{"GET /v1/publications/" + someID: {{http.StatusOK, p}, {http.StatusOK, p}, {http.StatusOK, cancelled}}})
	got := command(t, s.environ(), "", "status", someID)
	require.Equal(t, 0, got.code, got.err)
	require.Contains(t, got.out, "\nIt is not finished because:\n  sendgrid is not called until 12:00:35.\n  3 wait for their next attempt.\n")
	require.Contains(t, got.out, "\n2 were given up and kept. This says why, and what sending them again would do:\n\n  fanfare replay --publication "+someID+" --dry-run\n")
	require.Empty(t, cmp.Diff(p, fromJSON[fanfare.Publication](t, command(t, s.environ(), "", "status", someID, "--json"))))
	require.NotContains(t, command(t, s.environ(), "", "status", someID).out, "fanfare replay", "what is cancelled is never sent again")
	require.Equal(t, "sendgrid is not called", doing(p))
	p.WaitingFor[0].Kind = fanfare.WaitingThrottle
	require.Equal(t, "sendgrid asked for time", doing(p))
	p.WaitingFor = []fanfare.Waiting{{Kind: fanfare.WaitingDoubt, Provider: "sendgrid"}}
	require.Equal(t, "sending", doing(p))
}

func TestWhenTheAPIDoesNotAnswerAsItShould(t *testing.T) {
	t.Parallel()
	ask := func(environ map[string]string) result { return command(t, environ, "", "status", someID) }

	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	got := ask(map[string]string{"FANFARE_API_URL": closed.URL})
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "the API cannot be reached at "+closed.URL)
	require.Contains(t, got.err, "Start `fanfare dev` or `fanfare server`")

	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	t.Cleanup(page.Close)
	got = ask(map[string]string{"FANFARE_API_URL": page.URL})
	require.Equal(t, 1, got.code)
	require.Contains(t, got.err, "is not Fanfare's API")

	s := newStub(t, map[string][]answer{"GET /v1/publications/" + someID: {
		{http.StatusUnauthorized, api.Problem{Code: api.ProblemCodeUnauthorized, Status: 401, Title: "Unauthorized"}},
		{http.StatusInternalServerError, api.Problem{Code: api.ProblemCodeInternal, Status: 500, Title: "Internal error", RequestId: "REQ7"}},
	}})
	require.Contains(t, ask(s.environ()).err, "Set FANFARE_API_KEY to one of the keys")
	require.Contains(t, ask(s.environ()).err, "knows this request as REQ7")
}

func TestBooksThatDoNotBalance(t *testing.T) {
	t.Parallel()
	bad := fanfare.Verification{Checked: 12, Duplicates: 1, Resent: 250, Problems: []fanfare.Problem{
		{Publication: someID, Channel: fanfare.Email, Intended: 10000, Counted: 9999, Sentence: "1 recipient was passed over"},
	}}
	for _, asJSON := range []bool{false, true} {
		var out buffer
		a := &app{out: &out}
		var exit *exitError
		require.ErrorAs(t, a.reportVerification(bad, asJSON), &exit)
		require.Equal(t, 1, exit.code)
		if asJSON {
			require.Empty(t, cmp.Diff(bad, fromJSON[fanfare.Verification](t, result{out: out.String()})))
			continue
		}
		require.Contains(t, out.String(), "The books do not balance: 1 problem in 12 publications, 1 known duplicate, 250 sent again without evidence.\n")
		require.Regexp(t, someID+`\s+email\s+10,000\s+9,999\s+1 recipient was passed over\n`, out.String())
	}
}

func TestWrongArgumentsSayHowToWriteThem(t *testing.T) {
	t.Parallel()
	for asked, says := range map[string]string{
		"import writer-1":                "Write it as `fanfare import TOPIC FILE [flags]`; `fanfare import --help` says the rest.",
		"suppressions add sms":           "Write it as `fanfare suppressions add CHANNEL ADDRESS [flags]`; `fanfare suppressions add --help` says the rest.",
		"templates test article":         "`fanfare templates test --help` says the rest.",
		"suppressions list --colour red": "`fanfare suppressions list --help` says the rest.",
		"announce":                       "See `fanfare --help`.",
		"status article-1":               "GET /v1/publications lists them all with their keys",
		"verify article-1":               "GET /v1/publications lists them all with their keys",
	} {
		got := command(t, nil, "", strings.Fields(asked)...)
		require.Equal(t, 2, got.code, asked)
		require.Contains(t, got.err, says, asked)
	}
}
