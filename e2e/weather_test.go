package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/sandbox"
	"github.com/fanfare-dev/fanfare/schema"
)

// ownPostgres is a PostgreSQL of the test's own, as durable as anybody's, that
// can be killed and started again on the same port.
type ownPostgres struct {
	t      *testing.T
	config local.PostgresConfig
	now    *local.Postgres
}

func newOwnPostgres(t *testing.T) *ownPostgres {
	t.Helper()
	folder, err := os.MkdirTemp("", "fanfare-e2e-") //nolint:usetesting // as root, PostgreSQL's own user must be able to enter
	require.NoError(t, err)
	require.NoError(t, os.Chmod(folder, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	p := &ownPostgres{t: t, config: local.PostgresConfig{DataDir: filepath.Join(folder, "postgres"), Port: freePort(t)}}
	p.start()
	_, err = schema.Up(t.Context(), p.now.URL)
	require.NoError(t, err)
	return p
}

func (p *ownPostgres) start() {
	p.t.Helper()
	server, err := local.StartPostgres(p.t.Context(), p.config)
	require.NoError(p.t, err)
	p.now = server
	p.t.Cleanup(func() { _ = server.Stop(context.Background()) })
}

func (p *ownPostgres) kill() {
	p.t.Helper()
	require.NoError(p.t, p.now.Kill())
	<-p.now.Done()
}

// TestPostgresKilledInMidPublish kills PostgreSQL twice under a fan-out. While
// it is away the API says so and how long to wait; afterwards everything goes on.
func TestPostgresKilledInMidPublish(t *testing.T) {
	t.Parallel()
	postgres := newOwnPostgres(t)
	st := start(t, setup{workers: 2, batchSize: 500, database: postgres.now.URL})
	st.subscribe(10000)
	st.faults(sandbox.Faults{Pace: 2000})
	id := st.publish("article-1")
	for _, sent := range []int64{2000, 5000} {
		st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= sent })
		postgres.kill()
		answer := st.problem(http.MethodPost, "/v1/publications", map[string]any{"key": "article-2", "topic": "writer-1", "content": content("2")})
		require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
		require.NotEmpty(t, answer.Header.Get("Retry-After"))
		require.Equal(t, true, answer.body["retryable"])
		require.Equal(t, http.StatusServiceUnavailable, st.problem(http.MethodGet, "/readyz", nil).StatusCode)
		require.Equal(t, http.StatusOK, st.problem(http.MethodGet, "/healthz", nil).StatusCode)
		postgres.start()
	}
	st.faults(sandbox.Faults{})
	require.Equal(t, fanfare.Totals{Intended: 10000, Sent: 10000}, st.completes(id).Totals)
	stats := st.sandbox.Stats()
	require.EqualValues(t, 10000, stats.Distinct)
	require.Zero(t, stats.Duplicates)
	require.True(t, st.verify().OK)
}

// TestEverythingAwayAtStart starts server and worker with neither PostgreSQL nor
// Temporal there: they wait, say so, and work when both have come.
func TestEverythingAwayAtStart(t *testing.T) {
	t.Parallel()
	postgres := newOwnPostgres(t)
	postgres.kill()
	st := start(t, setup{workers: 1, database: postgres.now.URL, temporalDown: true})
	require.Eventually(t, func() bool {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, st.api+"/readyz", nil)
		if err != nil {
			return false
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusServiceUnavailable
	}, patience, tick)
	require.Eventually(t, func() bool { return bytes.Contains(st.output.bytes(), []byte("waiting for PostgreSQL")) }, patience, tick)
	postgres.start()
	require.Eventually(t, func() bool { return bytes.Contains(st.output.bytes(), []byte("waiting for Temporal")) }, patience, tick)
	st.subscribe(100)
	id := st.publish("article-1")
	st.startTemporalAgain()
	require.Equal(t, fanfare.Totals{Intended: 100, Sent: 100}, st.completes(id).Totals)
	require.Equal(t, 1, st.workers[0].Lives(), "it waited, and did not die")
}

// answer is one answer, whatever it says.
type answer struct {
	*http.Response
	body map[string]any
}

// problem makes one request and does not insist.
func (st *stack) problem(method, path string, body any) answer {
	st.t.Helper()
	sent, err := json.Marshal(body)
	require.NoError(st.t, err)
	request, err := http.NewRequestWithContext(st.t.Context(), method, st.api+path, bytes.NewReader(sent))
	require.NoError(st.t, err)
	request.Header.Set("Authorization", "Bearer e2e-key")
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(st.t, err)
	defer response.Body.Close()
	a := answer{Response: response}
	require.NoError(st.t, json.NewDecoder(response.Body).Decode(&a.body))
	return a
}
