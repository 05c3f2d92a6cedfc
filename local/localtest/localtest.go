// Package localtest gives tests a real PostgreSQL and a real Temporal.
//
// One server of each kind serves a whole test binary: it starts when the first
// test asks for it and ends with the binary, whose TestMain calls Main. Each test gets
// a database of its own, and makes itself a namespace. It is for tests only.
package localtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/schema"
)

// Main runs the tests and then stops what they started:
//
//	func TestMain(m *testing.M) { os.Exit(localtest.Main(m)) }
func Main(m *testing.M) int {
	defer shared.stop()
	return m.Run()
}

// Database returns the URL of a database of the test's own, migrated. It is
// dropped after the test.
func Database(t testing.TB) string {
	t.Helper()
	base, err := shared.postgres()
	require.NoError(t, err)
	name := fmt.Sprintf("test_%d", shared.databases.Add(1))
	// Copied from a migrated template: milliseconds instead of a migration.
	require.NoError(t, admin(base, "CREATE DATABASE "+name+" TEMPLATE migrated"))
	t.Cleanup(func() {
		if err := admin(base, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return database(base, name)
}

// EmptyDatabase is Database without the migrations.
func EmptyDatabase(t testing.TB) string {
	t.Helper()
	base, err := shared.postgres()
	require.NoError(t, err)
	name := fmt.Sprintf("test_%d", shared.databases.Add(1))
	require.NoError(t, admin(base, "CREATE DATABASE "+name))
	return database(base, name)
}

// Temporal returns the address of a development server without data on disk.
func Temporal(t testing.TB) string {
	t.Helper()
	address, err := shared.temporal()
	require.NoError(t, err)
	return address
}

// servers are those of one test binary. The one global of this package: tests
// of one binary have nothing else in common.
type servers struct {
	group     local.Group
	databases atomic.Int64
	folder    string
	postgres  func() (string, error)
	temporal  func() (string, error)
}

var shared = newServers()

func newServers() *servers {
	s := &servers{}
	s.postgres = sync.OnceValues(s.startPostgres)
	s.temporal = sync.OnceValues(s.startTemporal)
	return s
}

func (s *servers) startPostgres() (string, error) {
	folder, err := os.MkdirTemp("", "fanfare-test-")
	if err != nil {
		return "", err
	}
	s.folder = folder
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // as root, PostgreSQL's own user must pass through
		return "", err
	}
	server, err := local.StartPostgres(context.Background(), local.PostgresConfig{
		DataDir: filepath.Join(folder, "postgres"), Throwaway: true, Settings: map[string]string{"shared_buffers": "128MB", "max_wal_size": "1GB"},
	})
	if err != nil {
		return "", err
	}
	s.group.Add("postgres", server)
	if err := admin(server.URL, "CREATE DATABASE migrated"); err != nil {
		return "", err
	}
	_, err = schema.Up(context.Background(), database(server.URL, "migrated"))
	return server.URL, err
}

func (s *servers) startTemporal() (string, error) {
	// Tests run in their package's folder; `make build` puts the CLI into the
	// root's bin, and make says where that is.
	server, err := local.StartTemporal(context.Background(), local.TemporalConfig{Headless: true, Path: CLI()})
	if err != nil {
		return "", err
	}
	s.group.Add("temporal", server)
	return server.Address, nil
}

// CLI is the temporal CLI in the bin folder of the module that a test belongs
// to; empty where there is none, which means: on the PATH.
func CLI() string {
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			path := filepath.Join(dir, "bin", "temporal")
			if _, missing := os.Stat(path); missing == nil {
				return path
			}
			return ""
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

func (s *servers) stop() {
	_ = s.group.Stop(context.Background())
	if s.folder != "" {
		_ = os.RemoveAll(s.folder)
	}
}

func admin(url, statement string) error {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), statement)
	return err
}

func database(url, name string) string {
	return strings.Replace(url, "/fanfare?", "/"+name+"?", 1)
}
