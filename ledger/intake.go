package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Accept commits a publication and the order to start it, together, and
// returns it. The audience is frozen here.
//
// The same key with the same draft returns the publication that is there, in its
// current state. The same key with another draft is a *fanfare.ConflictError;
// an idempotencyKey (may be empty) used before with another draft is
// fanfare.ErrKeyReused; a topic that does not exist is fanfare.ErrUnknownTopic; a
// template that does not exist, and content that cannot be rendered, is a
// *fanfare.InvalidError. A template is pinned: editing it later changes nothing.
func (l *Ledger) Accept(ctx context.Context, draft fanfare.Draft, idempotencyKey string) (fanfare.Publication, error) {
	draft = normalised(draft)
	request, err := json.Marshal(draft)
	if err != nil {
		return fanfare.Publication{}, fmt.Errorf("accept %s: %w", draft.Key, err)
	}
	var id fanfare.PublicationID
	err = l.transact(ctx, func(tx pgx.Tx) error {
		if err := checkIdempotencyKey(ctx, tx, idempotencyKey, request); err != nil {
			return err
		}
		id, err = l.accept(ctx, tx, draft, request)
		if err != nil {
			return err
		}
		return keepIdempotencyKey(ctx, tx, idempotencyKey, request, id)
	})
	if err != nil {
		return fanfare.Publication{}, failed("accept "+string(draft.Key), err)
	}
	return l.Publication(ctx, id)
}

func (l *Ledger) accept(ctx context.Context, tx pgx.Tx, draft fanfare.Draft, request []byte) (fanfare.PublicationID, error) {
	// A repeat must not wait for the topic's lock, nor count the audience again.
	if id, found, err := existing(ctx, tx, draft); found || err != nil {
		return id, err
	}
	asked, err := l.announced(ctx, tx, draft)
	if err != nil {
		return "", err
	}
	// Writers of this topic's subscriptions hold the lock shared. Holding it
	// alone means that all of them have committed with smaller cuts, and that
	// whoever comes later takes a larger one.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+topicLock+`)`, asked.TopicID); err != nil {
		return "", err
	}
	return l.insertPublication(ctx, tx, asked, draft, request)
}

// announced is what the draft's messages would be made of: its defaults are filled in,
// its template is the latest, and all of it can be rendered.
func (l *Ledger) announced(ctx context.Context, tx pgx.Tx, draft fanfare.Draft) (fanfare.Announcement, error) {
	a := fanfare.Announcement{Topic: draft.Topic, Key: draft.Key, Class: draft.Class, Channels: draft.Channels, Content: draft.Content}
	err := tx.QueryRow(ctx, `SELECT topic_id, name FROM topics WHERE topic = $1`, draft.Topic).Scan(&a.TopicID, &a.TopicName)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, fmt.Errorf("topic %s: %w", draft.Topic, fanfare.ErrUnknownTopic)
	}
	if err != nil {
		return a, err
	}
	if a.Class == "" {
		a.Class = fanfare.Bulk
	}
	if len(a.Channels) == 0 {
		a.Channels = l.defaultChannels()
	}
	if name := draft.Content.Template; name != "" {
		latest, err := template(ctx, tx, name, 0)
		if errors.Is(err, fanfare.ErrNotFound) {
			return a, &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "content.template", Detail: "does not exist; create it with PUT /v1/templates/{name}"}}}
		}
		if err != nil {
			return a, err
		}
		a.Template = &latest
	}
	if l.cfg.Prove == nil {
		return a, nil
	}
	return a, l.cfg.Prove(a)
}

// defaultChannels are those of a publication that names none: to reach everybody on
// every channel at once must be asked for.
func (l *Ledger) defaultChannels() []fanfare.Channel {
	if slices.Contains(l.cfg.Channels, fanfare.Email) {
		return []fanfare.Channel{fanfare.Email}
	}
	return slices.Sorted(slices.Values(l.cfg.Channels)) // in the order of a draft's
}

func (l *Ledger) insertPublication(ctx context.Context, tx pgx.Tx, asked fanfare.Announcement, draft fanfare.Draft, request []byte) (fanfare.PublicationID, error) {
	content, err := json.Marshal(draft.Content)
	if err != nil {
		return "", err
	}
	var pinned *string
	var version *int
	if asked.Template != nil {
		pinned, version = &asked.Template.Name, &asked.Template.Version
	}
	var id fanfare.PublicationID
	err = tx.QueryRow(ctx, `
		WITH cut AS MATERIALIZED (SELECT nextval('cuts') AS cut, uuid_v7() AS id, clock_timestamp() AS now),
		accepted AS (
		  INSERT INTO publications (publication_id, key, topic_id, class, channels, content, request, state, cut, audience, accepted_at, scheduled_at, expires_at, template, template_version)
		  SELECT cut.id, $2, $1, $3, $4::text[]::channel[], $5, $6,
		    CASE WHEN $7 > cut.now THEN 'scheduled' ELSE 'accepted' END::publication_state, cut.cut,
		    (SELECT count(*) FROM subscriptions s WHERE s.topic_id = $1 AND s.ended_cut IS NULL),
		    cut.now, $7, COALESCE($8, GREATEST(COALESCE($7, cut.now), cut.now) + make_interval(secs => $9)), $10, $11
		  FROM cut
		  ON CONFLICT (key) DO NOTHING
		  RETURNING publication_id
		), ordered AS (
		  INSERT INTO outbox (publication_id, kind) SELECT publication_id, 'start' FROM accepted
		)
		SELECT publication_id FROM accepted`,
		asked.TopicID, draft.Key, asked.Class, asked.Channels, content, request, draft.ScheduledAt, draft.ExpiresAt, seconds(l.cfg.Expires), pinned, version).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		// Somebody committed the key while we waited for the lock.
		id, _, err = existing(ctx, tx, draft)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.ConstraintName == "publication_expires_after_it_starts" {
		err = &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "expires_at", Detail: "must be after the publication's start"}}}
	}
	return id, err
}

// existing finds the publication that has the draft's key and checks that it
// was asked for in the same words.
func existing(ctx context.Context, tx pgx.Tx, draft fanfare.Draft) (fanfare.PublicationID, bool, error) {
	var id fanfare.PublicationID
	var request []byte
	err := tx.QueryRow(ctx, `SELECT publication_id, request FROM publications WHERE key = $1`, draft.Key).Scan(&id, &request)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	var before fanfare.Draft
	if err := json.Unmarshal(request, &before); err != nil {
		return "", false, fmt.Errorf("read request of %s: %w", id, err)
	}
	if fields := differences(before, draft); len(fields) > 0 {
		return id, true, &fanfare.ConflictError{Key: draft.Key, ID: id, Fields: fields}
	}
	return id, true, nil
}

// normalised writes the same request in the same words: times in UTC to the
// microsecond that PostgreSQL keeps, channels in order.
func normalised(d fanfare.Draft) fanfare.Draft {
	d.Channels = slices.Clone(d.Channels)
	slices.Sort(d.Channels)
	d.Channels = slices.Compact(d.Channels)
	for _, at := range []**time.Time{&d.ScheduledAt, &d.ExpiresAt} {
		if *at != nil {
			utc := (*at).UTC().Truncate(time.Microsecond)
			*at = &utc
		}
	}
	return d
}

func differences(a, b fanfare.Draft) []string {
	var fields []string
	differ := func(name string, same bool) {
		if !same {
			fields = append(fields, name)
		}
	}
	sameTime := func(a, b *time.Time) bool { return (a == nil) == (b == nil) && (a == nil || a.Equal(*b)) }
	differ("topic", a.Topic == b.Topic)
	differ("channels", slices.Equal(a.Channels, b.Channels))
	differ("content.title", a.Content.Title == b.Content.Title)
	differ("content.url", a.Content.URL == b.Content.URL)
	differ("content.summary", a.Content.Summary == b.Content.Summary)
	differ("content.body", a.Content.Body == b.Content.Body)
	differ("content.template", a.Content.Template == b.Content.Template)
	differ("content.data", sameData(a.Content.Data, b.Content.Data))
	differ("class", a.Class == b.Class)
	differ("scheduled_at", sameTime(a.ScheduledAt, b.ScheduledAt))
	differ("expires_at", sameTime(a.ExpiresAt, b.ExpiresAt))
	return fields
}

// sameData compares data as JSON, where 1 and 1.0 are one number. An empty object is none.
func sameData(a, b map[string]any) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

func checkIdempotencyKey(ctx context.Context, tx pgx.Tx, key string, request []byte) error {
	if key == "" {
		return nil
	}
	// Two requests with one key must follow each other, or both would be first.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('idempotency ' || $1, 0))`, key); err != nil {
		return err
	}
	var fingerprint []byte
	err := tx.QueryRow(ctx, `SELECT fingerprint FROM idempotency_keys WHERE idempotency_key = $1`, key).Scan(&fingerprint)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(request); !bytes.Equal(sum[:], fingerprint) {
		return fanfare.ErrKeyReused
	}
	return nil
}

func keepIdempotencyKey(ctx context.Context, tx pgx.Tx, key string, request []byte, id fanfare.PublicationID) error {
	if key == "" {
		return nil
	}
	sum := sha256.Sum256(request)
	_, err := tx.Exec(ctx, `
		INSERT INTO idempotency_keys (idempotency_key, fingerprint, publication_id) VALUES ($1, $2, $3)
		ON CONFLICT DO NOTHING`, key, sum[:], id)
	return err
}
