package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// topicLock is the advisory lock of a topic ($1): writers of its subscriptions
// share it, an acceptance holds it alone.
const topicLock = `hashtextextended('fanfare topic ' || $1::bigint, 0)`

// addressLock keeps writers of subscribers from missing each other: single
// writes share it and lock the addresses they touch, imports hold it alone.
const addressLock = `hashtextextended('fanfare addresses', 0)`

// sharingLock lies between claims, who share it, and whoever found that an
// address is shared, who takes it last, alone, and commits. So there is no claim that
// took the address for one person's while the next already sees that it is not.
const sharingLock = `hashtextextended('fanfare sharing', 0)`

// TopicExists reports whether a topic was put before.
func (l *Ledger) TopicExists(ctx context.Context, topic fanfare.Topic) (bool, error) {
	var exists bool
	err := l.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM topics WHERE topic = $1)`, topic).Scan(&exists)
	return exists, failed("find topic "+string(topic), err)
}

// PutTopic creates a topic or changes it. Defaults that are not given are as before,
// and on in a new topic; standing are all of them.
func (l *Ledger) PutTopic(ctx context.Context, topic fanfare.Topic, name string, defaults map[fanfare.Channel]bool) (standing map[fanfare.Channel]bool, created bool, err error) {
	on, off := []fanfare.Channel{}, []fanfare.Channel{}
	for channel, wanted := range defaults {
		if wanted {
			on = append(on, channel)
		} else {
			off = append(off, channel)
		}
	}
	rows, err := l.pool.Query(ctx, `
		WITH put AS (
		  INSERT INTO topics AS t (topic, name, off_by_default) VALUES ($1, $2, $4::text[]::channel[])
		  ON CONFLICT (topic) DO UPDATE SET name = excluded.name, off_by_default = ARRAY(
		    SELECT c FROM unnest(enum_range(NULL::channel)) c
		    WHERE c = ANY (excluded.off_by_default) OR c = ANY (t.off_by_default) AND c <> ALL ($3::text[]::channel[]))
		  RETURNING off_by_default, xmax = 0 AS created -- xmax is 0 in a row nobody updated
		)
		SELECT c, c <> ALL (off_by_default), created FROM put, unnest(enum_range(NULL::channel)) c`, topic, name, on, off)
	if err != nil {
		return nil, false, failed("put topic "+string(topic), err)
	}
	standing = map[fanfare.Channel]bool{}
	var channel fanfare.Channel
	var wanted bool
	_, err = pgx.ForEachRow(rows, []any{&channel, &wanted, &created}, func() error { standing[channel] = wanted; return nil })
	return standing, created, failed("put topic "+string(topic), err)
}

// PutSubscriber creates a subscriber or replaces what is known of them. Devices that
// were another's are theirs from now on.
func (l *Ledger) PutSubscriber(ctx context.Context, s fanfare.Subscriber) (created bool, err error) {
	err = l.transact(ctx, func(tx pgx.Tx) error {
		if err := lockAddresses(ctx, tx, s); err != nil {
			return err
		}
		var number int64
		if number, created, err = putSubscriber(ctx, tx, s); err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, devicesSQL(`SELECT unnest($1::bigint[]), $2::jsonb`), []int64{number}, jsonOrNull(s.Devices)); err != nil {
			return err
		}
		marked, err := markShared(ctx, tx, []int64{number})
		if err != nil || marked == 0 {
			return err
		}
		return waitForClaims(ctx, tx)
	})
	return created, failed("put subscriber "+string(s.ID), err)
}

// lockAddresses locks the addresses a subscriber gets and those they have, in
// one order for all, so that two who exchange theirs do not deadlock.
func lockAddresses(ctx context.Context, tx pgx.Tx, s fanfare.Subscriber) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+addressLock+`)`); err != nil {
		return err
	}
	addresses := []string{s.Email, s.Phone}
	for _, d := range s.Devices {
		addresses = append(addresses, d.Token)
	}
	_, err := tx.Exec(ctx, `
		SELECT pg_advisory_xact_lock(a.key) FROM (
		  SELECT DISTINCT hashtextextended('fanfare address ' || lower(address), 0) AS key FROM (
		    SELECT unnest(ARRAY[email, phone]) FROM subscribers WHERE external_id = $1
		    UNION ALL SELECT d.token FROM devices d JOIN subscribers USING (subscriber_number) WHERE external_id = $1
		    UNION ALL SELECT unnest($2::text[])) e (address)
		  WHERE address <> '' ORDER BY key) a`, s.ID, addresses)
	return err
}

// devicesSQL makes the devices that given says, as numbers with their JSON lists, those of
// their subscribers, whoever had them before. $1 are the numbers who have no others.
func devicesSQL(given string) string {
	return `
		WITH given AS MATERIALIZED (
		  SELECT DISTINCT ON (address_hash(d.token)) address_hash(d.token) AS token_hash, s.number, d.token, NULLIF(d.platform, '') AS platform
		  FROM (` + given + `) AS s (number, devices) CROSS JOIN LATERAL jsonb_to_recordset(s.devices) AS d (token text, platform text)
		  ORDER BY address_hash(d.token), s.number DESC
		), gone AS (
		  DELETE FROM devices d WHERE d.subscriber_number = ANY ($1::bigint[]) AND (d.token_hash IN (SELECT token_hash FROM given)) IS NOT TRUE
		)
		INSERT INTO devices AS d (token_hash, subscriber_number, token, platform) SELECT token_hash, number, token, platform FROM given
		ON CONFLICT (token_hash) DO UPDATE SET subscriber_number = excluded.subscriber_number, platform = excluded.platform
		WHERE (d.subscriber_number, d.platform) IS DISTINCT FROM (excluded.subscriber_number, excluded.platform)`
}

// waitForClaims waits for the claims under way, which do not know of addresses
// that this transaction marked as shared.
func waitForClaims(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+sharingLock+`)`)
	return err
}

func putSubscriber(ctx context.Context, tx pgx.Tx, s fanfare.Subscriber) (number int64, created bool, err error) {
	args := []any{s.ID, s.Email, s.Phone, s.Locale, s.TimeZone, jsonOrNull(s.Attributes)}
	err = tx.QueryRow(ctx, `
		UPDATE subscribers SET email = NULLIF($2, ''), phone = NULLIF($3, ''), locale = NULLIF($4, ''),
		  time_zone = NULLIF($5, ''), attributes = $6, updated_at = clock_timestamp()
		WHERE external_id = $1 RETURNING subscriber_number, false`, args...).Scan(&number, &created)
	if errors.Is(err, pgx.ErrNoRows) {
		// The number is taken only when it is used, so that numbers stay dense.
		err = tx.QueryRow(ctx, `
			INSERT INTO subscribers (subscriber_number, external_id, email, phone, locale, time_zone, attributes)
			VALUES (nextval('subscriber_numbers'), $1, NULLIF($2, ''), NULLIF($3, ''), NULLIF($4, ''), NULLIF($5, ''), $6)
			ON CONFLICT (external_id) DO UPDATE SET email = excluded.email, phone = excluded.phone,
			  locale = excluded.locale, time_zone = excluded.time_zone, attributes = excluded.attributes, updated_at = clock_timestamp()
			RETURNING subscriber_number, xmax = 0`, args...).Scan(&number, &created)
	}
	return number, created, err
}

// Subscriber reads one subscriber.
func (l *Ledger) Subscriber(ctx context.Context, id fanfare.SubscriberID) (fanfare.Subscriber, error) {
	s := fanfare.Subscriber{ID: id}
	err := l.pool.QueryRow(ctx, `
		SELECT COALESCE(s.email, ''), COALESCE(s.phone, ''), `+devicesOf+`, COALESCE(s.locale, ''), COALESCE(s.time_zone, ''), s.attributes
		FROM subscribers s WHERE s.external_id = $1`, id).Scan(&s.Email, &s.Phone, &s.Devices, &s.Locale, &s.TimeZone, &s.Attributes)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	return s, failed("read subscriber "+string(id), err)
}

// devicesOf are the devices of subscriber s, as JSON in one order; null when there are none.
const devicesOf = `(SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('token', d.token, 'platform', d.platform)) ORDER BY d.token_hash)
  FROM devices d WHERE d.subscriber_number = s.subscriber_number)`

// Subscribe begins a subscription; created is false when it was open already.
func (l *Ledger) Subscribe(ctx context.Context, topic fanfare.Topic, id fanfare.SubscriberID) (created bool, err error) {
	err = l.transact(ctx, func(tx pgx.Tx) error {
		topicID, number, err := member(ctx, tx, topic, id)
		if err != nil {
			return err
		}
		if err := shareTopic(ctx, tx, topicID); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO subscriptions (topic_id, subscriber_number, began_cut) VALUES ($1, $2, nextval('cuts'))
			ON CONFLICT (topic_id, subscriber_number) WHERE ended_cut IS NULL DO NOTHING`, topicID, number)
		created = tag.RowsAffected() == 1
		return err
	})
	return created, failed(fmt.Sprintf("subscribe %s to %s", id, topic), err)
}

// Unsubscribe ends a subscription. Ending one that is not open changes nothing.
func (l *Ledger) Unsubscribe(ctx context.Context, topic fanfare.Topic, id fanfare.SubscriberID) error {
	err := l.transact(ctx, func(tx pgx.Tx) error {
		topicID, number, err := member(ctx, tx, topic, id)
		if err != nil {
			return err
		}
		return endSubscription(ctx, tx, topicID, number)
	})
	return failed(fmt.Sprintf("unsubscribe %s from %s", id, topic), err)
}

// EndSubscription does what an unsubscribe link asks for. An import does not take it back,
// also where the subscription had been ended already.
func (l *Ledger) EndSubscription(ctx context.Context, link fanfare.UnsubscribeLink) error {
	err := l.transact(ctx, func(tx pgx.Tx) error {
		if err := endSubscription(ctx, tx, link.Topic, link.Number); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			UPDATE subscriptions SET ended_by_reader = true
			WHERE topic_id = $1 AND subscriber_number = $2 AND ended_cut IS NOT NULL AND NOT ended_by_reader AND began_cut = (
			  SELECT max(began_cut) FROM subscriptions WHERE topic_id = $1 AND subscriber_number = $2)`, link.Topic, link.Number)
		return err
	})
	return failed(fmt.Sprintf("end subscription of %d to topic %d", link.Number, link.Topic), err)
}

// LinkTopic gives the name of the topic that an unsubscribe link is about.
func (l *Ledger) LinkTopic(ctx context.Context, link fanfare.UnsubscribeLink) (name string, err error) {
	err = l.pool.QueryRow(ctx, `SELECT name FROM topics WHERE topic_id = $1`, link.Topic).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	return name, failed(fmt.Sprintf("read topic %d", link.Topic), err)
}

func endSubscription(ctx context.Context, tx pgx.Tx, topic fanfare.TopicID, number fanfare.SubscriberNumber) error {
	if err := shareTopic(ctx, tx, topic); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		UPDATE subscriptions SET ended_cut = nextval('cuts'), ended_at = clock_timestamp()
		WHERE topic_id = $1 AND subscriber_number = $2 AND ended_cut IS NULL`, topic, number)
	return err
}

func shareTopic(ctx context.Context, tx pgx.Tx, topic fanfare.TopicID) error {
	_, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock_shared(`+topicLock+`)`, topic)
	return err
}

func member(ctx context.Context, tx pgx.Tx, topic fanfare.Topic, id fanfare.SubscriberID) (fanfare.TopicID, fanfare.SubscriberNumber, error) {
	topicID, err := topicID(ctx, tx, topic)
	if err != nil {
		return 0, 0, err
	}
	var number fanfare.SubscriberNumber
	err = tx.QueryRow(ctx, `SELECT subscriber_number FROM subscribers WHERE external_id = $1 FOR KEY SHARE`, id).Scan(&number)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("subscriber %s: %w", id, fanfare.ErrNotFound)
	}
	return topicID, number, err
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func topicID(ctx context.Context, q querier, topic fanfare.Topic) (id fanfare.TopicID, err error) {
	err = q.QueryRow(ctx, `SELECT topic_id FROM topics WHERE topic = $1`, topic).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fmt.Errorf("topic %s: %w", topic, fanfare.ErrUnknownTopic)
	}
	return id, err
}

// jsonOrNull keeps empty collections out of the table.
func jsonOrNull[T ~[]fanfare.Device | ~map[string]string](v T) any {
	if len(v) == 0 {
		return nil
	}
	return v
}
