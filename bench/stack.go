package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/schema"
)

// Config says what to measure with.
type Config struct {
	Subscribers int
	Channel     fanfare.Channel
	// Binary is the program that runs as server and worker.
	Binary string
	// Log says what is going on.
	Log *slog.Logger
	// Progress is told how many recipients are done, of how many. It may be nil.
	Progress func(step string, done, all int64)
}

const (
	apiKey        = "bench-key"
	twilioAccount = "AC00000000000000000000000000000001"
	twilioFrom    = "+34612345678"
)

// stack is everything that one run needs, started for it and gone with it.
type stack struct {
	group    local.Group
	folder   string
	api      string
	postgres *local.Postgres
	temporal *local.Temporal
	server   *local.Process
	worker   *local.Process
	sink     *sink
	db       *pgx.Conn
}

func startStack(ctx context.Context, cfg Config) (_ *stack, err error) {
	s := &stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop(context.WithoutCancel(ctx)))
		}
	}()
	if s.folder, err = os.MkdirTemp("", "fanfare-bench-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(s.folder, 0o755); err != nil { //nolint:gosec // as root, PostgreSQL's own user must pass through
		return nil, err
	}
	if s.sink, err = newSink(cfg.Subscribers); err != nil {
		return nil, err
	}
	cfg.Log.Info("starting PostgreSQL and Temporal, for this run only")
	s.postgres, err = local.StartPostgres(ctx, local.PostgresConfig{
		DataDir: filepath.Join(s.folder, "postgres"), Log: cfg.Log,
		Settings: map[string]string{"shared_preload_libraries": "pg_stat_statements"},
	})
	if err != nil {
		return nil, err
	}
	s.group.Add("postgres", s.postgres)
	if s.temporal, err = local.StartTemporal(ctx, local.TemporalConfig{File: filepath.Join(s.folder, "temporal.db"), Headless: true, Log: cfg.Log}); err != nil {
		return nil, err
	}
	s.group.Add("temporal", s.temporal)
	if _, err := schema.Up(ctx, s.postgres.URL); err != nil {
		return nil, err
	}
	if s.db, err = pgx.Connect(ctx, s.postgres.URL); err != nil {
		return nil, err
	}
	if _, err := s.db.Exec(ctx, `CREATE EXTENSION pg_stat_statements`); err != nil {
		return nil, fmt.Errorf("count queries: %w", err)
	}
	return s, s.startProcesses(cfg)
}

func (s *stack) startProcesses(cfg Config) error {
	port, err := local.FreePort()
	if err != nil {
		return err
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s.api = "http://" + listen
	env := append(foreign(os.Environ()),
		"FANFARE_DATABASE_URL="+s.postgres.URL, "FANFARE_TEMPORAL_ADDRESS="+s.temporal.Address, "FANFARE_TEMPORAL_NAMESPACE=fanfare",
		"FANFARE_LISTEN="+listen, "FANFARE_PUBLIC_URL="+s.api, "FANFARE_API_KEYS="+apiKey,
		"FANFARE_SECRET=nobody-follows-a-link-of-a-bench-run")
	env = append(env, s.sink.settings(cfg.Channel)...)
	for _, child := range []struct {
		name    string
		process **local.Process
	}{{"server", &s.server}, {"worker", &s.worker}} {
		p, err := local.StartProcess(local.Command{Name: child.name, Path: cfg.Binary, Args: []string{child.name, "--quiet"}, Env: env, Output: os.Stderr, Log: cfg.Log})
		if err != nil {
			return err
		}
		s.group.Add(child.name, p)
		*child.process = p
	}
	return nil
}

// foreign are the settings that are not Fanfare's or a provider's: those of the
// environment could send to real people.
func foreign(environ []string) []string {
	return slices.DeleteFunc(environ, func(pair string) bool {
		return slices.ContainsFunc([]string{"FANFARE_", "SENDGRID_", "SMTP_", "TWILIO_", "FCM_", "GOOGLE_"}, func(ours string) bool { return strings.HasPrefix(pair, ours) })
	})
}

func (s *stack) stop(ctx context.Context) error {
	if s.db != nil {
		_ = s.db.Close(ctx) // the server ends next
	}
	err := s.group.Stop(ctx)
	if s.sink != nil {
		s.sink.close()
	}
	return errors.Join(err, os.RemoveAll(s.folder))
}

// cpu is the processor time of each part so far, in seconds.
func (s *stack) cpu() map[string]float64 {
	all := map[string]float64{"sink": ownCPUSeconds()}
	for name, pid := range map[string]int{"postgres": s.postgres.PID(), "temporal": s.temporal.PID(), "server": s.server.PID(), "worker": s.worker.PID()} {
		all[name] = cpuSeconds(pid)
	}
	return all
}
