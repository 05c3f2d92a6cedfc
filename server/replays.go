package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// Replayer sends dead letters again. A filter that names a publication that does
// not exist is fanfare.ErrNotFound.
type Replayer interface {
	PreviewReplay(ctx context.Context, filter fanfare.ReplayFilter) (fanfare.ReplayPreview, error)
	// AcceptReplay commits a replay. The same key with the same filter returns the
	// same replay; with another, it is fanfare.ErrKeyReused.
	AcceptReplay(ctx context.Context, filter fanfare.ReplayFilter, idempotencyKey string) (fanfare.Replay, error)
	CancelReplay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error)
}

// ReplayReader reads replays. Replays lists them newest first, behind the one
// given.
type ReplayReader interface {
	Replay(ctx context.Context, id fanfare.ReplayID) (fanfare.Replay, error)
	Replays(ctx context.Context, before fanfare.ReplayID, limit int) ([]fanfare.Replay, error)
}

type replaying struct {
	replayer Replayer
	reader   ReplayReader
	links    links
	wake     func()
}

func (r *replaying) CreateReplay(c echo.Context, params api.CreateReplayParams) error {
	var asked api.ReplayBody
	if err := decode(c, &asked); err != nil {
		return err
	}
	if asked.DryRun {
		preview, err := r.replayer.PreviewReplay(c.Request().Context(), asked.Filter)
		if err != nil {
			return filterError(err)
		}
		return c.JSON(http.StatusOK, presentPreview(preview))
	}
	accepted, err := r.replayer.AcceptReplay(c.Request().Context(), asked.Filter, params.IdempotencyKey)
	if err != nil {
		return filterError(err)
	}
	r.wake()
	accepted = r.present(accepted)
	c.Response().Header().Set(echo.HeaderLocation, accepted.Links["self"])
	return c.JSON(http.StatusAccepted, accepted)
}

// filterError says what was not found: all that a filter can name and miss is a
// publication.
func filterError(err error) error {
	if errors.Is(err, fanfare.ErrNotFound) {
		return errNoPublication
	}
	return err
}

func (r *replaying) GetReplay(c echo.Context, id fanfare.ReplayID) error {
	return r.answer(c, id, r.reader.Replay)
}

func (r *replaying) CancelReplay(c echo.Context, id fanfare.ReplayID) error {
	return r.answer(c, id, r.replayer.CancelReplay)
}

func (r *replaying) answer(c echo.Context, id fanfare.ReplayID, do func(context.Context, fanfare.ReplayID) (fanfare.Replay, error)) error {
	if !fanfare.ValidReplayID(string(id)) {
		return fmt.Errorf("read replay: %w", fanfare.ErrNotFound)
	}
	replay, err := do(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, r.present(replay))
}

func (r *replaying) ListReplays(c echo.Context, params api.ListReplaysParams) error {
	before, err := readCursor(params.Cursor, func(s string) (fanfare.ReplayID, bool) {
		return fanfare.ReplayID(s), fanfare.ValidReplayID(s)
	})
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	list, err := r.reader.Replays(c.Request().Context(), before, limit+1)
	if err != nil {
		return err
	}
	items, next := page(list, limit, func(r fanfare.Replay) string { return string(r.ID) })
	for i := range items {
		items[i] = r.present(items[i])
	}
	return c.JSON(http.StatusOK, api.ReplayList{Items: items, NextCursor: next})
}

func (r *replaying) present(replay fanfare.Replay) fanfare.Replay {
	replay.Links = r.links.ofReplay(replay)
	return replay
}

// presentPreview writes empty collections as such.
func presentPreview(p fanfare.ReplayPreview) fanfare.ReplayPreview {
	if p.ByChannel == nil {
		p.ByChannel = map[fanfare.Channel]int64{}
	}
	for _, counts := range []*map[string]int64{&p.ByReason, &p.ByCode, &p.Excluded} {
		if *counts == nil {
			*counts = map[string]int64{}
		}
	}
	if p.Sample == nil {
		p.Sample = []string{}
	}
	return p
}

// codeForm is how deliveries carry a provider's code.
var codeForm = regexp.MustCompile(`^[^:\s]+:\S`)

// checkReplay finds what is wrong with a filter beyond its form.
func checkReplay(_ context.Context, body []byte) ([]fanfare.Violation, error) {
	var asked struct {
		Filter json.RawMessage `json:"filter"`
	}
	decodeLoosely(body, &asked)
	var given map[string]any
	// Where it is missing or no object, the description's check says so.
	_ = json.Unmarshal(asked.Filter, &given)
	var filter fanfare.ReplayFilter
	decodeLoosely(asked.Filter, &filter)
	var violations []fanfare.Violation
	if given != nil && !names(given) {
		violations = append(violations, fanfare.Violation{
			Field:  "filter",
			Detail: "must name at least one of publication, topic, channel, code, reason, since, until; a since of long ago means all there are",
		})
	}
	if filter.Code != "" && !codeForm.MatchString(filter.Code) {
		violations = append(violations, fanfare.Violation{Field: "filter.code", Detail: "must be <provider>:<code>, such as sendgrid:429"})
	}
	if filter.Since != nil && filter.Until != nil && !filter.Until.After(*filter.Since) {
		violations = append(violations, fanfare.Violation{Field: "filter.until", Detail: "must be after since"})
	}
	return violations, nil
}

// names reports whether any member is there; null counts as left out.
func names(members map[string]any) bool {
	for _, value := range members {
		if value != nil {
			return true
		}
	}
	return false
}
