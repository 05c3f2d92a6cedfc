package ledger

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Announcement reads what a publication's messages are made of.
func (l *Ledger) Announcement(ctx context.Context, id fanfare.PublicationID) (fanfare.Announcement, error) {
	a := fanfare.Announcement{Publication: id}
	var version int
	err := l.pool.QueryRow(ctx, `
		SELECT p.topic_id, t.topic, t.name, p.key, p.class, p.channels::text[], p.content, p.expires_at, p.audience, COALESCE(p.template_version, 0)
		FROM publications p JOIN topics t USING (topic_id) WHERE p.publication_id = $1`, id).
		Scan(&a.TopicID, &a.Topic, &a.TopicName, &a.Key, &a.Class, &a.Channels, &a.Content, &a.ExpiresAt, &a.Audience, &version)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	if err == nil && version > 0 {
		var pinned fanfare.Template
		pinned, err = template(ctx, l.pool, a.Content.Template, version)
		a.Template = &pinned
	}
	return a, failed("read announcement "+string(id), err)
}
