package ledger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// An address that softBouncesAtMost deliveries bounced from within softBouncesWithin,
// each for the time being, is suppressed. A mailbox that is full or a server that is
// away for a weekend bounces one or two articles of a writer; what goes on for longer
// than that harms the sender's reputation. List managers act after three to five.
const (
	softBouncesAtMost = 3
	softBouncesWithin = 30 * 24 * time.Hour
)

// addressEventsFor is how long it is known what was said of addresses alone. Providers
// repeat a report for a day at most.
const addressEventsFor = 7 * 24 * time.Hour

// addressEventsLock is held while address events are taken in, one webhook after the
// other: of two about one address, the later one must see the other.
const addressEventsLock = `hashtextextended('fanfare address events', 0)`

// whereSuppressedSQL is what happens to an address that is suppressed already, s: the
// first reason stands, but who only left may come back, which must not lift what else
// is held against the address.
const whereSuppressedSQL = `
  ON CONFLICT (channel, address_hash) DO UPDATE SET
    reason = CASE WHEN excluded.reason IN ('stopped', 'unsubscribed') THEN s.reason ELSE excluded.reason END,
    provider = CASE WHEN excluded.reason IN ('stopped', 'unsubscribed') THEN s.provider ELSE excluded.provider END,
    created_at = CASE WHEN excluded.reason IN ('stopped', 'unsubscribed') THEN GREATEST(s.created_at, excluded.created_at) ELSE s.created_at END
  WHERE s.reason IN ('stopped', 'unsubscribed')`

// Suppress keeps addresses from being used, whoever wants them, and returns how many
// were not kept from it already. The first reason stands, but for that of who only left.
func (l *Ledger) Suppress(ctx context.Context, channel fanfare.Channel, refused []fanfare.Refused) (created int64, err error) {
	b := &pgx.Batch{}
	queueSuppress(b, channel, refused, nil, make([]*fanfare.CallID, len(refused))).QueryRow(func(row pgx.Row) error { return row.Scan(&created) })
	return created, failed(fmt.Sprintf("suppress %d addresses of %s", len(refused), channel), l.pipeline(ctx, b))
}

// queueSuppress queues the suppression of addresses, each on the word of the provider
// that its call was made to, or on a person's when there is none. A token that is dead goes
// from its subscriber's devices too, unless somebody is writing it at this moment; no claim
// takes it. The query gives how many are new.
func queueSuppress(b *pgx.Batch, channel fanfare.Channel, refused []fanfare.Refused, publication any, calls []*fanfare.CallID) *pgx.QueuedQuery {
	addresses, reasons := make([]string, len(refused)), make([]string, len(refused))
	for i, r := range refused {
		addresses[i], reasons[i] = r.Address, string(r.Reason)
	}
	return b.Queue(`
		WITH refused AS MATERIALIZED (
		  SELECT address_hash(address) AS hash, min(reason) AS reason, min(call_id)::uuid AS call_id FROM unnest($2::text[], $3::text[], $5::text[]) AS r (address, reason, call_id)
		  GROUP BY 1 ORDER BY 1 -- one order for all: no deadlock
		), pruned AS ( -- whoever registers one now waits for claims, and those for the batch of this settle
		  DELETE FROM devices WHERE token_hash = ANY (ARRAY(
		    SELECT token_hash FROM devices WHERE token_hash IN (SELECT hash FROM refused WHERE reason = 'dead_token') FOR UPDATE SKIP LOCKED))
		), created AS (
		  INSERT INTO suppressions AS s (channel, address_hash, reason, provider)
		  SELECT $1, hash, reason, (SELECT c.provider FROM calls c WHERE c.publication_id = $4 AND c.call_id = r.call_id) FROM refused r`+whereSuppressedSQL+`
		    AND excluded.reason NOT IN ('stopped', 'unsubscribed')
		  RETURNING xmax = 0 AS new
		)
		SELECT count(*) FILTER (WHERE new) FROM created`, string(channel), addresses, reasons, publication, calls)
}

// queueRefused suppresses the addresses that calls' providers refused for good: those of
// all calls together, because of one order for each of them there would be as many as calls.
func queueRefused(b *pgx.Batch, ref fanfare.BatchRef, settled []fanfare.Settlement) {
	var refused []fanfare.Refused
	var calls []*fanfare.CallID
	for i, s := range settled {
		for _, r := range s.Result.Suppress {
			refused, calls = append(refused, r), append(calls, &settled[i].Call)
		}
	}
	if len(refused) > 0 {
		queueSuppress(b, ref.Channel, refused, ref.Publication, calls)
	}
}

// heardAtOnce queues what events say of addresses alone, which needs no delivery to be
// found, and returns the other events.
func heardAtOnce(b *pgx.Batch, events []fanfare.ProviderEvent) []fanfare.ProviderEvent {
	others := make([]fanfare.ProviderEvent, 0, len(events))
	var digests [][]byte
	var channels, addresses, providers []string
	var leave []bool
	var ats []time.Time
	for _, e := range events {
		leaves := e.Type == fanfare.EventUnsubscribed && e.Delivery == (fanfare.DeliveryID{})
		comesBack := e.Type == fanfare.EventResubscribed
		if comesBack && e.Channel == "" {
			e.Channel = e.Delivery.Channel
		}
		address := eventText(e.Address, len(e.Address))
		switch {
		case address != nil && e.Channel.Valid() && (leaves || comesBack):
			digests, channels, addresses = append(digests, e.Digest[:]), append(channels, string(e.Channel)), append(addresses, *address)
			providers, leave, ats = append(providers, e.Provider), append(leave, leaves), append(ats, e.At)
		case !comesBack: // of nobody it means nothing
			others = append(others, e)
		}
	}
	if len(digests) > 0 {
		b.Queue(`SELECT pg_advisory_xact_lock(` + addressEventsLock + `)`)
		b.Queue(hearSQL, digests, channels, addresses, providers, leave, ats, seconds(addressEventsFor))
	}
	return others
}

// hearSQL lets the last word about each address count, once, in whatever order they
// come. A word that is not new changes nothing: a person may have decided since. To an
// SMS people answer STOP. $1 to $6 the events, $7 for how long they are kept.
const hearSQL = `
WITH said AS MATERIALIZED (
  SELECT DISTINCT ON (digest) digest, channel::channel AS channel, address_hash(address) AS address_hash, provider, leaves, at
  FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bool[], $6::timestamptz[]) AS e (digest, channel, address, provider, leaves, at)
  ORDER BY digest
), past AS (
  DELETE FROM address_events WHERE digest = ANY (ARRAY(
    SELECT digest FROM address_events WHERE at < clock_timestamp() - make_interval(secs => $7) ORDER BY at LIMIT 1000))
), new AS (
  INSERT INTO address_events (digest, channel, address_hash, leaves, at) SELECT digest, channel, address_hash, leaves, at FROM said
  ON CONFLICT DO NOTHING RETURNING digest
), word AS MATERIALIZED (
  SELECT DISTINCT ON (channel, address_hash) * FROM said WHERE digest IN (SELECT digest FROM new)
  ORDER BY channel, address_hash, at DESC, leaves DESC
), left_now AS (
  INSERT INTO suppressions AS s (channel, address_hash, reason, provider, created_at)
  SELECT channel, address_hash, CASE channel WHEN 'sms' THEN 'stopped' ELSE 'unsubscribed' END, provider, at FROM word w
  WHERE leaves AND NOT EXISTS (SELECT FROM address_events e WHERE e.channel = w.channel AND e.address_hash = w.address_hash AND e.at > w.at)
  ORDER BY channel, address_hash` + whereSuppressedSQL + `
)
DELETE FROM suppressions s USING word w
WHERE NOT w.leaves AND s.channel = w.channel::text AND s.address_hash = w.address_hash
  AND s.reason IN ('stopped', 'unsubscribed') AND s.created_at < w.at`

// Suppressions lists suppressed addresses by their hash, which is all that is kept of
// them.
func (l *Ledger) Suppressions(ctx context.Context, q fanfare.SuppressionQuery) ([]fanfare.Suppression, error) {
	rows, err := l.pool.Query(ctx, `
		SELECT channel, encode(address_hash, 'hex'), reason, COALESCE(provider, ''), created_at FROM suppressions
		WHERE (channel, address_hash) > ($1, $2) AND ($3 = '' OR channel = $3) AND ($4 = '' OR reason = $4) AND ($5 = '' OR address_hash = decode($5, 'hex'))
		ORDER BY channel, address_hash LIMIT $6`,
		string(q.AfterChannel), hashOf(q.AfterHash), string(q.Channel), string(q.Reason), q.Hash, q.Limit)
	if err != nil {
		return nil, failed("list suppressions", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[fanfare.Suppression])
	return list, failed("list suppressions", err)
}

func hashOf(text string) []byte {
	hash, err := hex.DecodeString(text)
	if err != nil { // a cursor that is none of ours begins at the beginning
		return []byte{}
	}
	return hash
}

// Suppression reads what an address is suppressed for. It fails with fanfare.ErrNotFound
// when it is not.
func (l *Ledger) Suppression(ctx context.Context, channel fanfare.Channel, address string) (fanfare.Suppression, error) {
	return l.oneSuppression(ctx, "read a suppression of "+string(channel), `
		SELECT channel, encode(address_hash, 'hex'), reason, COALESCE(provider, ''), created_at FROM suppressions
		WHERE channel = $1 AND address_hash = address_hash($2)`, channel, address)
}

// LiftSuppression lets an address be used again, and returns what it was suppressed
// for: nothing else is kept of it. Its soft bounces are forgotten. It fails with
// fanfare.ErrNotFound when the address is not suppressed.
func (l *Ledger) LiftSuppression(ctx context.Context, channel fanfare.Channel, address string) (fanfare.Suppression, error) {
	return l.oneSuppression(ctx, "lift a suppression of "+string(channel), `
		WITH forgotten AS (
		  DELETE FROM soft_bounces WHERE channel = $1::text::channel AND address_hash = address_hash($2)
		)
		DELETE FROM suppressions WHERE channel = $1 AND address_hash = address_hash($2)
		RETURNING channel, encode(address_hash, 'hex'), reason, COALESCE(provider, ''), created_at`, channel, address)
}

func (l *Ledger) oneSuppression(ctx context.Context, op, sql string, channel fanfare.Channel, address string) (fanfare.Suppression, error) {
	rows, err := l.pool.Query(ctx, sql, string(channel), address)
	if err != nil {
		return fanfare.Suppression{}, failed(op, err)
	}
	one, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[fanfare.Suppression])
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	return one, failed(op, err)
}
