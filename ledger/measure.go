package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Figures are what a publication cost the database.
type Figures struct {
	Accepted    time.Time
	LastSettled time.Time
	Queries     int64 // statements run since the statistics were reset
}

// Measure reads the figures of a finished publication, for benchmarks. The
// database needs the extension pg_stat_statements.
func Measure(ctx context.Context, db *pgx.Conn, id fanfare.PublicationID) (Figures, error) {
	var f Figures
	err := db.QueryRow(ctx, `
		SELECT p.accepted_at, (SELECT max(ended_at) FROM calls WHERE publication_id = $1),
		  (SELECT sum(calls)::bigint FROM pg_stat_statements WHERE toplevel)
		FROM publications p WHERE p.publication_id = $1`, id).Scan(&f.Accepted, &f.LastSettled, &f.Queries)
	return f, failed("measure "+string(id), err)
}
