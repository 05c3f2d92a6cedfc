package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

const (
	// maxContent is how many bytes title, url, summary, body and data have together.
	maxContent = 256 << 10
	// maxAhead bounds scheduled_at: partitions for deliveries are made that far ahead.
	maxAhead = 30 * 24 * time.Hour
	// clockSlack is how far the publisher's clock may be behind ours.
	clockSlack = time.Minute
)

// Intake takes publications in.
type Intake interface {
	// Accept commits a publication. A repeat of the same request returns the same
	// publication in its current state.
	Accept(ctx context.Context, draft fanfare.Draft, idempotencyKey string) (fanfare.Publication, error)
	// FindPublication reads a publication by its id or key.
	FindPublication(ctx context.Context, idOrKey string) (fanfare.Publication, error)
	TopicExists(ctx context.Context, topic fanfare.Topic) (bool, error)
}

// PublicationReader reads publications with their totals.
type PublicationReader interface {
	Publication(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error)
	Publications(ctx context.Context, q fanfare.PublicationQuery) ([]fanfare.Publication, error)
}

// Controls stop publications and let them go on. Cancel and Pause return when
// no further provider call begins, after about 1.5 s at most.
type Controls interface {
	Cancel(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error)
	Pause(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error)
	Resume(ctx context.Context, id fanfare.PublicationID) (fanfare.Publication, error)
}

type publishing struct {
	intake   Intake
	reader   PublicationReader
	controls Controls
	channels channels
	links    links
	wake     func()
	now      func() time.Time
}

func (p *publishing) CreatePublication(c echo.Context, params api.CreatePublicationParams) error {
	var draft fanfare.Draft
	if err := decode(c, &draft); err != nil {
		return err
	}
	return p.accept(c, draft, params.IdempotencyKey)
}

func (p *publishing) accept(c echo.Context, draft fanfare.Draft, idempotencyKey string) error {
	accepted, err := p.intake.Accept(c.Request().Context(), draft, idempotencyKey)
	if err != nil {
		return err
	}
	p.wake()
	links := p.links.ofPublication(accepted.ID)
	c.Response().Header().Set(echo.HeaderLocation, links["self"])
	return c.JSON(http.StatusAccepted, api.AcceptedPublication{
		Id: accepted.ID, Key: accepted.Key, State: accepted.State, Intended: accepted.Totals.Intended, Links: links,
	})
}

func (p *publishing) GetPublication(c echo.Context, id fanfare.PublicationID) error {
	return p.answer(c, id, p.reader.Publication)
}

func (p *publishing) CancelPublication(c echo.Context, id fanfare.PublicationID) error {
	return p.turn(c, id, p.controls.Cancel)
}

func (p *publishing) PausePublication(c echo.Context, id fanfare.PublicationID) error {
	return p.turn(c, id, p.controls.Pause)
}

func (p *publishing) ResumePublication(c echo.Context, id fanfare.PublicationID) error {
	return p.turn(c, id, p.controls.Resume)
}

// turn changes a publication's state. The relay is woken in any case: a stop
// that was given up on may have been committed.
func (p *publishing) turn(c echo.Context, id fanfare.PublicationID, do func(context.Context, fanfare.PublicationID) (fanfare.Publication, error)) error {
	defer p.wake()
	return p.answer(c, id, do)
}

func (p *publishing) answer(c echo.Context, id fanfare.PublicationID, do func(context.Context, fanfare.PublicationID) (fanfare.Publication, error)) error {
	if !fanfare.ValidPublicationID(string(id)) {
		return fmt.Errorf("read publication: %w", fanfare.ErrNotFound)
	}
	publication, err := do(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, p.present(publication))
}

func (p *publishing) ListPublications(c echo.Context, params api.ListPublicationsParams) error {
	before, err := readCursor(params.Cursor, func(s string) (fanfare.PublicationID, bool) {
		return fanfare.PublicationID(s), fanfare.ValidPublicationID(s)
	})
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	list, err := p.reader.Publications(c.Request().Context(), fanfare.PublicationQuery{
		Topic: params.Topic, State: params.State, Before: before, Limit: limit + 1,
	})
	if err != nil {
		return err
	}
	items, next := page(list, limit, func(p fanfare.Publication) string { return string(p.ID) })
	for i := range items {
		items[i] = p.present(items[i])
	}
	return c.JSON(http.StatusOK, api.PublicationList{Items: items, NextCursor: next})
}

// present adds the links, and writes empty collections as such.
func (p *publishing) present(publication fanfare.Publication) fanfare.Publication {
	publication.Links = p.links.ofPublication(publication.ID)
	if publication.ByChannel == nil {
		publication.ByChannel = map[fanfare.Channel]fanfare.Totals{}
	}
	if publication.SkippedByReason == nil {
		publication.SkippedByReason = map[string]int64{}
	}
	if publication.FailedByCode == nil {
		publication.FailedByCode = map[string]int64{}
	}
	return publication
}

// check finds what is wrong with a publication beyond its form.
func (p *publishing) check(ctx context.Context, body []byte) ([]fanfare.Violation, error) {
	var draft fanfare.Draft
	decodeLoosely(body, &draft)
	violations := append(checkRequired(body), checkContent(draft.Content)...)
	if draft.ScheduledAt != nil && draft.ExpiresAt != nil && !draft.ExpiresAt.After(*draft.ScheduledAt) {
		violations = append(violations, fanfare.Violation{Field: "expires_at", Detail: "must be after scheduled_at"})
	}
	if fanfare.ValidName(string(draft.Topic)) {
		exists, err := p.intake.TopicExists(ctx, draft.Topic)
		if err != nil {
			return nil, err
		}
		if !exists {
			violations = append(violations, fanfare.Violation{Field: "topic", Detail: "does not exist; create it with PUT /v1/topics/{topic}"})
		}
	}
	passing := append(p.channels.check(draft.Channels), checkTimes(draft, p.now())...)
	if len(passing) == 0 {
		return violations, nil
	}
	repeat, err := p.isTaken(ctx, draft.Key)
	if err != nil || repeat {
		return violations, err
	}
	return append(violations, passing...), nil
}

// isTaken reports whether there is a publication with the key. What was fine
// when it was accepted (a time that has passed since, a channel switched off since)
// is no fault in a repeat; whether it is one is for Accept to say.
func (p *publishing) isTaken(ctx context.Context, key fanfare.Key) (bool, error) {
	if !fanfare.ValidName(string(key)) {
		return false, nil
	}
	_, err := p.intake.FindPublication(ctx, string(key))
	if errors.Is(err, fanfare.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// checkRequired asks for what content without a template must have.
func checkRequired(body []byte) []fanfare.Violation {
	var given struct {
		Content map[string]json.RawMessage `json:"content"`
	}
	if json.Unmarshal(body, &given) != nil || given.Content == nil || has(given.Content, "template") {
		return nil // without content, the description's check says so
	}
	var violations []fanfare.Violation
	for _, field := range []string{"title", "url"} {
		if !has(given.Content, field) {
			violations = append(violations, fanfare.Violation{Field: "content." + field, Detail: "is required"})
		}
	}
	return violations
}

// has reports whether a member is there; null counts as left out.
func has(members map[string]json.RawMessage, name string) bool {
	value, there := members[name]
	return there && string(value) != "null"
}

func checkContent(content fanfare.Content) []fanfare.Violation {
	var violations []fanfare.Violation
	add := func(field, detail string) {
		violations = append(violations, fanfare.Violation{Field: "content." + field, Detail: detail})
	}
	if content.Title != "" {
		if detail := checkLine(content.Title); detail != "" {
			add("title", detail)
		}
	}
	if content.URL != "" {
		if u, err := url.Parse(content.URL); err != nil || !webAddress(u) || strings.ContainsFunc(content.URL, unicode.IsSpace) {
			add("url", "must be a whole http or https address")
		}
	}
	data := plainJSON(content.Data)
	if holdsNUL(content.Data) {
		add("data", "must not contain a NUL character")
	}
	largest, size, all := "", 0, 0
	for _, part := range []struct{ field, text string }{
		{"title", content.Title}, {"url", content.URL}, {"summary", content.Summary}, {"body", content.Body}, {"data", data},
	} {
		all += len(part.text)
		if len(part.text) > size {
			largest, size = part.field, len(part.text)
		}
		if strings.ContainsRune(part.text, 0) {
			add(part.field, "must not contain a NUL character")
		}
	}
	if all > maxContent {
		add(largest, fmt.Sprintf("is too large: content has %d bytes, at most %d are allowed", all, maxContent))
	}
	return violations
}

// plainJSON is data as its publisher would write it: json.Marshal makes six bytes of a
// "<". No data is nothing.
func plainJSON(data map[string]any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if len(data) == 0 || e.Encode(data) != nil {
		return ""
	}
	return b.String()
}

// holdsNUL finds the one character that PostgreSQL does not keep.
func holdsNUL(value any) bool {
	switch v := value.(type) {
	case string:
		return strings.ContainsRune(v, 0)
	case []any:
		return slices.ContainsFunc(v, holdsNUL)
	case map[string]any:
		for name, member := range v {
			if strings.ContainsRune(name, 0) || holdsNUL(member) {
				return true
			}
		}
	}
	return false
}

// checkLine says what is wrong with text that must stand on one line.
func checkLine(text string) string {
	switch {
	case strings.TrimSpace(text) == "":
		return "must not be blank"
	case strings.ContainsFunc(text, unicode.IsControl):
		return "must be one line without control characters"
	}
	return ""
}

func webAddress(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

// checkTimes finds times that make no sense at the moment.
func checkTimes(draft fanfare.Draft, now time.Time) []fanfare.Violation {
	var violations []fanfare.Violation
	if at := draft.ScheduledAt; at != nil {
		switch {
		case at.Before(now.Add(-clockSlack)):
			violations = append(violations, fanfare.Violation{Field: "scheduled_at", Detail: "is in the past"})
		case at.After(now.Add(maxAhead)):
			violations = append(violations, fanfare.Violation{Field: "scheduled_at", Detail: "must be at most 30 days ahead"})
		}
	}
	if draft.ExpiresAt != nil && !draft.ExpiresAt.After(now) {
		violations = append(violations, fanfare.Violation{Field: "expires_at", Detail: "is in the past"})
	}
	return violations
}

// channels knows which channels are switched on, and how to switch on the others.
type channels struct {
	on       map[fanfare.Channel]bool
	switchOn map[fanfare.Channel]string
}

func newChannels(cfg Config) channels {
	c := channels{on: map[fanfare.Channel]bool{}, switchOn: cfg.SwitchOn}
	for _, channel := range cfg.Channels {
		c.on[channel] = true
	}
	return c
}

func (c channels) check(asked []fanfare.Channel) []fanfare.Violation {
	if len(asked) == 0 && len(c.on) == 0 {
		return []fanfare.Violation{{Field: "channels", Detail: "no channel is switched on at this server"}}
	}
	var violations []fanfare.Violation
	for i, channel := range asked {
		if !channel.Valid() || c.on[channel] {
			continue
		}
		how := c.switchOn[channel]
		if how == "" {
			how = "it has no provider"
		}
		violations = append(violations, fanfare.Violation{
			Field: fmt.Sprintf("channels[%d]", i), Detail: fmt.Sprintf("the channel %s is switched off: %s", channel, how),
		})
	}
	return violations
}
