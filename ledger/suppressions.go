package ledger

import (
	"context"
	"encoding/hex"
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

// Suppress keeps addresses from being used, whoever wants them, and returns how many
// were not kept from it already: the first reason stands.
func (l *Ledger) Suppress(ctx context.Context, channel fanfare.Channel, refused []fanfare.Refused) (created int64, err error) {
	b := &pgx.Batch{}
	queueSuppress(b, channel, refused, nil, nil).QueryRow(func(row pgx.Row) error { return row.Scan(&created) })
	return created, failed(fmt.Sprintf("suppress %d addresses of %s", len(refused), channel), l.pipeline(ctx, b))
}

// queueSuppress queues the suppression of addresses, on the word of the provider that a
// call was made to, or on a person's when there is none. A token that is dead goes from
// its subscriber's devices too. The query gives how many are new.
func queueSuppress(b *pgx.Batch, channel fanfare.Channel, refused []fanfare.Refused, publication, call any) *pgx.QueuedQuery {
	addresses, reasons := make([]string, len(refused)), make([]string, len(refused))
	for i, r := range refused {
		addresses[i], reasons[i] = r.Address, string(r.Reason)
	}
	return b.Queue(`
		WITH refused AS MATERIALIZED (
		  SELECT address_hash(address) AS hash, min(reason) AS reason FROM unnest($2::text[], $3::text[]) AS r (address, reason)
		  GROUP BY 1 ORDER BY 1 -- one order for all: no deadlock
		), pruned AS (
		  DELETE FROM devices WHERE token_hash IN (SELECT hash FROM refused WHERE reason = 'dead_token')
		), created AS (
		  INSERT INTO suppressions (channel, address_hash, reason, provider) SELECT $1, hash, reason, (SELECT provider FROM calls WHERE publication_id = $4 AND call_id = $5) FROM refused
		  ON CONFLICT DO NOTHING RETURNING 1
		)
		SELECT count(*) FROM created`, string(channel), addresses, reasons, publication, call)
}

// queueRefused suppresses the addresses that a call's provider refused for good.
func queueRefused(b *pgx.Batch, ref fanfare.BatchRef, s fanfare.Settlement) {
	if len(s.Result.Suppress) > 0 {
		queueSuppress(b, ref.Channel, s.Result.Suppress, ref.Publication, s.Call)
	}
}

// heardAtOnce queues what events say of addresses alone, which needs no delivery to be
// found, and returns the other events. What has been said later is not overruled by
// what was said before it, in whatever order they come: as far as it is known.
func heardAtOnce(b *pgx.Batch, events []fanfare.ProviderEvent) []fanfare.ProviderEvent {
	others := make([]fanfare.ProviderEvent, 0, len(events))
	for _, e := range events {
		leaves := e.Type == fanfare.EventUnsubscribed && e.Delivery == (fanfare.DeliveryID{})
		comesBack := e.Type == fanfare.EventResubscribed
		if comesBack && e.Channel == "" {
			e.Channel = e.Delivery.Channel
		}
		switch {
		case e.Address == "" || !e.Channel.Valid() || !leaves && !comesBack:
			if e.Type != fanfare.EventResubscribed {
				others = append(others, e)
			}
		case leaves:
			b.Queue(`
				INSERT INTO suppressions AS s (channel, address_hash, reason, provider, created_at) SELECT $1, address_hash($2), $3, $4, $5
				ON CONFLICT (channel, address_hash) DO UPDATE SET created_at = GREATEST(s.created_at, excluded.created_at)
				WHERE s.reason IN ('stopped', 'unsubscribed')`, string(e.Channel), e.Address, leftBy(e.Channel), e.Provider, e.At)
		case comesBack:
			b.Queue(`
				DELETE FROM suppressions
				WHERE channel = $1 AND address_hash = address_hash($2) AND reason IN ('stopped', 'unsubscribed') AND created_at < $3`, string(e.Channel), e.Address, e.At)
		}
	}
	return others
}

// leftBy is the reason when somebody wants nothing more from an account: an SMS is
// answered with STOP.
func leftBy(channel fanfare.Channel) fanfare.SuppressionReason {
	if channel == fanfare.SMS {
		return fanfare.SuppressedStopped
	}
	return fanfare.SuppressedUnsubscribed
}

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

// LiftSuppression lets an address be used again, and returns whether it was
// suppressed. Its soft bounces are forgotten.
func (l *Ledger) LiftSuppression(ctx context.Context, channel fanfare.Channel, address string) (lifted bool, err error) {
	err = l.pool.QueryRow(ctx, `
		WITH forgotten AS (
		  DELETE FROM soft_bounces WHERE channel = $1::text::channel AND address_hash = address_hash($2)
		), lifted AS (
		  DELETE FROM suppressions WHERE channel = $1 AND address_hash = address_hash($2) RETURNING 1
		)
		SELECT EXISTS (SELECT FROM lifted)`, string(channel), address).Scan(&lifted)
	return lifted, failed("lift a suppression of "+string(channel), err)
}
