package server

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// InboxReader reads in-app notifications.
type InboxReader interface {
	Inbox(ctx context.Context, q fanfare.InboxQuery) (fanfare.Inbox, error)
}

// InboxMarker does what subscribers do with in-app notifications.
type InboxMarker interface {
	MarkInboxItem(ctx context.Context, number fanfare.SubscriberNumber, id fanfare.InboxItemID, mark fanfare.InboxMark) (item fanfare.InboxItem, unread int64, err error)
	ReadInbox(ctx context.Context, number fanfare.SubscriberNumber) error
}

// Inboxes is all that /v1/me/inbox asks of the ledger.
type Inboxes interface {
	InboxReader
	InboxMarker
	InboxFollower
}

type inbox struct {
	reader    InboxReader
	marker    InboxMarker
	followers *followers
	spans     spans
	now       func() time.Time
}

func (i *inbox) GetInbox(c echo.Context, params api.GetInboxParams) error {
	before, err := readCursor(params.Cursor, parseItemID)
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	inbox, err := i.reader.Inbox(c.Request().Context(), fanfare.InboxQuery{
		Number: tokenOwner(c), State: params.State, Before: before, Limit: limit + 1,
	})
	if err != nil {
		return err
	}
	items, next := page(inbox.Items, limit, func(item fanfare.InboxItem) string { return strconv.FormatInt(int64(item.ID), 10) })
	return c.JSON(http.StatusOK, api.Inbox{Items: items, NextCursor: next, Unread: inbox.Unread, LastEventId: int64(inbox.Change)})
}

func parseItemID(s string) (fanfare.InboxItemID, bool) {
	id, err := strconv.ParseInt(s, 10, 64)
	return fanfare.InboxItemID(id), err == nil && id > 0
}

func (i *inbox) ReadInboxItem(c echo.Context, id string) error {
	return i.mark(c, id, fanfare.MarkRead)
}

func (i *inbox) UnreadInboxItem(c echo.Context, id string) error {
	return i.mark(c, id, fanfare.MarkUnread)
}

func (i *inbox) ArchiveInboxItem(c echo.Context, id string) error {
	return i.mark(c, id, fanfare.MarkArchived)
}

func (i *inbox) mark(c echo.Context, id string, mark fanfare.InboxMark) error {
	parsed, ok := parseItemID(id)
	if !ok {
		return fanfare.ErrNotFound
	}
	item, unread, err := i.marker.MarkInboxItem(c.Request().Context(), tokenOwner(c), parsed, mark)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.InboxChange{Item: item, Unread: unread})
}

func (i *inbox) ReadInbox(c echo.Context) error {
	if err := i.marker.ReadInbox(c.Request().Context(), tokenOwner(c)); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
