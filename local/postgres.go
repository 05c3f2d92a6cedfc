package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// oldestPostgres is the first version with all that the schema uses.
	oldestPostgres = 15
	// postgresUser owns the cluster inside PostgreSQL. It needs no password: this is
	// a server for one person's machine, and listens on the loopback address only.
	postgresUser = "fanfare"
	// startTimeout covers recovery after a kill, which replays up to max_wal_size.
	startTimeout = 2 * time.Minute
	// socketPathMax is the room for a socket's path in the kernel's address: 107
	// bytes, less the name PostgreSQL gives it.
	socketPathMax = 107 - len("/.s.PGSQL.65535.lock")
)

// MissingError says which program is missing and the one line that installs it.
type MissingError struct {
	What    string
	Install string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed here. Install it with:\n\n  %s\n", e.What, e.Install)
}

// PostgresConfig says where PostgreSQL keeps its data and listens.
type PostgresConfig struct {
	// DataDir is the folder of the data. Run as root, PostgreSQL keeps it where
	// its own user can enter: see Postgres.DataDir.
	DataDir string
	// Port of 127.0.0.1; 0 is a free one.
	Port int
	// Settings are added to the server's command line, over the defaults here.
	Settings map[string]string
	// Throwaway gives durability up for speed. For test clusters only.
	Throwaway bool
	// Output gets the server's log lines. Nil discards them.
	Output io.Writer
	// Log says what is being waited for. Nil: silent.
	Log *slog.Logger
}

// Postgres is a running PostgreSQL server.
type Postgres struct {
	*Process
	// URL is its database "fanfare".
	URL string
	// DataDir is where the data really is.
	DataDir string
	Port    int
}

// StartPostgres starts PostgreSQL over a data folder, which it makes when there
// is none, and returns when it answers. A server of ours that outlived its
// parent is stopped first; a server of anybody else is never touched. Where the
// binaries are missing the error is a *MissingError.
func StartPostgres(ctx context.Context, c PostgresConfig) (*Postgres, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	owner, err := postgresOwner(c.DataDir)
	if err != nil {
		return nil, err
	}
	dir, err := owner.dataDir(c.DataDir)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := initCluster(ctx, bin, dir, owner, c); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := stopLeftOver(ctx, dir); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if c.Port == 0 {
		if c.Port, err = FreePort(); err != nil {
			return nil, err
		}
	}
	p, err := runServer(bin, dir, owner, c)
	if err != nil {
		return nil, err
	}
	if err := p.waitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL: %w", err), p.Stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func runServer(bin, dir string, owner *account, c PostgresConfig) (*Postgres, error) {
	sockets, err := owner.socketDir(dir)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	args := []string{"-D", dir, "-p", strconv.Itoa(c.Port), "-c", "listen_addresses=" + loopback, "-c", "unix_socket_directories=" + sockets}
	settings := serverSettings(c)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	process, err := StartProcess(Command{
		Name: "postgres", Path: filepath.Join(bin, "postgres"), Args: args, Dir: dir, Output: c.Output, Log: c.Log, Env: serverEnv(),
		credential: owner.credential(),
		// SIGINT is PostgreSQL's fast shutdown: it ends sessions and keeps the
		// data. SIGQUIT ends at once and recovers at the next start; it is
		// also what the server must get when we die, since SIGKILL would leave its children.
		ask: syscall.SIGINT, force: syscall.SIGQUIT, orphaned: syscall.SIGQUIT,
	})
	if err != nil {
		return nil, err
	}
	return &Postgres{
		Process: process, DataDir: dir, Port: c.Port,
		URL: fmt.Sprintf("postgres://%s@%s/fanfare?sslmode=disable", postgresUser, net.JoinHostPort(loopback, strconv.Itoa(c.Port))),
	}, nil
}

// serverSettings are for a small machine that runs everything else as well.
// Durability stays as PostgreSQL ships it, except for throw-away clusters.
func serverSettings(c PostgresConfig) map[string]string {
	settings := map[string]string{
		"shared_buffers":       "256MB", // the hot part of a million deliveries and their indexes
		"max_connections":      "400",   // server, worker, tests and a person with psql
		"max_wal_size":         "4GB",   // a publication of a million writes about 1 GB; no checkpoint in its middle
		"checkpoint_timeout":   "15min",
		"wal_compression":      "on",  // full pages after a checkpoint are most of the log
		"jit":                  "off", // compiling costs more than these short statements run
		"random_page_cost":     "1.1", // today's disks seek as fast as they read on
		"log_min_messages":     "warning",
		"log_checkpoints":      "off",
		"log_error_verbosity":  "terse", // DETAIL and CONTEXT quote rows, which hold addresses
		"logging_collector":    "off",   // the lines come to us
		"cluster_name":         "fanfare",
		"effective_cache_size": "1GB",
	}
	if c.Throwaway {
		for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
			settings[name] = "off"
		}
		settings["wal_compression"] = "off"
	}
	maps.Copy(settings, c.Settings)
	return settings
}

// serverEnv is our environment without what would point PostgreSQL's programs
// at another server.
func serverEnv() []string {
	env := []string{"LC_ALL=C.UTF-8"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") {
			env = append(env, kv)
		}
	}
	return env
}

// waitReady waits until the server takes connections and makes the database.
func (p *Postgres) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	admin := strings.Replace(p.URL, "/fanfare?", "/postgres?", 1)
	for {
		err := createDatabase(ctx, admin)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return p.Err()
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func createDatabase(ctx context.Context, admin string) error {
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'fanfare')").Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE fanfare")
	return err
}

// initCluster makes the data folder's cluster unless it is there. It is made
// beside its place and moved there whole, so that a kill leaves no half of one.
func initCluster(ctx context.Context, bin, dir string, owner *account, c PostgresConfig) error {
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return nil
	}
	c.Log.Info("making a PostgreSQL cluster", "folder", dir)
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	args := []string{"-D", fresh, "-U", postgresUser, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"}
	if c.Throwaway {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), args...)
	cmd.Dir, cmd.Env = filepath.Dir(dir), serverEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner.credential()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // not empty: somebody's files, not ours to remove
	}
	return os.Rename(fresh, dir)
}

// stopLeftOver ends the server over the data folder that a killed parent left
// behind. The pid file may be stale and the pid long somebody else's, so the
// process itself is asked which folder it serves.
func stopLeftOver(ctx context.Context, dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || !runsOver(pid, dir) {
		return nil //nolint:nilerr // stale; PostgreSQL removes it itself
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		return fmt.Errorf("stop the PostgreSQL %d that an earlier run left behind: %w", pid, err)
	}
	for runsOver(pid, dir) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// postgresBin finds the folder of the newest server binaries.
func postgresBin() (string, error) {
	patterns := []string{
		"/usr/lib/postgresql/*/bin",          // Debian
		"/usr/pgsql-*/bin",                   // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", // Homebrew, Apple silicon
		"/usr/local/opt/postgresql@*/bin",    // Homebrew, Intel
		"/opt/homebrew/bin", "/usr/local/bin",
	}
	var found []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			found = append(found, filepath.Dir(target))
		}
	}
	for _, pattern := range patterns {
		dirs, _ := filepath.Glob(pattern) // the patterns are well formed
		found = append(found, dirs...)
	}
	best, newest := "", oldestPostgres-1
	for _, dir := range found {
		if version := postgresVersion(dir); version > newest {
			best, newest = dir, version
		}
	}
	if best == "" {
		return "", &MissingError{What: fmt.Sprintf("PostgreSQL %d or newer", oldestPostgres), Install: installPostgres()}
	}
	return best, nil
}

// postgresVersion asks a folder's server for its major version; 0 where there
// is none, or no initdb beside it.
func postgresVersion(dir string) int {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(out)) // postgres (PostgreSQL) 15.18 (Debian ...)
	if len(fields) < 3 {
		return 0
	}
	major, _, _ := strings.Cut(fields[2], ".")
	version, _ := strconv.Atoi(major) // "17beta1" is nobody's choice here
	return version
}

func installPostgres() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@16"
	}
	return "sudo apt-get install -y postgresql"
}

// account is whom PostgreSQL runs as. It refuses to run as root.
type account struct{ uid, gid int }

// postgresOwner is nil when we are an ordinary user: PostgreSQL then runs as we
// do. As root it runs as whoever made the cluster, so that they can use it again.
func postgresOwner(dataDir string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil //nolint:nilnil // no account means: as ourselves
	}
	if info, err := os.Stat(filepath.Join(dataDir, "PG_VERSION")); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return &account{uid: int(stat.Uid), gid: int(stat.Gid)}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil {
			return &account{uid: uid, gid: gid}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody: run this as an ordinary user")
}

func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
}

// dataDir makes the folder of the data and returns where it is: as asked, or
// where the account can enter when it cannot enter there.
func (a *account) dataDir(asked string) (string, error) {
	dir, err := filepath.Abs(asked)
	if err != nil {
		return "", err
	}
	// What is known of a running server is its real folder.
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	if a == nil {
		return dir, os.MkdirAll(filepath.Dir(dir), 0o700)
	}
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return dir, nil // an ordinary user's cluster, and it stays theirs
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // another account must pass through
		return "", err
	}
	if !a.canEnter(filepath.Dir(dir)) {
		sum := sha256.Sum256([]byte(dir))
		dir = filepath.Join("/var/lib/fanfare", hex.EncodeToString(sum[:6]), "postgres")
	}
	// The cluster is made inside a folder of the account's own, because it must
	// be able to make and rename its entries.
	home := filepath.Join(dir, "cluster")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // another account must pass through
		return "", err
	}
	return home, os.Chown(dir, a.uid, a.gid)
}

// canEnter reports whether the account may pass every folder on the way to dir.
func (a *account) canEnter(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return false
		}
		bit := os.FileMode(0o001)
		switch {
		case int(stat.Uid) == a.uid:
			bit = 0o100
		case int(stat.Gid) == a.gid:
			bit = 0o010
		}
		if info.Mode()&bit == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// socketDir makes the private folder of the server's sockets: in the data
// folder where that is short enough, else under the temporary folder.
func (a *account) socketDir(dataDir string) (string, error) {
	dir := filepath.Join(filepath.Dir(dataDir), "run")
	if len(dir) > socketPathMax {
		sum := sha256.Sum256([]byte(dataDir))
		dir = filepath.Join("/tmp", "fanfare-"+hex.EncodeToString(sum[:6]))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if a == nil {
		return dir, nil
	}
	return dir, os.Chown(dir, a.uid, a.gid)
}
