package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Figures are what a publication cost the database.
type Figures struct {
	Accepted     time.Time
	FirstSettled time.Time
	LastSettled  time.Time
	Queries      int64 // statements run since the statistics were reset
	Items        int64 // in inboxes
	ItemsTwice   int64 // beside another one in the same inbox
}

// Measure reads the figures of a finished publication, for benchmarks. The
// database needs the extension pg_stat_statements.
func Measure(ctx context.Context, db *pgx.Conn, id fanfare.PublicationID) (Figures, error) {
	var f Figures
	err := db.QueryRow(ctx, `
		SELECT p.accepted_at, c.first, c.last, (SELECT sum(calls)::bigint FROM pg_stat_statements WHERE toplevel), i.items, i.items - i.readers
		FROM publications p,
		  (SELECT min(ended_at) AS first, max(ended_at) AS last FROM calls WHERE publication_id = $1) c,
		  (SELECT count(*) AS items, count(DISTINCT subscriber_number) AS readers FROM inbox_items WHERE publication_id = $1) i
		WHERE p.publication_id = $1`, id).Scan(&f.Accepted, &f.FirstSettled, &f.LastSettled, &f.Queries, &f.Items, &f.ItemsTwice)
	return f, failed("measure "+string(id), err)
}
