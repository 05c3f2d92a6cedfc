package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// takenAtOnce is how many events one INSERT takes in.
	takenAtOnce = 5000
	// eventTextAtMost is how many bytes of a provider's code or id are kept. Real
	// ones have tens; a code is part of a key that must stay small.
	eventTextAtMost = 200
)

// TakeEvents keeps what a webhook brought, all of it or nothing, until
// ApplyEvents. Of an address it keeps the hash.
func (l *Ledger) TakeEvents(ctx context.Context, events []fanfare.ProviderEvent) error {
	b := &pgx.Batch{}
	for chunk := range slices.Chunk(heardAtOnce(b, events), takenAtOnce) {
		b.Queue(takeEventsSQL, columnsOf(chunk)...)
	}
	return failed("take events", l.pipeline(ctx, b))
}

const takeEventsSQL = `
INSERT INTO event_inbox (provider, type, at, digest, publication_id, channel, subscriber_number, call_id, code, permanent, provider_id, address_hash)
SELECT provider, type::event_type, at, digest, publication_id::uuid, channel::channel, subscriber_number, call_id::uuid, code, permanent, provider_id, address_hash(address)
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::bool[], $11::text[], $12::text[])
  AS e (provider, type, at, digest, publication_id, channel, subscriber_number, call_id, code, permanent, provider_id, address)`

// columnsOf are the parameters of takeEventsSQL. What cannot be an id of ours
// names nothing.
func columnsOf(events []fanfare.ProviderEvent) []any {
	n := len(events)
	providers, types, ats, digests := make([]string, n), make([]string, n), make([]time.Time, n), make([][]byte, n)
	publications, channels, numbers, calls := make([]*string, n), make([]*string, n), make([]*int64, n), make([]*string, n)
	codes, permanent, ids, addresses := make([]*string, n), make([]bool, n), make([]*string, n), make([]*string, n)
	for i, e := range events {
		providers[i], types[i], ats[i], digests[i], permanent[i] = e.Provider, string(e.Type), e.At, e.Digest[:], e.Permanent
		if d := e.Delivery; fanfare.ValidPublicationID(string(d.Publication)) && d.Channel.Valid() {
			publication, channel, number := string(d.Publication), string(d.Channel), int64(d.Number)
			publications[i], channels[i], numbers[i] = &publication, &channel, &number
		}
		if call := string(e.Call); fanfare.ValidCallID(call) {
			calls[i] = &call
		}
		codes[i], ids[i], addresses[i] = eventText(e.Code, eventTextAtMost), eventText(e.ProviderID, eventTextAtMost), eventText(e.Address, len(e.Address))
	}
	return []any{providers, types, ats, digests, publications, channels, numbers, calls, codes, permanent, ids, addresses}
}

// eventText is a provider's text as PostgreSQL can keep it, at most so many
// bytes of it; nil when it is empty.
func eventText(s string, most int) *string {
	return textOrNull(strings.ReplaceAll(strings.ToValidUTF8(s[:min(len(s), most)], ""), "\x00", ""))
}

// ApplyEvents applies at most limit events that were taken in, oldest first, and
// returns how many: fewer than limit when no more can be applied now. Several may run at once.
//
// Each event is stored once. It proves that the provider accepted its call,
// whatever the call's own answer was; for its delivery the strongest of all events
// counts, in whatever order they come. Bounces for good, too many that are not,
// complaints, and leaving at the provider suppress the address. Events for nobody
// are kept aside.
func (l *Ledger) ApplyEvents(ctx context.Context, limit int) (applied int, err error) {
	err = l.transact(ctx, func(tx pgx.Tx) error {
		picked, err := pickEvents(ctx, tx, limit)
		if err != nil || len(picked.ids) == 0 {
			return err
		}
		proofs, waiting, err := picked.store(ctx, tx)
		if err != nil {
			return err
		}
		moves, err := l.prove(ctx, tx, proofs, picked)
		if err != nil {
			return err
		}
		applied = len(picked.ids) - waiting
		return conclude(ctx, tx, proofs, moves)
	})
	if err != nil {
		return 0, failed("apply events", err)
	}
	return applied, nil
}

// picked are events by their place in the inbox, and those deliveries of theirs
// that there are.
type picked struct {
	ids          []int64
	publications []pgtype.UUID
	channels     []string
	numbers      []int64
	batches      []int32
	soft         bool // some are soft bounces
}

// pickEvents takes the oldest events that nobody else has taken. A delivery has
// its row before its call begins, so who is not found now is nobody.
func pickEvents(ctx context.Context, tx pgx.Tx, limit int) (picked, error) {
	var p picked
	rows, err := tx.Query(ctx, `
		SELECT i.event_inbox_id, i.publication_id, i.channel::text, i.subscriber_number, i.type = 'bounced' AND NOT i.permanent, d.batch FROM (
		  SELECT event_inbox_id, publication_id, channel, subscriber_number, type, permanent FROM event_inbox
		  ORDER BY event_inbox_id LIMIT $1 FOR UPDATE SKIP LOCKED) i
		LEFT JOIN LATERAL (
		  SELECT d.batch FROM deliveries d
		  WHERE d.publication_id = i.publication_id AND d.channel = i.channel AND d.subscriber_number = i.subscriber_number OFFSET 0) d ON true`, limit)
	if err != nil {
		return p, err
	}
	var id int64
	var publication pgtype.UUID
	var channel *string
	var number *int64
	var soft bool
	var batch *int32
	_, err = pgx.ForEachRow(rows, []any{&id, &publication, &channel, &number, &soft, &batch}, func() error {
		p.ids, p.soft = append(p.ids, id), p.soft || soft
		if batch != nil {
			p.publications, p.channels = append(p.publications, publication), append(p.channels, *channel)
			p.numbers, p.batches = append(p.numbers, *number), append(p.batches, *batch)
		}
		return nil
	})
	return p, err
}

// proof is an event that says more of a call than the ledger knows.
type proof struct {
	ref        fanfare.BatchRef
	call       fanfare.CallID
	evidence   string
	providerID string
	answered   bool // the call had an outcome, and others may wait because of it
}

// store moves the events out of the inbox to where they stay. waiting are those
// that went back into it: their delivery is being sent to by another call, which is
// not to be disturbed, and what they say must not be lost to it.
func (p picked) store(ctx context.Context, tx pgx.Tx) (proofs []proof, waiting int, err error) {
	b := &pgx.Batch{}
	if p.soft { // before the batches, because claims wait for those
		b.Queue(lockSoftBouncesSQL)
	}
	b.Queue(lockBatchesSQL, p.publications, p.channels, p.batches)
	b.Queue(storeEventsSQL, p.ids, seconds(softBouncesWithin), softBouncesAtMost).Query(func(rows pgx.Rows) error {
		var publication, call, kind, providerID *string
		var channel *string
		var batch *int
		var at *time.Time
		var answered *bool
		_, err := pgx.ForEachRow(rows, []any{&waiting, &publication, &channel, &batch, &call, &kind, &at, &providerID, &answered}, func() error {
			if call == nil {
				return nil
			}
			one := proof{
				ref:  fanfare.BatchRef{Publication: fanfare.PublicationID(*publication), Channel: fanfare.Channel(*channel), N: *batch},
				call: fanfare.CallID(*call), answered: *answered,
				evidence: fmt.Sprintf("event %s of %s", *kind, at.UTC().Format(time.RFC3339)),
			}
			if providerID != nil {
				one.providerID = *providerID
			}
			proofs = append(proofs, one)
			return nil
		})
		return err
	})
	return proofs, waiting, tx.SendBatch(ctx, b).Close()
}

const (
	// Who counts the soft bounces of an address must see those that others have just
	// stored.
	lockSoftBouncesSQL = `SELECT pg_advisory_xact_lock(hashtextextended('fanfare soft bounces', 0))`

	// One order for all who lock several batches: no deadlock.
	lockBatchesSQL = `
SELECT FROM (
  SELECT DISTINCT publication_id, channel::channel AS channel, n FROM unnest($1::uuid[], $2::text[], $3::int[]) AS k (publication_id, channel, n)
  ORDER BY publication_id, channel, n) k
CROSS JOIN LATERAL (SELECT FROM batches b WHERE b.publication_id = k.publication_id AND b.channel = k.channel AND b.n = k.n FOR UPDATE) b`

	// What one applier waits for another with, digests and hashes, is written in
	// one order too. $1 places in the inbox, $2 and $3 the rule of soft bounces.
	storeEventsSQL = `
WITH gone AS (
  DELETE FROM event_inbox WHERE event_inbox_id = ANY ($1::bigint[]) RETURNING *
), event AS MATERIALIZED (
  SELECT gone.*, d.batch, (d.state = 'sending' AND (d.call_id IS DISTINCT FROM gone.call_id OR gone.type = 'unsubscribed')) IS TRUE AS waits
  FROM gone LEFT JOIN LATERAL (
    SELECT d.batch, d.state, d.call_id FROM deliveries d
    WHERE d.publication_id = gone.publication_id AND d.channel = gone.channel AND d.subscriber_number = gone.subscriber_number OFFSET 0) d ON true
), waiting AS (
  INSERT INTO event_inbox (provider, type, at, received_at, digest, publication_id, channel, subscriber_number, call_id, code, permanent, provider_id, address_hash)
  SELECT provider, type, at, received_at, digest, publication_id, channel, subscriber_number, call_id, code, permanent, provider_id, address_hash
  FROM event WHERE waits ORDER BY event_inbox_id
  RETURNING event_inbox_id
), stray AS (
  INSERT INTO stray_events (digest, provider, type, at, received_at, why)
  SELECT digest, provider, type, at, received_at, CASE WHEN publication_id IS NULL THEN 'names no delivery' ELSE 'names an unknown delivery' END
  FROM event WHERE batch IS NULL ORDER BY digest
  ON CONFLICT DO NOTHING
), stored AS (
  INSERT INTO events (publication_id, subscriber_number, channel, type, at, received_at, call_id, digest, provider, code)
  SELECT publication_id, subscriber_number, channel, type, at, received_at, call_id, digest, provider, code
  FROM event WHERE batch IS NOT NULL AND NOT waits ORDER BY publication_id, subscriber_number, channel
  ON CONFLICT DO NOTHING
  RETURNING publication_id, subscriber_number, channel, type, at, call_id, digest
), suppressed AS (
  INSERT INTO suppressions AS s (channel, address_hash, reason, provider, created_at)
  SELECT DISTINCT ON (channel, address_hash) channel, address_hash, type, provider,
    CASE WHEN type = 'unsubscribed' THEN at ELSE clock_timestamp() END FROM event
  WHERE NOT waits AND (type IN ('complained', 'unsubscribed') OR type = 'bounced' AND permanent) AND address_hash IS NOT NULL
    AND (digest IN (SELECT digest FROM stored)) IS TRUE
    AND NOT (type = 'unsubscribed' AND EXISTS (SELECT FROM address_events a -- and came back since
      WHERE a.channel = event.channel AND a.address_hash = event.address_hash AND NOT a.leaves AND a.at > event.at))
  ORDER BY channel, address_hash, type = 'unsubscribed', type, at DESC` + whereSuppressedSQL + `
), known AS MATERIALIZED ( -- and stays so until this is committed: of who was erased nothing is kept
  SELECT e.subscriber_number FROM (SELECT DISTINCT subscriber_number FROM event WHERE type = 'bounced' AND NOT permanent) e
  CROSS JOIN LATERAL (SELECT FROM subscribers s WHERE s.subscriber_number = e.subscriber_number AND s.erased_at IS NULL OFFSET 0 FOR KEY SHARE) s
), soft AS (
  INSERT INTO soft_bounces (channel, address_hash, publication_id, subscriber_number, at)
  SELECT DISTINCT ON (channel, address_hash, publication_id, subscriber_number) channel, address_hash, publication_id, subscriber_number, at FROM event
  WHERE NOT waits AND type = 'bounced' AND NOT permanent AND address_hash IS NOT NULL AND (digest IN (SELECT digest FROM stored)) IS TRUE
    AND (subscriber_number IN (SELECT subscriber_number FROM known)) IS TRUE
  ORDER BY channel, address_hash, publication_id, subscriber_number, at
  ON CONFLICT DO NOTHING
  RETURNING channel, address_hash, at
), past AS ( -- what counts no more; others may be at it
  DELETE FROM soft_bounces WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM soft_bounces WHERE at < clock_timestamp() - make_interval(secs => $2) AND EXISTS (SELECT FROM soft)
    ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED))
), worn AS (
  INSERT INTO suppressions AS s (channel, address_hash, reason, provider)
  SELECT s.channel, s.address_hash, 'soft_bounces', (SELECT min(provider) FROM event e WHERE e.channel = s.channel AND e.address_hash = s.address_hash)
  FROM (SELECT channel, address_hash, count(*) AS more, max(at) AS last FROM soft GROUP BY channel, address_hash) s
  CROSS JOIN LATERAL (SELECT count(*) AS before FROM soft_bounces b
    WHERE b.channel = s.channel AND b.address_hash = s.address_hash AND b.at > s.last - make_interval(secs => $2) OFFSET 0) b
  WHERE s.more + b.before >= $3
    AND NOT EXISTS (SELECT FROM event e WHERE e.channel = s.channel AND e.address_hash = s.address_hash AND NOT e.waits
      AND (e.type IN ('complained', 'unsubscribed') OR e.type = 'bounced' AND e.permanent)) -- said by suppressed
  ORDER BY s.channel, s.address_hash` + whereSuppressedSQL + `
), proof AS (
  SELECT DISTINCT ON (publication_id, call_id) * FROM stored
  WHERE call_id IS NOT NULL AND type <> 'unsubscribed' ORDER BY publication_id, call_id, at, type, digest
)
SELECT w.count, p.publication_id::text, p.channel::text, c.batch, p.call_id::text, p.type::text, p.at,
  -- Looked for only where there is a proof.
  (SELECT jsonb_object_agg(encode(digest, 'hex'), provider_id) FROM event WHERE provider_id IS NOT NULL) ->> encode(p.digest, 'hex'), c.outcome IS NOT NULL
FROM (SELECT count(*) FROM waiting) w LEFT JOIN (proof p CROSS JOIN LATERAL (
  SELECT c.batch, c.outcome FROM calls c
  WHERE c.publication_id = p.publication_id AND c.call_id = p.call_id AND c.channel = p.channel
    AND p.subscriber_number BETWEEN c.first_number AND c.last_number AND c.outcome IS DISTINCT FROM 'accepted' OFFSET 0) c) ON true`
)

// moves are what events made of deliveries.
type moves struct {
	failed []pgtype.UUID // the publications of those that failed
	ended  []pgtype.UUID // and of those that waited or were in doubt until now
	again  bool          // some have one more move to make
}

// prove settles the calls that were proven, and moves the deliveries of all
// events to where their events say.
func (l *Ledger) prove(ctx context.Context, tx pgx.Tx, proofs []proof, p picked) (moves, error) {
	var m moves
	b := &pgx.Batch{}
	settled := map[fanfare.BatchRef][]fanfare.Settlement{}
	for _, each := range proofs {
		settled[each.ref] = append(settled[each.ref], fanfare.Settlement{Call: each.call, Result: fanfare.Result{
			Outcome:    fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Detail: "proven by an event"},
			ProviderID: each.providerID, Evidence: each.evidence,
		}})
	}
	for ref, calls := range settled { // their batches are locked, so any order will do
		l.queueSettle(b, ref, calls, nil)
	}
	// By index, however many rows there are.
	b.Queue(`SET LOCAL enable_hashjoin = off`)
	b.Queue(`SET LOCAL enable_mergejoin = off`)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return m, err
	}
	for m.again = true; m.again; {
		if err := m.read(tx.Query(ctx, moveSQL, p.publications, p.channels, p.numbers)); err != nil {
			return m, err
		}
	}
	return m, nil
}

func (m *moves) read(rows pgx.Rows, err error) error {
	if err != nil {
		return err
	}
	m.again = false
	var publication pgtype.UUID
	var state, says string
	var ended bool
	_, err = pgx.ForEachRow(rows, []any{&publication, &state, &says, &ended}, func() error {
		if state == string(fanfare.Failed) {
			m.failed = append(m.failed, publication)
		}
		if ended {
			m.ended = append(m.ended, publication)
		}
		m.again = m.again || state != says
		return nil
	})
	return err
}

// moveSQL moves each delivery to what the strongest of its events says. Nobody
// goes from pending or dead to failed: they are sent first, and fail the next time.
// Who was rejected or skipped stays so. $1 publications, $2 channels, $3 numbers.
const moveSQL = `
WITH one AS MATERIALIZED (
  SELECT DISTINCT publication_id, channel::channel AS channel, subscriber_number
  FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS k (publication_id, channel, subscriber_number)
), move AS MATERIALIZED (
  SELECT one.*, d.state AS was, e.says, e.code, e.says = 'failed' AND d.state NOT IN ('pending', 'dead') AS fails,
    CASE WHEN d.state NOT IN ('sent', 'delivered') THEN (
      SELECT c.call_id FROM calls c WHERE c.publication_id = one.publication_id AND c.call_id = e.call_id AND c.channel = one.channel AND c.batch = d.batch) END AS call_id
  FROM one CROSS JOIN LATERAL (
    SELECT d.state, d.batch FROM deliveries d
    WHERE d.publication_id = one.publication_id AND d.channel = one.channel AND d.subscriber_number = one.subscriber_number
      AND d.state IN ('pending', 'in_doubt', 'dead', 'sent', 'delivered') OFFSET 0) d
  CROSS JOIN LATERAL (
    SELECT bool_or(e.type <> 'unsubscribed') AS proves,
      CASE WHEN bool_or(e.type IN ('bounced', 'dropped')) THEN 'failed'
        WHEN bool_or(e.type NOT IN ('processed', 'deferred')) THEN 'delivered' ELSE 'sent' END::delivery_state AS says,
      (array_agg(e.provider || ':' || COALESCE(e.code, e.type::text) ORDER BY e.at, e.type, e.digest) FILTER (WHERE e.type IN ('bounced', 'dropped')))[1] AS code,
      (array_agg(e.call_id ORDER BY e.at, e.type, e.digest) FILTER (WHERE e.type <> 'unsubscribed' AND e.call_id IS NOT NULL))[1] AS call_id
    FROM events e WHERE e.publication_id = one.publication_id AND e.subscriber_number = one.subscriber_number AND e.channel = one.channel) e
  WHERE d.state = 'sent' AND e.says IN ('delivered', 'failed') OR d.state = 'delivered' AND e.says = 'failed'
    OR d.state IN ('pending', 'in_doubt', 'dead') AND e.proves
)
UPDATE deliveries d SET state = CASE WHEN m.says = 'failed' AND NOT m.fails THEN 'sent' ELSE m.says END,
  code = CASE WHEN m.fails THEN m.code END, reason = NULL, due_at = NULL, call_id = COALESCE(m.call_id, d.call_id), changed_at = clock_timestamp()
FROM move m
WHERE d.publication_id = m.publication_id AND d.subscriber_number = m.subscriber_number AND d.channel = m.channel
RETURNING d.publication_id, d.state::text, m.says::text, m.was IN ('pending', 'in_doubt')`

// conclude tells the workflows of publications in which nobody waits any more for
// what was proven, and gives late failures to those that had completed. Theirs is the
// last lock, and it is always taken: whoever finishes a publication meanwhile holds it and then
// counts, so one of the two sees the other.
func conclude(ctx context.Context, tx pgx.Tx, proofs []proof, m moves) error {
	b := &pgx.Batch{}
	news := m.ended
	for _, p := range proofs {
		var id pgtype.UUID
		if err := id.Scan(string(p.ref.Publication)); err != nil {
			return err
		}
		if p.answered {
			news = append(news, id)
		}
	}
	if len(news) > 0 {
		b.Queue(`
			INSERT INTO outbox (publication_id, kind)
			SELECT publication_id, 'wake' FROM publications WHERE publication_id = ANY ($1::uuid[]) AND finished_at IS NULL`, news)
	}
	if len(m.failed) > 0 {
		b.Queue(`SELECT FROM publications WHERE publication_id = ANY ($1::uuid[]) ORDER BY publication_id FOR NO KEY UPDATE`, m.failed)
		b.Queue(`UPDATE publications SET state = 'completed_with_failures' WHERE publication_id = ANY ($1::uuid[]) AND state = 'completed'`, m.failed)
	}
	if b.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, b).Close()
}
