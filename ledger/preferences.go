package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// SubscriberNumber finds the number of a subscriber.
func (l *Ledger) SubscriberNumber(ctx context.Context, id fanfare.SubscriberID) (number fanfare.SubscriberNumber, err error) {
	err = l.pool.QueryRow(ctx, `SELECT subscriber_number FROM subscribers WHERE external_id = $1`, id).Scan(&number)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	return number, failed("find subscriber "+string(id), err)
}

// Preferences reads what a subscriber said, and what it comes to.
func (l *Ledger) Preferences(ctx context.Context, number fanfare.SubscriberNumber) (standing fanfare.StandingPreferences, err error) {
	err = pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var there bool
		err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM subscribers WHERE subscriber_number = $1 AND erased_at IS NULL)`, number).Scan(&there)
		if err != nil {
			return err
		}
		if !there {
			return fanfare.ErrNotFound
		}
		standing, err = standingPreferences(ctx, tx, number)
		return err
	})
	return standing, failed(fmt.Sprintf("read preferences of %d", number), err)
}

// PutPreferences changes what is given, leaves the rest, and writes down what really
// changed. Topics that do not exist are an InvalidError that names each of them.
func (l *Ledger) PutPreferences(ctx context.Context, number fanfare.SubscriberNumber, given fanfare.Preferences) (standing fanfare.StandingPreferences, err error) {
	err = l.transact(ctx, func(tx pgx.Tx) error {
		if err := lockPerson(ctx, tx, number); err != nil {
			return err
		}
		if err := putChannels(ctx, tx, number, given.Channels); err != nil {
			return err
		}
		if err := putTopics(ctx, tx, number, given.Topics); err != nil {
			return err
		}
		standing, err = standingPreferences(ctx, tx, number)
		return err
	})
	return standing, failed(fmt.Sprintf("put preferences of %d", number), err)
}

// lockPerson keeps writers of one person's preferences behind each other, so that what
// one finds is what the other wrote, and behind an erasure. Claims do not wait for it.
func lockPerson(ctx context.Context, tx pgx.Tx, number fanfare.SubscriberNumber) error {
	tag, err := tx.Exec(ctx, `SELECT FROM subscribers WHERE subscriber_number = $1 AND erased_at IS NULL FOR NO KEY UPDATE`, number)
	if err == nil && tag.RowsAffected() == 0 {
		err = fanfare.ErrNotFound
	}
	return err
}

func putChannels(ctx context.Context, tx pgx.Tx, number fanfare.SubscriberNumber, given map[fanfare.Channel]bool) error {
	var channels []fanfare.Channel
	var wanted []bool
	for channel, on := range given {
		channels, wanted = append(channels, channel), append(wanted, on)
	}
	if channels == nil {
		return nil
	}
	_, err := tx.Exec(ctx, `
		WITH changed AS MATERIALIZED (
		  SELECT g.channel, p.wanted AS was, g.wanted FROM unnest($2::text[]::channel[], $3::boolean[]) AS g (channel, wanted)
		  LEFT JOIN channel_preferences p ON p.subscriber_number = $1 AND p.channel = g.channel
		  WHERE p.wanted IS DISTINCT FROM g.wanted
		), put AS (
		  INSERT INTO channel_preferences (subscriber_number, channel, wanted) SELECT $1, channel, wanted FROM changed
		  ON CONFLICT (subscriber_number, channel) DO UPDATE SET wanted = excluded.wanted
		)
		INSERT INTO preference_changes (subscriber_number, channel, was, became)
		SELECT $1, channel, was, wanted FROM changed ORDER BY channel`, number, channels, wanted)
	return err
}

func putTopics(ctx context.Context, tx pgx.Tx, number fanfare.SubscriberNumber, given map[fanfare.Topic]map[fanfare.Channel]bool) error {
	if len(given) == 0 {
		return nil
	}
	ids, err := topicIDs(ctx, tx, slices.Sorted(maps.Keys(given)))
	if err != nil {
		return err
	}
	var topics []fanfare.TopicID
	var channels []fanfare.Channel
	var wanted []bool
	for topic, choices := range given {
		for channel, on := range choices {
			topics, channels, wanted = append(topics, ids[topic]), append(channels, channel), append(wanted, on)
		}
	}
	_, err = tx.Exec(ctx, `
		WITH changed AS MATERIALIZED (
		  SELECT g.topic_id, g.channel, p.wanted AS was, g.wanted
		  FROM unnest($2::bigint[], $3::text[]::channel[], $4::boolean[]) AS g (topic_id, channel, wanted)
		  LEFT JOIN topic_preferences p ON p.subscriber_number = $1 AND p.topic_id = g.topic_id AND p.channel = g.channel
		  WHERE p.wanted IS DISTINCT FROM g.wanted
		), put AS (
		  INSERT INTO topic_preferences (subscriber_number, topic_id, channel, wanted) SELECT $1, topic_id, channel, wanted FROM changed
		  ON CONFLICT (subscriber_number, topic_id, channel) DO UPDATE SET wanted = excluded.wanted
		)
		INSERT INTO preference_changes (subscriber_number, topic_id, channel, was, became)
		SELECT $1, topic_id, channel, was, wanted FROM changed ORDER BY topic_id, channel`, number, topics, channels, wanted)
	if err != nil {
		return err
	}
	var of int
	if err := tx.QueryRow(ctx, `SELECT count(DISTINCT topic_id) FROM topic_preferences WHERE subscriber_number = $1`, number).Scan(&of); err != nil {
		return err
	}
	if of > fanfare.MaxPreferredTopics {
		return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "topics", Detail: fmt.Sprintf("with those of before would be %d; at most %d topics can have settings of their own", of, fanfare.MaxPreferredTopics)}}}
	}
	return nil
}

// topicIDs finds topics. Those that do not exist are an InvalidError.
func topicIDs(ctx context.Context, tx pgx.Tx, names []fanfare.Topic) (map[fanfare.Topic]fanfare.TopicID, error) {
	rows, err := tx.Query(ctx, `SELECT topic, topic_id FROM topics WHERE topic = ANY ($1)`, names)
	if err != nil {
		return nil, err
	}
	ids := map[fanfare.Topic]fanfare.TopicID{}
	var topic fanfare.Topic
	var id fanfare.TopicID
	if _, err = pgx.ForEachRow(rows, []any{&topic, &id}, func() error { ids[topic] = id; return nil }); err != nil {
		return nil, err
	}
	var violations []fanfare.Violation
	for _, name := range names {
		if _, there := ids[name]; !there {
			violations = append(violations, fanfare.Violation{Field: "topics." + string(name), Detail: "is no topic"})
		}
	}
	if violations != nil {
		return nil, &fanfare.InvalidError{Violations: violations}
	}
	return ids, nil
}

// standingPreferences reads what was said and, behind it, what that comes to. The rule
// is the claim's (verdictSQL says it for many); a test holds the two to each other.
func standingPreferences(ctx context.Context, tx pgx.Tx, number fanfare.SubscriberNumber) (fanfare.StandingPreferences, error) {
	standing := fanfare.StandingPreferences{
		Preferences: fanfare.Preferences{Channels: map[fanfare.Channel]bool{}, Topics: map[fanfare.Topic]map[fanfare.Channel]bool{}},
		Effective:   map[fanfare.Topic]map[fanfare.Channel]bool{},
	}
	rows, err := tx.Query(ctx, `
		WITH said AS (SELECT channel, wanted FROM channel_preferences WHERE subscriber_number = $1),
		of_topic AS (SELECT topic_id, channel, wanted FROM topic_preferences WHERE subscriber_number = $1),
		subscribed AS (
		  SELECT t.topic_id, t.topic, t.off_by_default FROM subscriptions s JOIN topics t USING (topic_id)
		  WHERE s.subscriber_number = $1 AND s.ended_cut IS NULL ORDER BY t.topic LIMIT $2
		)
		SELECT false AS effective, '' AS topic, channel, wanted FROM said
		UNION ALL SELECT false, t.topic, p.channel, p.wanted FROM of_topic p JOIN topics t USING (topic_id)
		UNION ALL SELECT true, t.topic, c.channel, COALESCE(said.wanted, true) AND COALESCE(p.wanted, c.channel <> ALL (t.off_by_default))
		FROM subscribed t CROSS JOIN unnest(enum_range(NULL::channel)) AS c (channel)
		LEFT JOIN said ON said.channel = c.channel
		LEFT JOIN of_topic p ON p.topic_id = t.topic_id AND p.channel = c.channel`, number, fanfare.MaxPreferredTopics)
	if err != nil {
		return standing, err
	}
	var effective, wanted bool
	var topic fanfare.Topic
	var channel fanfare.Channel
	_, err = pgx.ForEachRow(rows, []any{&effective, &topic, &channel, &wanted}, func() error {
		switch {
		case effective:
			put(standing.Effective, topic, channel, wanted)
		case topic == "":
			standing.Channels[channel] = wanted
		default:
			put(standing.Topics, topic, channel, wanted)
		}
		return nil
	})
	return standing, err
}

func put(m map[fanfare.Topic]map[fanfare.Channel]bool, topic fanfare.Topic, channel fanfare.Channel, wanted bool) {
	if m[topic] == nil {
		m[topic] = map[fanfare.Channel]bool{}
	}
	m[topic][channel] = wanted
}

// PreferenceChanges lists what a subscriber changed, with an id below before, newest
// first; 0 is no bound.
func (l *Ledger) PreferenceChanges(ctx context.Context, number fanfare.SubscriberNumber, before int64, limit int) ([]fanfare.PreferenceChange, error) {
	op := fmt.Sprintf("list preference changes of %d", number)
	rows, err := l.pool.Query(ctx, `
		SELECT c.preference_change_id, COALESCE(t.topic, ''), c.channel, c.was, c.became, c.at
		FROM preference_changes c LEFT JOIN topics t USING (topic_id)
		WHERE c.subscriber_number = $1 AND ($2 = 0 OR c.preference_change_id < $2)
		ORDER BY c.preference_change_id DESC LIMIT $3`, number, before, limit)
	if err != nil {
		return nil, failed(op, err)
	}
	changes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c fanfare.PreferenceChange, err error) {
		err = row.Scan(&c.ID, &c.Topic, &c.Channel, &c.Was, &c.Became, &c.At)
		return c, err
	})
	return changes, failed(op, err)
}

// LinkedPreferences reads what a preferences link opens.
func (l *Ledger) LinkedPreferences(ctx context.Context, link fanfare.PreferencesLink) (fanfare.LinkedPreferences, error) {
	op := fmt.Sprintf("read preferences of %d about topic %d", link.Number, link.Topic)
	linked := fanfare.LinkedPreferences{Channels: map[fanfare.Channel]bool{}, OfTopic: map[fanfare.Channel]bool{}}
	rows, err := l.pool.Query(ctx, `
		SELECT COALESCE(CASE WHEN open.yes THEN t.topic END, ''), COALESCE(t.name, ''), c.channel,
		  COALESCE(said.wanted, true), COALESCE(p.wanted, c.channel <> ALL (t.off_by_default), true)
		FROM subscribers s CROSS JOIN unnest(enum_range(NULL::channel)) AS c (channel)
		LEFT JOIN topics t ON t.topic_id = $2
		LEFT JOIN LATERAL (SELECT true AS yes FROM subscriptions o
		  WHERE o.topic_id = $2 AND o.subscriber_number = $1 AND o.ended_cut IS NULL LIMIT 1) open ON true
		LEFT JOIN channel_preferences said ON said.subscriber_number = $1 AND said.channel = c.channel
		LEFT JOIN topic_preferences p ON p.subscriber_number = $1 AND p.topic_id = $2 AND p.channel = c.channel
		WHERE s.subscriber_number = $1 AND s.erased_at IS NULL`, link.Number, link.Topic)
	if err != nil {
		return linked, failed(op, err)
	}
	var channel fanfare.Channel
	var whole, ofTopic bool
	tag, err := pgx.ForEachRow(rows, []any{&linked.Topic, &linked.TopicName, &channel, &whole, &ofTopic}, func() error {
		linked.Channels[channel], linked.OfTopic[channel] = whole, ofTopic
		return nil
	})
	if err == nil && tag.RowsAffected() == 0 {
		err = fanfare.ErrNotFound
	}
	return linked, failed(op, err)
}
