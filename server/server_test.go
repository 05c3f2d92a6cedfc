package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/render"
	"github.com/fanfare-dev/fanfare/server/api"
)

const (
	testKey    = "a-key"
	testSecret = fanfare.Secret("a secret for tests")
)

// testNow is the time by the server's clock in tests.
var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	openapi3filter.RegisterBodyDecoder("text/html", openapi3filter.PlainBodyDecoder)
	os.Exit(m.Run())
}

// running is a server with a real listener. Every answer it gives through send
// is held against the description.
type running struct {
	base   string
	ledger *fakeLedger
	logs   *syncBuffer
	wakes  *atomic.Int32
	stop   context.CancelFunc
	served chan error
	routes routers.Router
}

type option func(*Config, *spans, *[]Check)

func start(t *testing.T, options ...option) *running {
	t.Helper()
	cfg := Config{
		PublicURL:         "https://fanfare.example",
		TemporalUI:        "http://temporal.example:8233/",
		TemporalNamespace: "fanfare",
		APIKeys:           []fanfare.Secret{testKey, "another-key"},
		Secret:            testSecret,
		Renderer:          render.New(),
		Channels:          []fanfare.Channel{fanfare.Email, fanfare.InApp},
		SwitchOn:          map[fanfare.Channel]string{fanfare.SMS: "set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN"},
	}
	spans, checks := defaultSpans(), []Check(nil)
	for _, set := range options {
		set(&cfg, &spans, &checks)
	}
	r := &running{ledger: newFakeLedger(), logs: &syncBuffer{}, wakes: &atomic.Int32{}, served: make(chan error, 1), routes: described(t)}
	log := slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server, err := build(cfg, r.ledger, func() { r.wakes.Add(1) }, log, checks, spans, func() time.Time { return testNow })
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.base = "http://" + listener.Addr().String()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r.stop = stop
	go func() { r.served <- server.Serve(ctx, listener) }()
	t.Cleanup(stop)
	return r
}

// described is the router of openapi.yaml, made without the server's help.
func described(t *testing.T) routers.Router {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(description)
	require.NoError(t, err)
	doc.Servers = nil // this router takes "/" for a part of every path
	router, err := legacy.NewRouter(doc)
	require.NoError(t, err)
	return router
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(t *testing.T) api.Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), "%s", a.body)
	var p api.Problem
	require.NoError(t, json.Unmarshal(a.body, &p))
	require.Equal(t, a.status, p.Status)
	require.Equal(t, a.header.Get(echo.HeaderXRequestID), p.RequestId)
	return p
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, v), "%s", a.body)
}

type edit func(*http.Request)

func header(name, value string) edit {
	return func(r *http.Request) {
		r.Header.Del(name)
		if value != "" {
			r.Header.Set(name, value)
		}
	}
}

// send sends a request with a key and a JSON body, unless edited, and holds the
// answer against the description.
func (r *running) send(t *testing.T, method, path, body string, edits ...edit) answer {
	t.Helper()
	request, got, err := r.try(t.Context(), method, path, body, edits...)
	require.NoError(t, err)
	r.hold(t, request, got)
	return got
}

// try is send without a judgement, for other goroutines than the test's.
func (r *running) try(ctx context.Context, method, path, body string, edits ...edit) (*http.Request, answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.base+path, strings.NewReader(body))
	if err != nil {
		return request, answer{}, err
	}
	request.Header.Set("Authorization", "Bearer "+testKey)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, change := range edits {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return request, answer{}, err
	}
	defer response.Body.Close()
	got := answer{status: response.StatusCode, header: response.Header}
	got.body, err = io.ReadAll(response.Body)
	return request, got, err
}

// hold fails the test when an answer is not what the description says.
func (r *running) hold(t *testing.T, request *http.Request, got answer) {
	t.Helper()
	if request.Method == http.MethodHead {
		require.Empty(t, got.body)
		return
	}
	route, params, err := r.routes.FindRoute(request)
	if err != nil {
		require.Contains(t, []int{404, 405}, got.status, "%s %s is not described", request.Method, request.URL.Path)
		got.problem(t)
		return
	}
	err = openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: params, Route: route},
		Status:                 got.status, Header: got.header, Body: io.NopCloser(bytes.NewReader(got.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	require.NoError(t, err, "%s %s: %d %s", request.Method, request.URL.Path, got.status, got.body)
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestNewNamesEverythingWrongWithItsConfig(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		APIKeys: []fanfare.Secret{" "}, PublicURL: "fanfare.example", TemporalUI: "ftp://x", Channels: []fanfare.Channel{"fax"},
	}, newFakeLedger(), func() {}, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	require.ErrorIs(t, err, fanfare.ErrNotConfigured)
	for _, part := range []string{"API key is empty", "no secret", "no renderer", "public URL", "Temporal UI", `"fax"`} {
		require.ErrorContains(t, err, part)
	}
	_, err = New(Config{Secret: "s"}, newFakeLedger(), func() {}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "no API keys")
}
