package schema_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/schema"
)

func TestPartitionsAreMadeTwoMonthsAhead(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	var months []string
	first := one[time.Time](db, `SELECT date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')`)
	for _, table := range []string{"attempts", "calls", "deliveries", "events"} {
		for m := range 3 {
			months = append(months, table+first.AddDate(0, m, 0).Format("_2006_01"))
		}
	}
	const parts = `SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1`
	require.Equal(t, months, all[string](db, parts), "this month and two more")
	require.Zero(t, one[int](db, `SELECT make_partitions(2)`), "they are all there")
	require.Equal(t, 4, one[int](db, `SELECT make_partitions(3)`))
	require.Len(t, all[string](db, parts), 16)
	require.Zero(t, one[int](db, `SELECT count(*) FROM pg_partitioned_table WHERE partdefid <> 0`), "none is the default")
}

func TestEveryMomentUpToTwoMonthsAheadHasItsPartition(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	db.exec(`SET session_replication_role = replica`) // there is no batch to count the rows
	first := one[time.Time](db, `SELECT date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')`)
	for m := range 3 {
		for _, at := range []time.Time{first.AddDate(0, m, 0), first.AddDate(0, m+1, 0).Add(-time.Millisecond)} {
			require.Equal(t, "deliveries"+at.Format("_2006_01"), one[string](db, `
				INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id)
				VALUES (uuid_v7($1), 1, 'email', 1, 'sent', gen_random_uuid()) RETURNING tableoid::regclass::text`, at))
		}
	}
}

func TestADeliveryWithoutAPartitionIsAnError(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	db.publication()
	for _, at := range []string{`now() - interval '32 days'`, `now() + interval '100 days'`} {
		_, err := db.Exec(t.Context(), `INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, call_id)
			VALUES (uuid_v7(`+at+`), 1, 'email', 1, 'sent', gen_random_uuid())`)
		var pg *pgconn.PgError
		require.ErrorAs(t, err, &pg)
		require.Contains(t, pg.Message, "no partition of relation")
	}
}

func TestMakingPartitionsWaitsForNobody(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	db.exec(delivery, id, 1, "email", "sending")
	reader := connect(t, db.Config().ConnString())
	tx, err := reader.Begin(t.Context())
	require.NoError(t, err)
	reader.exec(`UPDATE deliveries SET state = 'sent'`)
	reader.exec(`UPDATE calls SET code = code`)
	reader.exec(`UPDATE attempts SET code = code`)
	reader.exec(`UPDATE events SET code = code`)

	db.exec(`SET lock_timeout = '5s'`)
	require.Equal(t, 4, one[int](db, `SELECT make_partitions(3)`), "a claim or a verify under way holds nobody up")
	require.NoError(t, tx.Commit(t.Context()))

	part := one[string](db, `SELECT max(relname)::text FROM pg_class WHERE relispartition AND relkind = 'r' AND relname LIKE 'deliveries%'`)
	require.Contains(t, one[string](db, `SELECT reloptions::text FROM pg_class WHERE relname = $1`, part), "fillfactor=70")
	require.Equal(t, one[int](db, `SELECT count(*) FROM pg_constraint WHERE conrelid = 'deliveries'::regclass`),
		one[int](db, `SELECT count(*) FROM pg_constraint WHERE conrelid = $1::text::regclass`, part), "a partition has every constraint")
	require.Equal(t, 1, one[int](db, `SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = 'state_machine'`, part))
}

// A database that is older than events has deliveries older than them, too.
func TestEveryDeliveryHasAPartitionForItsEvents(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	for name := ""; name != "00003_events.sql"; {
		var err error
		name, err = schema.Down(t.Context(), db.Config().ConnString())
		require.NoError(t, err)
	}
	db.exec(`
		CREATE TABLE deliveries_2020_02 (LIKE deliveries INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
		ALTER TABLE deliveries ATTACH PARTITION deliveries_2020_02 FOR VALUES FROM (uuid_v7_floor('2020-02-01Z')) TO (uuid_v7_floor('2020-03-01Z'))`)
	_, err := schema.Up(t.Context(), db.Config().ConnString())
	require.NoError(t, err)
	const bounds = `
		SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = $1::text::regclass ORDER BY c.relname`
	require.Len(t, all[string](db, bounds, "events"), 4)
	require.Equal(t, all[string](db, bounds, "deliveries"), all[string](db, bounds, "events"))
	require.True(t, one[bool](db, `SELECT to_regclass('events_2020_02') IS NOT NULL`))
}
