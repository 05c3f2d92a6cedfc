// Package ledger owns every statement of SQL: intake, audience, gate, claim,
// settle, doubt, totals and outbox.
//
// It holds the truth. If every record in Temporal vanished, what stands here is
// enough to finish all unfinished publications without a duplicate. It never
// calls a provider and knows nothing of Temporal or HTTP.
//
// It promises:
//
//   - A delivery is claimed by at most one call at a time. Claim, settle,
//     release and doubt take effect only for the call that holds the delivery.
//   - Whoever changes deliveries first locks their batch's row, so that two
//     changes of one batch follow each other and none of them deadlock.
//   - Work on many recipients is one statement for all of them, by ranges of
//     subscriber numbers; never OFFSET, never a query per recipient.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/schema"
)

// The spans of a lease.
const (
	// beginWithin is how long after its claim a call may begin. A cancel waits
	// for it, so it bounds how long a cancel takes.
	beginWithin = time.Second
	// callWithin is how long after its claim a call may last. Providers answer
	// within seconds; a call cut earlier than that would be doubt made by us.
	callWithin = 15 * time.Second
	// lapseMargin keeps others off a call that ran out: its worker may be
	// settling at this very moment.
	lapseMargin = 2 * time.Second
)

// pipelineWithin ends a pipeline whose server is there and mute. Longer than its
// statements may take.
const pipelineWithin = 2 * time.Minute

// Policy says what to do with a delivery in doubt when the deadline has passed
// without evidence.
type Policy string

// The policies.
const (
	Resend Policy = "resend" // once, and never again
	Hold   Policy = "hold"   // dead, with the reason doubt_held
)

// Config is what the ledger has to know. All fields are required that do not say
// otherwise.
type Config struct {
	Channels      []fanfare.Channel          // the channels that are on
	Expires       time.Duration              // default life of a publication, from its scheduled time
	DoubtDeadline time.Duration              // from the end of a call to the policy
	DoubtPolicy   map[fanfare.Channel]Policy // what is left out is held
	// Ladder are the waits after the attempts that count, the first after the
	// first; who is refused once more behind the last is dead. Who only reads needs none.
	Ladder []time.Duration
	// Prove renders everything that a publication asks for, and lists what cannot be in an
	// error that matches fanfare.ErrInvalid: such a publication is not accepted. Who accepts
	// none needs none.
	Prove func(fanfare.Announcement) error
}

// Ledger is the truth about who was sent what. It is safe for concurrent use.
type Ledger struct {
	pool *pgxpool.Pool
	cfg  Config
}

// Open connects to the database at url with at most maxConns connections. It
// does not wait for the server: a ledger opened while PostgreSQL is away works
// once it is back.
func Open(ctx context.Context, url string, maxConns int32, cfg Config) (*Ledger, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		// ParseConfig's error repeats the URL without its password.
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	pc.MaxConns = maxConns
	pc.MaxConnLifetime = time.Hour
	pc.MaxConnLifetimeJitter = 10 * time.Minute
	pc.ConnConfig.ConnectTimeout = 5 * time.Second
	pc.ConnConfig.DialFunc = dialer().DialContext
	defaults := map[string]string{
		"application_name": "fanfare",
		// A statement that hangs must not hold its locks for ever. Import chunks
		// and the planning of large audiences take seconds.
		"statement_timeout":                   "60s",
		"idle_in_transaction_session_timeout": "30s",
		// Compiling costs more than these short statements run.
		"jit": "off",
	}
	for name, value := range defaults {
		if _, given := pc.ConnConfig.RuntimeParams[name]; !given {
			pc.ConnConfig.RuntimeParams[name] = value
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Ledger{pool: pool, cfg: cfg}, nil
}

// dialer gives up a server that vanished without a word after half a minute: a
// statement's time-out is the server's, and TCP alone waits for a quarter of an hour.
func dialer() *net.Dialer {
	const silence = 30 * time.Second
	return &net.Dialer{
		Timeout:         5 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 6, Count: 3},
		Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { limitSilence(fd, silence) })
		},
	}
}

// Close waits for the connections in use and closes them all.
func (l *Ledger) Close() { l.pool.Close() }

// Ping asks whether PostgreSQL answers and has all tables that this ledger knows. They
// may be newer: while an upgrade is under way, those of before go on.
func (l *Ledger) Ping(ctx context.Context) error {
	var version int64
	err := l.pool.QueryRow(ctx, `SELECT COALESCE(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&version)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // there is no such table
		err = nil
	}
	if err == nil && version < schema.Version() {
		return fmt.Errorf("ping: tables are missing, run `fanfare migrate up`: %w", fanfare.ErrUnavailable)
	}
	return failed("ping", err)
}

// transact runs do in a transaction and commits when it returns nil.
func (l *Ledger) transact(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, l.pool, do)
}

// pipeline sends all statements in one round trip, as one transaction: without
// an explicit BEGIN, PostgreSQL takes a pipeline up to its end as one. Each
// statement has a snapshot of its own, so that a claim sees what the
// lock before it waited for.
func (l *Ledger) pipeline(ctx context.Context, b *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, pipelineWithin)
	defer cancel()
	return l.pool.SendBatch(ctx, b).Close()
}

// failed wraps err with what was being done. When PostgreSQL cannot be reached
// or is refusing work for a while it also matches fanfare.ErrUnavailable.
// PostgreSQL's DETAIL, which may quote a row, is left out.
func failed(op string, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &pg):
		if transient(pg.Code) {
			return fmt.Errorf("%s: %s (SQLSTATE %s): %w", op, pg.Message, pg.Code, fanfare.ErrUnavailable)
		}
		return fmt.Errorf("%s: %w", op, err)
	case errors.Is(err, context.Canceled), isFanfare(err):
		return fmt.Errorf("%s: %w", op, err)
	case unreachable(err):
		return fmt.Errorf("%s: PostgreSQL cannot be reached: %w", op, errors.Join(fanfare.ErrUnavailable, err))
	}
	return fmt.Errorf("%s: %w", op, err)
}

// transient tells the SQLSTATEs after which the same call may succeed:
// connection trouble, shortage, a deadlock, a shutdown or a time-out.
func transient(code string) bool {
	switch code[:2] {
	case "08", "53", "57":
		return true
	}
	return code == "40P01" || code == "40001" || code == "55P03" || code == "25P03"
}

func unreachable(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) ||
		errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		err.Error() == "unexpected EOF" || errors.Is(err, net.ErrClosed)
}

func isFanfare(err error) bool {
	for _, known := range []error{
		fanfare.ErrInvalid, fanfare.ErrNotFound, fanfare.ErrConflict, fanfare.ErrWrongState,
		fanfare.ErrKeyReused, fanfare.ErrUnavailable, fanfare.ErrUnknownTopic, fanfare.ErrChannelOff,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

func seconds(d time.Duration) float64 { return d.Seconds() }

// textOrNull keeps empty texts out of the tables.
func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
