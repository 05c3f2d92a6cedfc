package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// TestWhatIsNotThereIsNamed, with where to look instead.
func TestWhatIsNotThereIsNamed(t *testing.T) {
	t.Parallel()
	r := start(t)
	for request, says := range map[[2]string]string{
		{"GET", "/v1/publications/nothing"}:                "no publication with this id; GET /v1/publications",
		{"POST", "/v1/publications/nothing/cancel"}:        "no publication with this id",
		{"GET", "/v1/deliveries/nothing"}:                  "no delivery with this id",
		{"GET", "/v1/subscribers/nobody"}:                  "no subscriber with this id; PUT /v1/subscribers/{id}",
		{"PUT", "/v1/topics/writer-1/subscribers/nobody"}:  "no subscriber with this id; PUT /v1/subscribers/{id}",
		{"GET", "/v1/templates/nothing"}:                   "no such template",
		{"GET", "/v1/replays/nothing"}:                     "no replay with this id; GET /v1/replays",
		{"PUT", "/v1/topics/nothing/subscribers/reader-1"}: "no such topic; create it",
		{"GET", "/v1/publications/nothing/deliveries"}:     "no publication with this id",
		{"GET", "/v1/templates/nothing/versions"}:          "no such template",
	} {
		p := r.send(t, request[0], request[1], "").problem(t)
		require.Equal(t, http.StatusNotFound, p.Status, request)
		require.Contains(t, p.Detail, says, request)
	}
}

// TestEveryErrorIsAProblem: what the ledger can say, and what becomes of it.
func TestEveryErrorIsAProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err       error
		status    int
		code      api.ProblemCode
		retryable bool
	}{
		{&fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "topic", Detail: "is odd"}}}, 400, api.ProblemCodeInvalidRequest, false},
		{fmt.Errorf("sms: %w", fanfare.ErrChannelOff), 400, api.ProblemCodeInvalidRequest, false},
		{fanfare.ErrNotFound, 404, api.ProblemCodeNotFound, false},
		{fanfare.ErrUnknownTopic, 404, api.ProblemCodeNotFound, false},
		{&fanfare.ConflictError{Key: "k", ID: "p", Fields: []string{"topic"}}, 409, api.ProblemCodeKeyConflict, false},
		{fanfare.ErrWrongState, 409, api.ProblemCodeWrongState, false},
		{fanfare.ErrKeyReused, 422, api.ProblemCodeKeyReused, false},
		{fanfare.ErrBadSignature, 401, api.ProblemCodeBadSignature, false},
		{fanfare.ErrStaleSignature, 401, api.ProblemCodeStaleSignature, false},
		{fanfare.ErrUnavailable, 503, api.ProblemCodeUnavailable, true},
		{errors.Join(fanfare.ErrUnavailable, errors.New("dial tcp 10.0.0.7:5432")), 503, api.ProblemCodeUnavailable, true},
		{context.DeadlineExceeded, 503, api.ProblemCodeUnavailable, true},
		{errors.New(`ERROR: column "emial" does not exist (SQLSTATE 42703)`), 500, api.ProblemCodeInternal, false},
		{fanfare.ErrBooksUnequal, 500, api.ProblemCodeInternal, false},
	} {
		r := start(t)
		r.ledger.fail = c.err
		got := r.send(t, http.MethodPost, "/v1/publications", article)
		require.Equal(t, c.status, got.status, "%v", c.err)
		p := got.problem(t)
		require.Equal(t, c.code, p.Code)
		require.Equal(t, "urn:fanfare:problem:"+string(c.code), p.Type)
		require.Equal(t, c.retryable, p.Retryable)
		require.NotEmpty(t, p.Title)
		require.NotEmpty(t, p.Detail)
		require.Equal(t, c.status == 503, got.header.Get("Retry-After") != "")
		for _, inside := range []string{"10.0.0.7", "SQLSTATE", "books"} {
			require.NotContains(t, string(got.body), inside)
		}
		if c.status >= 500 {
			require.Contains(t, r.logs.String(), "request_id="+p.RequestId)
			require.Contains(t, r.logs.String(), "level=ERROR")
		}
	}
}

func TestAPanicSaysNothingInside(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.inside = func(context.Context, string) { panic("the inside") }
	got := r.send(t, http.MethodGet, "/v1/subscribers/reader-1", "")
	require.Equal(t, http.StatusInternalServerError, got.status)
	require.Equal(t, api.ProblemCodeInternal, got.problem(t).Code)
	require.NotContains(t, string(got.body), "the inside")
	require.Contains(t, r.logs.String(), "the inside")
	r.ledger.set(func() { r.ledger.inside = nil })
	require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, "/v1/subscribers/reader-1", "").status)
}

func TestUnknownAddressesAndMethods(t *testing.T) {
	t.Parallel()
	r := start(t)
	for path, status := range map[string]int{
		"/": 404, "/v1": 404, "/v1/publications/": 404, "/v1/nothing": 404, "/v1/notifications": 404, "/v2/publications": 404,
		"/v1/topics/writer-1": 405, "/v1/publications/x/cancel": 405,
	} {
		got := r.send(t, http.MethodGet, path, "", noKey)
		require.Equal(t, status, got.status, path)
		p := got.problem(t)
		if status == 405 {
			require.Equal(t, api.ProblemCodeMethodNotAllowed, p.Code)
			require.NotEmpty(t, got.header.Get("Allow"))
		}
	}
	got := r.send(t, http.MethodPatch, "/v1/publications", "{}")
	require.Equal(t, http.StatusMethodNotAllowed, got.status)
	require.Contains(t, got.header.Get("Allow"), "POST")
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, good := range []string{"Bearer " + testKey, "Bearer another-key", "bearer " + testKey} {
		require.Equal(t, http.StatusOK, r.send(t, http.MethodGet, "/v1/publications", "", header("Authorization", good)).status, good)
	}
	for _, bad := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Basic " + testKey, testKey, "Bearer " + testKey + "x", "Bearer a-ke"} {
		got := r.send(t, http.MethodPost, "/v1/publications", `{"key": 7}`, header("Authorization", bad))
		require.Equal(t, http.StatusUnauthorized, got.status, bad)
		p := got.problem(t)
		require.Equal(t, api.ProblemCodeUnauthorized, p.Code)
		require.Empty(t, p.Violations, "strangers are told nothing about the body")
		require.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"))
	}
	require.NotContains(t, r.logs.String(), testKey)
}

func TestBodies(t *testing.T) {
	t.Parallel()
	r := start(t)
	large := `{"key": "k", "topic": "writer-1", "content": {"title": "T", "url": "http://x.example", "body": "` + strings.Repeat("b", maxBody) + `"}}`
	got := r.send(t, http.MethodPost, "/v1/publications", large)
	require.Equal(t, http.StatusRequestEntityTooLarge, got.status)
	require.Equal(t, api.ProblemCodeTooLarge, got.problem(t).Code)

	full := strings.Replace(article, `"title"`, `"body": "`+strings.Repeat("b", maxContent-len("On the Analytical Engine")-len("https://blog.example/1"))+`", "title"`, 1)
	require.Equal(t, http.StatusAccepted, r.send(t, http.MethodPost, "/v1/publications", full).status, "content of just the size that is allowed")

	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		got = r.send(t, http.MethodPost, "/v1/publications", article, header("Content-Type", media))
		require.Equal(t, http.StatusUnsupportedMediaType, got.status, media)
		require.Contains(t, got.problem(t).Detail, "must be application/json")
	}
	require.Equal(t, http.StatusUnsupportedMediaType, r.send(t, http.MethodPost, "/v1/publications", article, header("Content-Encoding", "gzip")).status)
	require.Equal(t, http.StatusAccepted, r.send(t, http.MethodPost, "/v1/publications", full, header("Content-Type", "application/json; charset=utf-8")).status)
	got = r.send(t, http.MethodPost, "/v1/publications", "", header("Content-Type", "application/json"))
	require.Equal(t, []string{"body"}, fields(got.problem(t)))
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	r := start(t)
	own := r.send(t, http.MethodGet, "/v1/publications", "", header(echo.HeaderXRequestID, "proxy-7:1"))
	require.Equal(t, "proxy-7:1", own.header.Get(echo.HeaderXRequestID))
	seen := map[string]bool{}
	for _, strange := range []string{"", "two words", strings.Repeat("x", 101), "<script>", `a"b`} {
		id := r.send(t, http.MethodGet, "/v1/publications", "", header(echo.HeaderXRequestID, strange)).header.Get(echo.HeaderXRequestID)
		require.Regexp(t, `^[A-Z2-7]{26}$`, id)
		require.False(t, seen[id])
		seen[id] = true
		require.Contains(t, r.logs.String(), "request_id="+id)
	}
}

func TestLogsNameRoutesAndNothingPersonal(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.send(t, http.MethodPut, "/v1/subscribers/ada@mail.example", `{"email": "ada@mail.example", "phone": "+34600000001"}`)
	r.send(t, http.MethodPut, "/v1/subscribers/reader-2", `{"email": "broken@nowhere"}`)
	r.send(t, http.MethodGet, "/v1/publications?topic=secret-topic", "")
	r.send(t, http.MethodGet, "/unsubscribed/some-token", "", noKey)
	id := publish(t, r, "article-1")
	r.send(t, http.MethodGet, "/v1/publications/"+string(id), "")
	logs := r.logs.String()
	for _, personal := range []string{"mail.example", "nowhere", "600000001", "secret-topic", "some-token", "Analytical"} {
		require.NotContains(t, logs, personal)
	}
	require.Contains(t, logs, "route=/v1/subscribers/:id")
	require.Contains(t, logs, "route=unknown")
	require.Contains(t, logs, "code=invalid_request")
	require.Contains(t, logs, "id="+string(id))
}

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	var temporal, search error
	r := start(t, func(_ *Config, _ *spans, checks *[]Check) {
		*checks = []Check{
			{Name: "temporal", Probe: func(context.Context) error { return temporal }},
			{Name: "migrations", Required: true, Probe: func(context.Context) error { return search }},
		}
	})
	ready := func(status int, parts ...bool) {
		got := r.send(t, http.MethodGet, "/readyz", "", noKey)
		require.Equal(t, status, got.status)
		var answer api.Readiness
		got.into(t, &answer)
		require.Equal(t, status == 200, answer.Ready)
		require.Equal(t, []api.ReadinessPart{
			{Name: "postgresql", Required: true, Ready: parts[0]}, {Name: "temporal", Ready: parts[1]}, {Name: "migrations", Required: true, Ready: parts[2]},
		}, answer.Parts)
		require.Equal(t, status == 503, got.header.Get("Retry-After") != "")
	}
	ready(200, true, true, true)
	temporal = errors.New("dial tcp 10.0.0.9:7233: connection refused")
	ready(200, true, false, true)
	require.Contains(t, r.logs.String(), "10.0.0.9", "the log says why")
	search = errors.New("behind")
	ready(503, true, false, false)
	r.ledger.fail = fanfare.ErrUnavailable
	ready(503, false, false, false)
	require.Equal(t, http.StatusOK, r.send(t, http.MethodGet, "/healthz", "", noKey).status, "alive all the same")
	require.Equal(t, http.StatusOK, r.send(t, http.MethodHead, "/healthz", "", noKey).status)
}

func TestARequestThatTakesTooLongIsGivenUp(t *testing.T) {
	t.Parallel()
	r := start(t, func(_ *Config, s *spans, _ *[]Check) { s.request = 50 * time.Millisecond })
	r.ledger.inside = func(ctx context.Context, _ string) { <-ctx.Done() }
	got := r.send(t, http.MethodGet, "/v1/publications", "")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.True(t, got.problem(t).Retryable)
}

func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	conn := dial(t, start(t, func(_ *Config, s *spans, _ *[]Check) { s.header = 50 * time.Millisecond }))
	fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost:")
	rest, err := io.ReadAll(conn)
	require.NoError(t, err, "the connection is closed in the middle of the header")
	require.NotContains(t, string(rest), "alive")

	conn = dial(t, start(t, func(_ *Config, s *spans, _ *[]Check) { s.read = time.Second }))
	fmt.Fprintf(conn, "POST /v1/publications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", testKey)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusRequestTimeout, response.StatusCode)
}

func TestABodyThatEndsTooEarly(t *testing.T) {
	t.Parallel()
	r := start(t)
	conn := dial(t, r)
	fmt.Fprintf(conn, "POST /v1/publications HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n%s", testKey, article)
	require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	require.Empty(t, r.ledger.publications)
}

// TestStoppingWaitsForRequestsUnderWay, also for a cancel that takes its time.
func TestStoppingWaitsForRequestsUnderWay(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := publish(t, r, "article-1")
	begun, end := make(chan struct{}), make(chan struct{})
	r.ledger.inside = func(ctx context.Context, op string) {
		if op == "cancel" {
			close(begun)
			select {
			case <-end:
			case <-ctx.Done():
			}
		}
	}
	answered := make(chan error, 1)
	go func() {
		_, got, err := r.try(t.Context(), http.MethodPost, "/v1/publications/"+string(id)+"/cancel", "")
		answered <- errors.Join(err, statusError(got))
	}()
	<-begun
	r.stop()
	require.Eventually(t, func() bool {
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := fresh.Get(r.base + "/healthz")
		if err == nil {
			response.Body.Close()
		}
		return err != nil
	}, 5*time.Second, 5*time.Millisecond, "no new connection is accepted")
	require.Empty(t, r.served, "the server waits")
	close(end)
	require.NoError(t, <-answered)
	require.NoError(t, <-r.served)
}

func TestStoppingDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	r := start(t, func(_ *Config, s *spans, _ *[]Check) { s.drain = 20 * time.Millisecond })
	conn := dial(t, r)
	begun := make(chan struct{})
	r.ledger.inside = func(context.Context, string) { close(begun) }
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n", importPath, testKey)
	<-begun
	r.stop()
	require.NoError(t, <-r.served)
	require.Contains(t, r.logs.String(), "requests were still under way and are cut")
}

func TestServeSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.stop()
	require.NoError(t, <-r.served)
}

func statusError(got answer) error {
	if got.status != http.StatusOK {
		return fmt.Errorf("%d %s", got.status, got.body)
	}
	return nil
}
