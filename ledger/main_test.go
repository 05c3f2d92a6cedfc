package ledger_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
	"github.com/fanfare-dev/fanfare/schema"
)

var dbs atomic.Int64

func database(t testing.TB) string {
	base := os.Getenv("FANFARE_TEST_POSTGRES")
	c, err := pgx.Connect(context.Background(), base)
	require.NoError(t, err)
	defer c.Close(context.Background())
	name := fmt.Sprintf("t%d_%d", os.Getpid(), dbs.Add(1))
	_, err = c.Exec(context.Background(), "CREATE DATABASE "+name)
	require.NoError(t, err)
	cfg := c.Config()
	url := fmt.Sprintf("postgres://%s@%s:%d/%s", cfg.User, cfg.Host, cfg.Port, name)
	_, err = schema.Up(context.Background(), url)
	require.NoError(t, err)
	return url
}

// world is a migrated database with a ledger over it, and a connection for looking.
type world struct {
	*ledger.Ledger
	t  testing.TB
	db *pgx.Conn
}

func newWorld(t testing.TB, change ...func(*ledger.Config)) *world {
	t.Helper()
	url := database(t)
	cfg := ledger.Config{
		Channels: []fanfare.Channel{fanfare.Email}, Expires: 24 * time.Hour, DoubtDeadline: time.Minute,
		DoubtPolicy: map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Resend},
	}
	for _, c := range change {
		c(&cfg)
	}
	l, err := ledger.Open(t.Context(), url, 8, cfg)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	db, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close(context.Background()) })
	return &world{Ledger: l, t: t, db: db}
}

// subscribed makes the topic "writer-1" with n subscribers, reader-1 to reader-n.
func (w *world) subscribed(n int) {
	w.t.Helper()
	_, err := w.PutTopic(w.t.Context(), "writer-1", "Writer One")
	require.NoError(w.t, err)
	w.imported(1, n, func(i int) fanfare.Subscriber {
		return fanfare.Subscriber{ID: fanfare.SubscriberID(fmt.Sprintf("reader-%d", i)), Email: fmt.Sprintf("reader-%d@mail.example", i)}
	})
}

// imported imports lines from to to, made by subscriber.
func (w *world) imported(from, to int, subscriber func(int) fanfare.Subscriber) fanfare.ImportReport {
	w.t.Helper()
	i := from
	report, err := w.Import(w.t.Context(), "writer-1", func(context.Context) ([]fanfare.ImportLine, error) {
		var lines []fanfare.ImportLine
		for ; i <= to && len(lines) < 10000; i++ {
			lines = append(lines, fanfare.ImportLine{Line: i, Subscriber: subscriber(i)})
		}
		if i > to {
			return lines, io.EOF
		}
		return lines, nil
	})
	require.NoError(w.t, err)
	return report
}

// running accepts and starts a publication, and plans all of it in batches of size.
func (w *world) running(key string, size int) fanfare.BatchRef {
	w.t.Helper()
	p, err := w.Accept(w.t.Context(), draft(key), "")
	require.NoError(w.t, err)
	require.NoError(w.t, w.Start(w.t.Context(), p.ID))
	_, complete, err := w.Plan(w.t.Context(), p.ID, size, 1000)
	require.NoError(w.t, err)
	require.True(w.t, complete)
	return fanfare.BatchRef{Publication: p.ID, Channel: fanfare.Email, N: 1}
}

func draft(key string) fanfare.Draft {
	return fanfare.Draft{Key: fanfare.Key(key), Topic: "writer-1", Content: fanfare.Content{Title: "Hello", URL: "https://blog.example/" + key}}
}

var (
	accepted = fanfare.Result{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "202"}, ProviderID: "m-1"}
	lost     = fanfare.Result{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Detail: "cut"}}
)

func (w *world) claimNew(ref fanfare.BatchRef, limit int) fanfare.Claim {
	w.t.Helper()
	c, err := w.ClaimNew(w.t.Context(), ref, "sendgrid", limit)
	require.NoError(w.t, err)
	return c
}

func (w *world) claimDue(ref fanfare.BatchRef, limit int) fanfare.Claim {
	w.t.Helper()
	c, err := w.ClaimDue(w.t.Context(), ref, "sendgrid", limit, fanfare.Range{First: 0, Last: 1 << 60})
	require.NoError(w.t, err)
	return c
}

func (w *world) settle(ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) fanfare.BatchTally {
	w.t.Helper()
	tally, err := w.Settle(w.t.Context(), ref, call, r)
	require.NoError(w.t, err)
	return tally
}

// balanced checks the books row by row.
func (w *world) balanced() fanfare.Verification {
	w.t.Helper()
	v, err := w.Verify(w.t.Context(), "", nil)
	require.NoError(w.t, err)
	require.Empty(w.t, v.Problems)
	return v
}
