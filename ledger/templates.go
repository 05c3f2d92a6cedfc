package ledger

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// PutTemplate makes a new version of a template, unless its latest says the same; then
// that is returned. Of the template only name, default locale and texts are looked at.
func (l *Ledger) PutTemplate(ctx context.Context, t fanfare.Template) (kept fanfare.Template, created bool, err error) {
	texts, err := json.Marshal(t.Texts)
	if err != nil {
		return fanfare.Template{}, false, failed("put template "+t.Name, err)
	}
	err = l.transact(ctx, func(tx pgx.Tx) error {
		// Two that come at once must follow each other, or both would be the next version.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('template ' || $1, 0))`, t.Name); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			WITH latest AS (SELECT version, default_locale, texts FROM templates WHERE template = $1 ORDER BY version DESC LIMIT 1)
			INSERT INTO templates (template, version, default_locale, texts)
			SELECT $1, COALESCE((SELECT version FROM latest), 0) + 1, $2, $3
			WHERE NOT EXISTS (SELECT FROM latest WHERE default_locale = $2 AND texts = $3)`, t.Name, t.DefaultLocale, texts)
		if err != nil {
			return err
		}
		created = tag.RowsAffected() == 1
		kept, err = template(ctx, tx, t.Name, 0)
		return err
	})
	return kept, created, failed("put template "+t.Name, err)
}

// Template reads one version of a template, or its latest where version is 0.
func (l *Ledger) Template(ctx context.Context, name string, version int) (fanfare.Template, error) {
	t, err := template(ctx, l.pool, name, version)
	return t, failed("read template "+name, err)
}

func template(ctx context.Context, from querier, name string, version int) (fanfare.Template, error) {
	t := fanfare.Template{Name: name}
	err := from.QueryRow(ctx, `
		SELECT version, created_at, default_locale, texts FROM templates
		WHERE template = $1 AND ($2 = 0 OR version = $2) ORDER BY version DESC LIMIT 1`, name, version).
		Scan(&t.Version, &t.CreatedAt, &t.DefaultLocale, &t.Texts)
	if errors.Is(err, pgx.ErrNoRows) {
		err = fanfare.ErrNotFound
	}
	return t, err
}

const templateSummarySQL = `template, version, created_at, default_locale,
	(SELECT jsonb_object_agg(c.key, (SELECT jsonb_agg(l.locale ORDER BY l.locale) FROM jsonb_object_keys(c.value) AS l (locale)))
	 FROM jsonb_each(texts) AS c) AS locales`

// Templates lists the latest versions of all templates by name, behind the one given.
func (l *Ledger) Templates(ctx context.Context, after string, limit int) ([]fanfare.TemplateSummary, error) {
	list, err := l.templateSummaries(ctx, `
		SELECT DISTINCT ON (template) `+templateSummarySQL+` FROM templates
		WHERE template > $1 ORDER BY template, version DESC LIMIT $2`, after, limit)
	return list, failed("list templates", err)
}

// TemplateVersions lists a template's versions, the newest first, before the one given;
// 0 is before all. A template that does not exist is fanfare.ErrNotFound.
func (l *Ledger) TemplateVersions(ctx context.Context, name string, before, limit int) ([]fanfare.TemplateSummary, error) {
	list, err := l.templateSummaries(ctx, `
		SELECT `+templateSummarySQL+` FROM templates
		WHERE template = $1 AND ($2 = 0 OR version < $2) ORDER BY version DESC LIMIT $3`, name, before, limit)
	if err == nil && len(list) == 0 && before == 0 {
		err = fanfare.ErrNotFound
	}
	return list, failed("list versions of template "+name, err)
}

func (l *Ledger) templateSummaries(ctx context.Context, sql string, args ...any) ([]fanfare.TemplateSummary, error) {
	rows, err := l.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (fanfare.TemplateSummary, error) {
		var t fanfare.TemplateSummary
		err := row.Scan(&t.Name, &t.Version, &t.CreatedAt, &t.DefaultLocale, &t.Locales)
		return t, err
	})
}
