package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// sampleSize is how many deliveries a dry run names.
	sampleSize = 20
	// paceOf is the time over which a dry run measures how fast the channel was
	// sent on, and paceCalls how many calls in flight it reckons with at least: those of
	// one batch.
	paceOf    = 24 * time.Hour
	paceCalls = 4
)

// deadLock is an advisory lock: who takes dead letters back shares it, and who
// selects them for a replay holds it alone, or would count some that another replay is
// taking back at that moment.
const deadLock = `hashtextextended('fanfare dead letters', 0)`

// The dead letters that a filter means: $1 publication, $2 topic, $3 channel,
// $4 code, $5 reason, $6 since, $7 until. why says why one of them cannot be sent again.
const deadLettersSQL = `
WITH dead AS (
  SELECT a.publication_id, a.channel, a.batch, a.subscriber_number, d.reason, d.code, CASE
    WHEN p.state = 'cancelled' THEN 'cancelled'
    WHEN p.request ? 'expires_at' AND p.expires_at <= clock_timestamp() THEN 'expired'
    WHEN d.reason = 'doubt_held' AND $5::text = '' THEN 'doubt_held'
    WHEN EXISTS (SELECT FROM replay_deliveries r WHERE r.publication_id = a.publication_id AND r.channel = a.channel
      AND r.subscriber_number = a.subscriber_number AND r.taken_at IS NULL) THEN 'replaying'
  END AS why
  FROM attention a JOIN publications p USING (publication_id) JOIN topics t USING (topic_id)
  CROSS JOIN LATERAL (
    SELECT d.reason, d.code, d.changed_at FROM deliveries d
    WHERE d.publication_id = a.publication_id AND d.channel = a.channel AND d.subscriber_number = a.subscriber_number AND d.state = 'dead' OFFSET 0) d
  WHERE a.state = 'dead' AND ($1::uuid IS NULL OR a.publication_id = $1::uuid) AND ($2::text = '' OR t.topic = $2::text)
    AND ($3::text = '' OR a.channel::text = $3::text) AND ($4::text = '' OR d.code = $4::text) AND ($5::text = '' OR d.reason = $5::text)
    AND ($6::timestamptz IS NULL OR d.changed_at >= $6::timestamptz) AND ($7::timestamptz IS NULL OR d.changed_at < $7::timestamptz)
)`

// filterArgs are the parameters of deadLettersSQL.
func (l *Ledger) filterArgs(ctx context.Context, f fanfare.ReplayFilter) ([]any, error) {
	var publication *string
	if f.Publication != "" {
		p, err := l.FindPublication(ctx, f.Publication)
		if err != nil {
			return nil, err
		}
		id := string(p.ID)
		publication = &id
	}
	return []any{publication, f.Topic, f.Channel, f.Code, f.Reason, f.Since, f.Until}, nil
}

// PreviewReplay counts what a replay would send again, and changes nothing. A
// publication that does not exist is fanfare.ErrNotFound.
func (l *Ledger) PreviewReplay(ctx context.Context, f fanfare.ReplayFilter) (fanfare.ReplayPreview, error) {
	v := fanfare.ReplayPreview{
		ByChannel: map[fanfare.Channel]int64{}, ByReason: map[string]int64{}, ByCode: map[string]int64{}, Excluded: map[string]int64{}, Sample: []string{},
	}
	args, err := l.filterArgs(ctx, f)
	if err != nil {
		return v, failed("preview replay", err)
	}
	b := &pgx.Batch{}
	b.Queue(deadLettersSQL+` SELECT channel, reason, COALESCE(code, ''), COALESCE(why, ''), count(*) FROM dead GROUP BY 1, 2, 3, 4`, args...).Query(func(rows pgx.Rows) error {
		var channel fanfare.Channel
		var reason, code, why string
		var count int64
		_, err := pgx.ForEachRow(rows, []any{&channel, &reason, &code, &why, &count}, func() error {
			if why != "" {
				v.Excluded[why] += count
				return nil
			}
			v.Count += count
			v.ByChannel[channel] += count
			v.ByReason[reason] += count
			if code != "" {
				v.ByCode[code] += count
			}
			return nil
		})
		return err
	})
	b.Queue(deadLettersSQL+` SELECT publication_id, channel, subscriber_number FROM dead WHERE why IS NULL LIMIT $8`, append(args, sampleSize)...).Query(func(rows pgx.Rows) error {
		var id fanfare.DeliveryID
		_, err := pgx.ForEachRow(rows, []any{&id.Publication, &id.Channel, &id.Number}, func() error {
			v.Sample = append(v.Sample, id.String())
			return nil
		})
		return err
	})
	if err := l.pipeline(ctx, b); err != nil {
		return v, failed("preview replay", err)
	}
	v.EstimatedSeconds, err = l.estimate(ctx, v.ByChannel)
	return v, failed("preview replay", err)
}

// estimate is how long so many deliveries take at the pace of the last day's
// calls, plus the time for which the providers must be left alone; channels are
// sent at the same time.
func (l *Ledger) estimate(ctx context.Context, counts map[fanfare.Channel]int64) (int64, error) {
	longest := 0.0
	for channel, count := range counts {
		var pace *float64
		var closed float64
		err := l.pool.QueryRow(ctx, `
			SELECT (SELECT sum(size) / NULLIF(sum(extract(epoch FROM ended_at - claimed_at)), 0) FROM (
			    SELECT size, ended_at, claimed_at FROM calls WHERE channel = $1 AND outcome = 'accepted'
			      AND publication_id > uuid_v7_floor(statement_timestamp() - make_interval(secs => $2)) ORDER BY publication_id DESC, call_id DESC LIMIT 1000) recent)::float8,
			  COALESCE((SELECT min(GREATEST(0, extract(epoch FROM GREATEST(throttled_until, CASE WHEN state <> 'closed' THEN probe_at END) - clock_timestamp())))
			    FROM providers WHERE channel = $1), 0)::float8`, channel, seconds(paceOf)).Scan(&pace, &closed)
		if err != nil {
			return 0, err
		}
		each := 1.0 // without any call to measure by: one second, the least there is
		if pace != nil && *pace > 0 {
			each = float64(count) / (*pace * paceCalls)
		}
		longest = max(longest, closed+each)
	}
	return int64(math.Ceil(longest)), nil
}

// AcceptReplay takes all dead letters that the filter means into a replay, and
// orders its workflow. Those that wait for another replay are not taken. The same
// idempotency key with the same filter is the same replay; with another one it
// is fanfare.ErrKeyReused.
func (l *Ledger) AcceptReplay(ctx context.Context, f fanfare.ReplayFilter, idempotencyKey string) (fanfare.Replay, error) {
	args, err := l.filterArgs(ctx, f)
	if err != nil {
		return fanfare.Replay{}, failed("accept replay", err)
	}
	filter, err := json.Marshal(f)
	if err != nil {
		return fanfare.Replay{}, failed("accept replay", err)
	}
	var id fanfare.ReplayID
	err = l.transact(ctx, func(tx pgx.Tx) error {
		// Its own statement: what is selected next is seen as it is behind the lock.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+deadLock+`)`); err != nil {
			return err
		}
		var again bool
		if id, again, err = startReplay(ctx, tx, filter, idempotencyKey); err != nil || again {
			return err
		}
		tag, err := tx.Exec(ctx, deadLettersSQL+`
			INSERT INTO replay_deliveries (replay_id, publication_id, channel, batch, subscriber_number)
			SELECT $8, publication_id, channel, batch, subscriber_number FROM dead WHERE why IS NULL
			ORDER BY publication_id, channel, subscriber_number -- one order for all replays: no deadlock
			ON CONFLICT (publication_id, channel, subscriber_number) WHERE taken_at IS NULL DO NOTHING`, append(args, id)...)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE replays SET count = $2::bigint, state = CASE WHEN $2::bigint = 0 THEN 'completed' ELSE state END,
			  finished_at = CASE WHEN $2::bigint = 0 THEN clock_timestamp() END WHERE replay_id = $1`, id, tag.RowsAffected()); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO outbox (replay_id, kind) SELECT $1, 'replay' WHERE $2::bigint > 0`, id, tag.RowsAffected())
		return err
	})
	if err != nil {
		return fanfare.Replay{}, failed("accept replay", err)
	}
	return l.Replay(ctx, id)
}

func startReplay(ctx context.Context, tx pgx.Tx, filter []byte, key string) (id fanfare.ReplayID, again bool, err error) {
	err = tx.QueryRow(ctx, `
		INSERT INTO replays (filter, idempotency_key) VALUES ($1, $2)
		ON CONFLICT (idempotency_key) DO NOTHING RETURNING replay_id`, filter, textOrNull(key)).Scan(&id)
	if !errors.Is(err, pgx.ErrNoRows) {
		return id, false, err
	}
	var same bool
	err = tx.QueryRow(ctx, `SELECT replay_id, filter = $1::jsonb FROM replays WHERE idempotency_key = $2`, filter, key).Scan(&id, &same)
	if err == nil && !same {
		err = fanfare.ErrKeyReused
	}
	return id, true, err
}

const replaySQL = `SELECT replay_id, filter, state, created_at, finished_at, count FROM replays`

// Replay reads a replay and how far it is.
func (l *Ledger) Replay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error) {
	list, err := l.replays(ctx, replaySQL+` WHERE replay_id = $1`, id)
	if err == nil && len(list) == 0 {
		err = fanfare.ErrNotFound
	}
	if err != nil {
		return fanfare.Replay{}, failed("read replay "+string(id), err)
	}
	return list[0], nil
}

// Replays lists replays, newest first, behind the given one.
func (l *Ledger) Replays(ctx context.Context, before fanfare.ReplayID, limit int) ([]fanfare.Replay, error) {
	list, err := l.replays(ctx, replaySQL+` WHERE $1::uuid IS NULL OR replay_id < $1::uuid ORDER BY replay_id DESC LIMIT $2`, textOrNull(string(before)), limit)
	return list, failed("list replays", err)
}

func (l *Ledger) replays(ctx context.Context, sql string, args ...any) ([]fanfare.Replay, error) {
	rows, err := l.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Replay, error) {
		var r fanfare.Replay
		err := row.Scan(&r.ID, &r.Filter, &r.State, &r.CreatedAt, &r.FinishedAt, &r.Count)
		return r, err
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		if err := l.addReplayed(ctx, &list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// addReplayed counts where the deliveries of a replay stand now.
func (l *Ledger) addReplayed(ctx context.Context, r *fanfare.Replay) error {
	t := &r.Totals
	err := l.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE taken_at IS NULL), count(*) FILTER (WHERE passed), count(*) FILTER (WHERE here),
		  count(*) FILTER (WHERE here AND state = 'pending'), count(*) FILTER (WHERE here AND state = 'sending'), count(*) FILTER (WHERE here AND state = 'in_doubt'),
		  count(*) FILTER (WHERE here AND state = 'sent'), count(*) FILTER (WHERE here AND state = 'delivered'), count(*) FILTER (WHERE here AND state = 'failed'),
		  count(*) FILTER (WHERE here AND state = 'skipped'), count(*) FILTER (WHERE here AND state = 'dead')
		FROM (
		  SELECT r.taken_at, r.passed, r.taken_at IS NOT NULL AND NOT r.passed AS here, d.state FROM replay_deliveries r CROSS JOIN LATERAL (
		    SELECT d.state FROM deliveries d WHERE d.publication_id = r.publication_id AND d.channel = r.channel AND d.subscriber_number = r.subscriber_number OFFSET 0) d
		  WHERE r.replay_id = $1) each`, r.ID).
		Scan(&r.Waiting, &r.Passed, &r.Reopened, &t.Pending, &t.Sending, &t.InDoubt, &t.Sent, &t.Delivered, &t.Failed, &t.Skipped, &t.Dead)
	t.Intended = r.Reopened
	return err
}

// CancelReplay takes up nobody else. Those that were taken up are sent to.
// Cancelling again is no error; a replay that is completed is fanfare.ErrWrongState.
func (l *Ledger) CancelReplay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error) {
	err := l.transact(ctx, func(tx pgx.Tx) error {
		var state fanfare.ReplayState
		err := tx.QueryRow(ctx, `SELECT state FROM replays WHERE replay_id = $1 FOR UPDATE`, id).Scan(&state)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fanfare.ErrNotFound
		case err != nil || state == fanfare.ReplayCancelled:
			return err
		case state == fanfare.ReplayCompleted:
			return fmt.Errorf("it is %s: %w", state, fanfare.ErrWrongState)
		}
		if _, err := tx.Exec(ctx, `UPDATE replays SET state = 'cancelled', finished_at = clock_timestamp() WHERE replay_id = $1`, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE replay_deliveries SET taken_at = clock_timestamp(), passed = true WHERE replay_id = $1 AND taken_at IS NULL`, id)
		return err
	})
	if err != nil {
		return fanfare.Replay{}, failed("cancel replay "+string(id), err)
	}
	return l.Replay(ctx, id)
}

// FinishReplay completes a replay when everyone in it has come to an end, and
// returns it as it is then.
func (l *Ledger) FinishReplay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error) {
	r, err := l.Replay(ctx, id)
	if err != nil || r.State != fanfare.ReplayRunning || r.Waiting > 0 || r.Totals.Unfinished() > 0 {
		return r, err
	}
	if _, err := l.pool.Exec(ctx, `
		UPDATE replays SET state = 'completed', finished_at = clock_timestamp() WHERE replay_id = $1 AND state = 'running'`, id); err != nil {
		return r, failed("finish replay "+string(id), err)
	}
	return l.Replay(ctx, id)
}

// UnfinishedReplays returns replays that are not finished, oldest first.
func (l *Ledger) UnfinishedReplays(ctx context.Context, limit int) ([]fanfare.ReplayID, error) {
	rows, err := l.pool.Query(ctx, `SELECT replay_id FROM replays WHERE finished_at IS NULL ORDER BY replay_id LIMIT $1`, limit)
	if err != nil {
		return nil, failed("list unfinished replays", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[fanfare.ReplayID])
	return ids, failed("list unfinished replays", err)
}
