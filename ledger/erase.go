package ledger

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// EraseSubscriber removes everything personal and ends all subscriptions. The
// number stays, so that the books of past publications stay whole: who was in an
// audience, and what became of each message, stands under a number that is nobody's.
//
// Preferences go, and the audit of their changes with them: it proves the consent of
// somebody, and nobody can ask for it by a number. What stays of an address is its hash
// where it is suppressed, on purpose: not to be written to outlives the person's record.
// Elsewhere the hash goes too, as addresses can be guessed: at once what stands under the
// number or under an address that nobody else has, and whose turn it was for an address that
// they shared before, when the publication finishes. That of a device's token, which cannot be
// guessed, stays in what became of each device of a call.
func (l *Ledger) EraseSubscriber(ctx context.Context, id fanfare.SubscriberID) error {
	err := l.transact(ctx, func(tx pgx.Tx) error {
		// An import under way would subscribe again whom it read before; of two who share an
		// address and are erased at once, the second must find that nobody has it any more.
		if err := lockAddresses(ctx, tx, fanfare.Subscriber{ID: id}); err != nil {
			return err
		}
		var number fanfare.SubscriberNumber
		err := tx.QueryRow(ctx, `SELECT subscriber_number FROM subscribers WHERE external_id = $1 FOR UPDATE`, id).Scan(&number)
		if errors.Is(err, pgx.ErrNoRows) {
			return fanfare.ErrNotFound
		}
		if err != nil {
			return err
		}
		if err := endAllSubscriptions(ctx, tx, number); err != nil {
			return err
		}
		if err := closeInbox(ctx, tx, number); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, eraseSQL, number)
		return err
	})
	return failed("erase subscriber "+string(id), err)
}

func endAllSubscriptions(ctx context.Context, tx pgx.Tx, number fanfare.SubscriberNumber) error {
	rows, err := tx.Query(ctx, `SELECT topic_id FROM subscriptions WHERE subscriber_number = $1 AND ended_cut IS NULL ORDER BY topic_id`, number)
	if err != nil {
		return err
	}
	topics, err := pgx.CollectRows(rows, pgx.RowTo[fanfare.TopicID])
	if err != nil {
		return err
	}
	for _, topic := range topics {
		if err := endSubscription(ctx, tx, topic, number); err != nil {
			return err
		}
	}
	return nil
}

// eraseSQL empties subscriber $1. What is said of an address by its hash goes when nobody
// else has the address; until then, while the publication runs, whose turn it was must not
// be forgotten.
const eraseSQL = `
WITH address AS MATERIALIZED (
  SELECT 'email'::channel AS channel, p.email_hash AS hash,
    EXISTS (SELECT FROM subscribers o WHERE o.email_hash = p.email_hash AND o.subscriber_number <> $1) AS others
  FROM subscribers p WHERE p.subscriber_number = $1 AND p.email_hash IS NOT NULL
  UNION ALL
  SELECT 'sms', p.phone_hash, EXISTS (SELECT FROM subscribers o WHERE o.phone_hash = p.phone_hash AND o.subscriber_number <> $1)
  FROM subscribers p WHERE p.subscriber_number = $1 AND p.phone_hash IS NOT NULL
), turns AS (
  DELETE FROM shared_addresses k USING address a WHERE k.address_hash = a.hash AND k.channel = a.channel AND NOT a.others
), bounces AS (
  DELETE FROM soft_bounces WHERE subscriber_number = $1
), bounces_of_others AS (
  DELETE FROM soft_bounces b USING address a WHERE b.channel = a.channel AND b.address_hash = a.hash AND NOT a.others AND b.subscriber_number <> $1
), words AS (
  DELETE FROM address_events e USING address a WHERE e.channel = a.channel AND e.address_hash = a.hash AND NOT a.others
), device AS (
  DELETE FROM devices WHERE subscriber_number = $1
), of_channels AS (
  DELETE FROM channel_preferences WHERE subscriber_number = $1
), of_topics AS (
  DELETE FROM topic_preferences WHERE subscriber_number = $1
), changes AS (
  DELETE FROM preference_changes WHERE subscriber_number = $1
)
UPDATE subscribers SET external_id = NULL, email = NULL, phone = NULL, locale = NULL, time_zone = NULL, attributes = NULL,
  erased_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE subscriber_number = $1`
