package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// Templates keeps what messages say. A name or version that nobody put is
// fanfare.ErrNotFound.
type Templates interface {
	// PutTemplate makes a new version, unless the latest says the same.
	PutTemplate(ctx context.Context, t fanfare.Template) (kept fanfare.Template, created bool, err error)
	// Template reads a version, or the latest where that is 0.
	Template(ctx context.Context, name string, version int) (fanfare.Template, error)
	Templates(ctx context.Context, after string, limit int) ([]fanfare.TemplateSummary, error)
	TemplateVersions(ctx context.Context, name string, before, limit int) ([]fanfare.TemplateSummary, error)
}

// Renderer judges templates and shows what they make.
type Renderer interface {
	Check(t fanfare.Template) []fanfare.Violation
	// Preview renders on all channels of the announcement: for a reader of the locale, or
	// in all locales where it is empty.
	Preview(a fanfare.Announcement, locale string) ([]fanfare.Rendered, []fanfare.Violation, error)
}

// testPrefix begins the names of tests' topics and the keys of their publications. A
// topic's name goes on with the subscriber's number: topics outlive people, and what an id
// was can be guessed from its digest.
const testPrefix = "test:"

func testTopic(number fanfare.SubscriberNumber) fanfare.Topic {
	return fanfare.Topic(testPrefix + strconv.FormatInt(int64(number), 10))
}

func keyOfTest(idempotencyKey string) fanfare.Key {
	if idempotencyKey == "" {
		return fanfare.Key(testPrefix + rand.Text())
	}
	sum := sha256.Sum256([]byte(idempotencyKey))
	return fanfare.Key(testPrefix + hex.EncodeToString(sum[:16]))
}

type templating struct {
	templates  Templates
	renderer   Renderer
	topics     Topics
	finder     SubscriberFinder
	publishing *publishing
}

func (t *templating) PutTemplate(c echo.Context, name string) error {
	var asked fanfare.Template
	if err := decode(c, &asked); err != nil {
		return err
	}
	asked.Normalise()
	asked.Name = name
	kept, created, err := t.templates.PutTemplate(c.Request().Context(), asked)
	if err != nil {
		return err
	}
	return c.JSON(putStatus(created), kept)
}

// check is the deep check of putTemplate.
func (t *templating) check(_ context.Context, body []byte) ([]fanfare.Violation, error) {
	var asked fanfare.Template
	decodeLoosely(body, &asked)
	given := asked.Texts
	asked.Normalise()
	violations := t.renderer.Check(asked)
	for channel, locales := range given {
		if len(asked.Texts[channel]) < len(locales) { // one of them would be lost
			violations = append(violations, fanfare.Violation{Field: "texts." + string(channel), Detail: "has a locale twice: pt-BR, pt_br and PT-BR are one"})
		}
	}
	return violations, nil
}

func (t *templating) GetTemplate(c echo.Context, name string, params api.GetTemplateParams) error {
	kept, err := t.templates.Template(c.Request().Context(), name, params.Version)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, kept)
}

func (t *templating) ListTemplates(c echo.Context, params api.ListTemplatesParams) error {
	after, err := readCursor(params.Cursor, func(s string) (string, bool) { return s, fanfare.ValidName(s) })
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	list, err := t.templates.Templates(c.Request().Context(), after, limit+1)
	if err != nil {
		return err
	}
	items, next := page(list, limit, func(s fanfare.TemplateSummary) string { return s.Name })
	return c.JSON(http.StatusOK, api.TemplateList{Items: items, NextCursor: next})
}

func (t *templating) ListTemplateVersions(c echo.Context, name string, params api.ListTemplateVersionsParams) error {
	before, err := readCursor(params.Cursor, func(s string) (int, bool) {
		n, err := strconv.ParseInt(s, 10, 32)
		return int(n), err == nil && n > 0
	})
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	list, err := t.templates.TemplateVersions(c.Request().Context(), name, before, limit+1)
	if err != nil {
		return err
	}
	items, next := page(list, limit, func(s fanfare.TemplateSummary) string { return strconv.Itoa(s.Version) })
	return c.JSON(http.StatusOK, api.TemplateList{Items: items, NextCursor: next})
}

func (t *templating) PreviewTemplate(c echo.Context, name string) error {
	var asked api.PreviewBody
	if err := decode(c, &asked); err != nil {
		return err
	}
	kept, err := t.templates.Template(c.Request().Context(), name, asked.Version)
	if err != nil {
		return err
	}
	channels := slices.Sorted(maps.Keys(kept.Texts))
	if asked.Channel != "" {
		channels = []fanfare.Channel{asked.Channel}
	}
	messages, problems, err := t.renderer.Preview(fanfare.Announcement{
		TopicName: "Topic", Key: "preview", Channels: channels, Template: &kept,
		Content: fanfare.Content{Template: name, Data: asked.Data},
	}, asked.Locale)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.TemplatePreview{Name: name, Version: kept.Version, Messages: messages, Problems: problems})
}

// TestTemplate publishes to a topic that has one subscriber: what comes of it is
// recorded and can be read as that of any publication.
func (t *templating) TestTemplate(c echo.Context, name string, params api.TestTemplateParams) error {
	var asked api.TestBody
	if err := decode(c, &asked); err != nil {
		return err
	}
	ctx := c.Request().Context()
	number, err := t.checkTest(ctx, name, asked)
	if err != nil {
		return err
	}
	topic := testTopic(number)
	if _, _, err := t.topics.PutTopic(ctx, topic, "Test", nil); err != nil {
		return err
	}
	if _, err := t.topics.Subscribe(ctx, topic, asked.Subscriber); err != nil {
		return err
	}
	return t.publishing.accept(c, fanfare.Draft{
		Key: keyOfTest(params.IdempotencyKey), Topic: topic, Class: fanfare.Transactional,
		Channels: []fanfare.Channel{asked.Channel}, Content: fanfare.Content{Template: name, Data: asked.Data},
	}, params.IdempotencyKey)
}

// checkTest finds what is wrong with a test before anything is made for it, and the number
// of who gets it.
func (t *templating) checkTest(ctx context.Context, name string, asked api.TestBody) (fanfare.SubscriberNumber, error) {
	violations := checkContent(fanfare.Content{Data: asked.Data})
	for i := range violations {
		violations[i].Field = "data"
	}
	for _, off := range t.publishing.channels.check([]fanfare.Channel{asked.Channel}) {
		violations = append(violations, fanfare.Violation{Field: "channel", Detail: off.Detail})
	}
	number, err := t.finder.SubscriberNumber(ctx, asked.Subscriber)
	switch {
	case errors.Is(err, fanfare.ErrNotFound):
		violations = append(violations, fanfare.Violation{Field: "subscriber", Detail: "does not exist; create it with PUT /v1/subscribers/{id}"})
	case err != nil:
		return 0, err
	}
	if len(violations) > 0 {
		return 0, &fanfare.InvalidError{Violations: violations}
	}
	_, err = t.templates.Template(ctx, name, 0)
	return number, err
}
