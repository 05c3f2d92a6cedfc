package schema_test

import (
	"io/fs"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local/localtest"
	"github.com/fanfare-dev/fanfare/schema"
)

func TestUpDownAndUpAgain(t *testing.T) {
	t.Parallel()
	url := localtest.EmptyDatabase(t)
	db := connect(t, url)
	names := migrations(t)

	applied, err := schema.Up(t.Context(), url)
	require.NoError(t, err)
	require.Equal(t, names, applied)
	first := db.objects()
	db.publication()

	applied, err = schema.Up(t.Context(), url)
	require.NoError(t, err)
	require.Empty(t, applied, "there is nothing left to do")
	require.Equal(t, 1, one[int](db, `SELECT count(*) FROM publications`), "going up again touches no rows")

	for _, newest := range slices.Backward(names) {
		name, err := schema.Down(t.Context(), url)
		require.NoError(t, err)
		require.Equal(t, newest, name)
		if slices.Index(names, newest) > 1 { // the second made the function
			require.Zero(t, one[int](db, `SELECT make_partitions(2)`), "what is left works without %s", newest)
		}
	}
	require.Empty(t, db.objects(), "down leaves nothing behind")

	applied, err = schema.Up(t.Context(), url)
	require.NoError(t, err)
	require.Equal(t, names, applied)
	require.Equal(t, first, db.objects(), "the second time makes what the first made")
}

// migrations are the files in their order.
func migrations(t *testing.T) []string {
	t.Helper()
	names, err := fs.Glob(os.DirFS("migrations"), "*.sql")
	require.NoError(t, err)
	require.Greater(t, len(names), 1)
	return names
}

// objects names every table, index, sequence, type, function and trigger but goose's own.
func (db *tables) objects() []string {
	return all[string](db, `
		SELECT relkind::text || ' ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose%'
		UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typname NOT LIKE '%goose%'
		UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
		UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
		ORDER BY 1`)
}

func TestStatusTellsWhatIsApplied(t *testing.T) {
	t.Parallel()
	url := localtest.EmptyDatabase(t)
	list, err := schema.Status(t.Context(), url)
	require.NoError(t, err)
	require.Len(t, list, len(migrations(t)))
	require.Equal(t, "00001_audience.sql", list[0].Name)
	require.Nil(t, list[0].AppliedAt)

	_, err = schema.Up(t.Context(), url)
	require.NoError(t, err)
	list, err = schema.Status(t.Context(), url)
	require.NoError(t, err)
	for i, m := range list {
		require.Equal(t, migrations(t)[i], m.Name)
		require.NotNil(t, m.AppliedAt)
	}
}

func TestSeveralProcessesMayMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := localtest.EmptyDatabase(t)
	const processes = 4
	applied, errs := make([][]string, processes), make([]error, processes)
	var wg sync.WaitGroup
	for i := range processes {
		wg.Go(func() { applied[i], errs[i] = schema.Up(t.Context(), url) })
	}
	wg.Wait()
	did := 0
	for i := range processes {
		require.NoError(t, errs[i])
		if len(applied[i]) > 0 {
			require.Equal(t, migrations(t), applied[i])
			did++
		}
	}
	require.Equal(t, 1, did, "one does it and the others wait")
}

func TestANewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	url := localtest.EmptyDatabase(t)
	_, err := schema.Up(t.Context(), url)
	require.NoError(t, err)
	connect(t, url).exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`)

	_, err = schema.Up(t.Context(), url)
	require.ErrorContains(t, err, "newer")
	_, err = schema.Down(t.Context(), url)
	require.ErrorContains(t, err, "newer")
}
