// Package schema owns the tables: numbered migrations, embedded, up and down.
//
// It never reads or writes the rows in them; that is the ledger's. It promises
// that migrating is safe to run by several processes at once (one does it, the
// others wait) and that a database newer than the binary is refused rather than
// used.
package schema

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver that goose needs
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migration is one numbered step and whether the database has it.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"`
}

// Version is that of the newest migration.
func Version() int64 {
	newest := int64(0)
	names, _ := fs.Glob(migrations, "migrations/*.sql") // fails for a bad pattern only
	for _, name := range names {
		if version, err := goose.NumericComponent(name); err == nil {
			newest = max(newest, version)
		}
	}
	return newest
}

// Up applies every migration that the database does not have yet and returns
// the names of those it applied.
func Up(ctx context.Context, url string) ([]string, error) {
	var applied []string
	err := with(ctx, url, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		for _, r := range results {
			applied = append(applied, r.Source.Path)
		}
		return err
	})
	return applied, err
}

// Down takes back the newest applied migration and returns its name. With it go the
// rows of the tables it made.
func Down(ctx context.Context, url string) (string, error) {
	var name string
	err := with(ctx, url, func(p *goose.Provider) error {
		result, err := p.Down(ctx)
		if err == nil {
			name = result.Source.Path
		}
		return err
	})
	return name, err
}

// Status lists all migrations, oldest first.
func Status(ctx context.Context, url string) ([]Migration, error) {
	var list []Migration
	err := with(ctx, url, func(p *goose.Provider) error {
		status, err := p.Status(ctx)
		for _, s := range status {
			m := Migration{Version: s.Source.Version, Name: s.Source.Path}
			if s.State == goose.StateApplied {
				m.AppliedAt = &s.AppliedAt
			}
			list = append(list, m)
		}
		return err
	})
	return list, err
}

func with(ctx context.Context, url string, do func(*goose.Provider) error) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer db.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	// Another process migrates: ask again every second, for five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("lock migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := refuseNewer(ctx, provider); err != nil {
		return err
	}
	if err := do(provider); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

// refuseNewer fails when the database has a migration that this binary does not
// know; goose would pass over it in silence.
func refuseNewer(ctx context.Context, p *goose.Provider) error {
	current, newest, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the version of the tables: %w", err)
	}
	if current > newest {
		return fmt.Errorf("the database's tables are newer (version %d) than this binary (version %d): use the newer binary", current, newest)
	}
	return nil
}
