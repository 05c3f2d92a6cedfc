package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// addWaiting says why publications that run are not finished, where they are not
// simply under way.
func (l *Ledger) addWaiting(ctx context.Context, p *fanfare.Publication) error {
	if p.FinishedAt != nil || p.Totals.Unfinished() == 0 {
		return nil
	}
	b := &pgx.Batch{}
	add := func(rows pgx.Rows, sentence func(w fanfare.Waiting, detail string) string) error {
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.Waiting, error) {
			var w fanfare.Waiting
			var detail string
			err := row.Scan(&w.Kind, &w.Provider, &w.Since, &w.Until, &w.Count, &detail)
			w.Sentence = sentence(w, detail)
			return w, err
		})
		p.WaitingFor = append(p.WaitingFor, list...)
		return err
	}
	if p.State == fanfare.Running {
		b.Queue(waitingForProviderSQL, p.Channels, p.Totals.Pending).Query(func(rows pgx.Rows) error { return add(rows, aboutProvider) })
	}
	if p.Totals.InDoubt > 0 { // also of one that was stopped: it keeps it from ending
		b.Queue(waitingForEvidenceSQL, p.ID).Query(func(rows pgx.Rows) error { return add(rows, aboutDoubt) })
	}
	if p.State == fanfare.Running {
		b.Queue(waitingForRetrySQL, p.ID).Query(func(rows pgx.Rows) error { return add(rows, aboutRetry) })
	}
	return l.pipeline(ctx, b)
}

const (
	// $1 the channels, $2 how many are pending.
	waitingForProviderSQL = `
SELECT CASE WHEN state <> 'closed' THEN 'provider' ELSE 'throttle' END, provider, CASE WHEN state <> 'closed' THEN since END,
  CASE WHEN state <> 'closed' THEN probe_at ELSE throttled_until END, $2::bigint, CASE
    WHEN state = 'closed' THEN throttled_why WHEN pinned THEN 'a person opened it and pinned it' ELSE reason END
FROM providers WHERE channel::text = ANY ($1::text[]) AND $2::bigint > 0 AND (state <> 'closed' OR throttled_until > clock_timestamp())
ORDER BY channel, provider`

	// $1 the publication.
	waitingForEvidenceSQL = `
SELECT 'doubt', d.provider, min(d.call_ended_at), max(deadline), sum(c.size)::bigint, count(*) || ' calls, looked up ' || max(looks) || ' times at most; ' ||
  COALESCE((array_agg(last_look ORDER BY look_at DESC) FILTER (WHERE last_look IS NOT NULL))[1], 'the first look-up is to come')
FROM doubts d JOIN calls c USING (publication_id, call_id) WHERE publication_id = $1 GROUP BY d.provider ORDER BY d.provider`

	// $1 the publication. Who is due at this moment waits for nothing.
	waitingForRetrySQL = `
SELECT 'retry', '', NULL::timestamptz, min(due_at), count(*), '' FROM attention
WHERE publication_id = $1 AND state = 'pending' AND due_at > clock_timestamp() HAVING count(*) > 0`
)

func aboutProvider(w fanfare.Waiting, detail string) string {
	if w.Kind == fanfare.WaitingThrottle {
		return fmt.Sprintf("%s asked for time and is not called until %s: %s.", w.Provider, clock(w.Until), detail)
	}
	next := "it stays so until somebody runs: fanfare providers close " + w.Provider
	if w.Until != nil {
		next = "the next probe is at " + clock(w.Until)
	}
	return fmt.Sprintf("%s is not called since %s (%s); %s.", w.Provider, clock(w.Since), detail, next)
}

func aboutDoubt(w fanfare.Waiting, detail string) string {
	return fmt.Sprintf("%d recipients are in doubt at %s: nobody knows yet whether their messages were taken (%s). Without evidence the policy decides at %s.",
		w.Count, w.Provider, detail, clock(w.Until))
}

func aboutRetry(w fanfare.Waiting, _ string) string {
	return fmt.Sprintf("%d recipients were not accepted and are tried again, the next at %s.", w.Count, clock(w.Until))
}

func clock(at *time.Time) string {
	if at == nil {
		return "an unknown time"
	}
	return at.UTC().Format("15:04:05 UTC")
}
