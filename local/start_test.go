package local_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/local/localtest"
)

// folder is a place that PostgreSQL's own user can enter, also when we are root.
func folder(t *testing.T) string {
	dir, err := os.MkdirTemp("", "fanfare-local-") //nolint:usetesting // t.TempDir lies in a folder that only we may enter
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestPostgresKeepsItsDataAcrossStarts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	first, err := local.StartPostgres(t.Context(), local.PostgresConfig{DataDir: dir})
	require.NoError(t, err)
	run(t, first.URL, "CREATE TABLE kept (n int)")
	require.NoError(t, first.Kill(), "as a crash would")
	<-first.Done()

	second, err := local.StartPostgres(t.Context(), local.PostgresConfig{DataDir: dir})
	require.NoError(t, err)
	run(t, second.URL, "INSERT INTO kept VALUES (1)")
	require.NoError(t, second.Stop(t.Context()))
}

func TestPostgresStopsWhatAnEarlierRunLeft(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(folder(t), "postgres")
	left, err := local.StartPostgres(t.Context(), local.PostgresConfig{DataDir: dir})
	require.NoError(t, err)
	next, err := local.StartPostgres(t.Context(), local.PostgresConfig{DataDir: dir})
	require.NoError(t, err)
	<-left.Done()
	run(t, next.URL, "SELECT 1")
	require.NoError(t, next.Stop(t.Context()))
}

func TestPostgresInAFolderClosedToIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "closed", "postgres")
	require.NoError(t, os.MkdirAll(filepath.Dir(dir), 0o700))
	p, err := local.StartPostgres(t.Context(), local.PostgresConfig{DataDir: dir, Throwaway: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(p.DataDir)) })
	run(t, p.URL, "SELECT 1")
	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, p.Err())
}

// What the server logs stands on people's terminals: it says what is wrong, without the row.
func TestPostgresLogsNoRows(t *testing.T) {
	t.Parallel()
	read, write := io.Pipe()
	lines := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(read)
		lines <- string(all)
	}()
	p, err := local.StartPostgres(t.Context(), local.PostgresConfig{DataDir: filepath.Join(folder(t), "postgres"), Throwaway: true, Output: write})
	require.NoError(t, err)
	conn, err := pgx.Connect(t.Context(), p.URL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE people (n int PRIMARY KEY, email text CONSTRAINT email_is_short CHECK (length(email) < 9))")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "INSERT INTO people VALUES (1, $1)", "canary@mail.example")
	require.Error(t, err)
	_, err = conn.CopyFrom(t.Context(), pgx.Identifier{"people"}, []string{"n", "email"}, pgx.CopyFromRows([][]any{{1, "canary@mail.example"}}))
	require.Error(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.NoError(t, p.Stop(t.Context()))
	require.NoError(t, write.Close())
	logged := <-lines
	require.Contains(t, logged, "email_is_short")
	require.NotContains(t, logged, "canary")
}

func TestTemporalKeepsItsDataAcrossStarts(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "temporal.db")
	for range 2 {
		server, err := local.StartTemporal(t.Context(), local.TemporalConfig{Path: localtest.CLI(), File: file, Headless: true})
		require.NoError(t, err)
		require.NoError(t, server.Kill())
		<-server.Done()
	}
	require.FileExists(t, file)
}

func TestChildDiesWithItsParentsGroup(t *testing.T) {
	t.Parallel()
	var group local.Group
	p, err := local.StartProcess(local.Command{Name: "sleeper", Path: "/bin/sleep", Args: []string{"1000"}, Restart: true})
	require.NoError(t, err)
	group.Add("sleeper", p)
	require.NoError(t, p.Kill())
	require.Eventually(t, func() bool { return p.Lives() == 2 && p.PID() != 0 }, 10*time.Second, 10*time.Millisecond)
	pid := p.PID()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, group.Run(ctx))
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func run(t *testing.T, url, statement string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), statement)
	require.NoError(t, err)
}
