package server

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// asErased carries a token of somebody of whom nothing is left.
var asErased = header("Authorization", "Bearer "+fanfare.SubscriberToken{Number: 7, Expires: testNow.Add(time.Hour)}.Sign(testSecret))

func (r *running) inbox(t *testing.T, query string) api.Inbox {
	t.Helper()
	got := r.send(t, http.MethodGet, "/v1/me/inbox"+query, "", asReader)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	var inbox api.Inbox
	got.into(t, &inbox)
	return inbox
}

func shownTitles(inbox api.Inbox) []string {
	list := []string{}
	for _, item := range inbox.Items {
		list = append(list, item.Title)
	}
	return list
}

func TestInboxIsListedByPages(t *testing.T) {
	t.Parallel()
	r := start(t)
	require.Equal(t, api.Inbox{Items: []fanfare.InboxItem{}}, r.inbox(t, ""))
	for _, title := range []string{"one", "two", "three"} {
		r.ledger.post(title)
	}
	first := r.inbox(t, "?limit=2")
	require.Equal(t, []string{"three", "two"}, shownTitles(first))
	require.EqualValues(t, 3, first.Unread)
	require.EqualValues(t, 3, first.LastEventId)
	second := r.inbox(t, "?limit=2&cursor="+*first.NextCursor)
	require.Equal(t, []string{"one"}, shownTitles(second))
	require.Nil(t, second.NextCursor)

	require.Equal(t, http.StatusOK, r.send(t, http.MethodPost, "/v1/me/inbox/2/archive", "", asReader).status)
	require.Equal(t, []string{"three", "one"}, shownTitles(r.inbox(t, "")))
	require.Equal(t, []string{"two"}, shownTitles(r.inbox(t, "?state=archived")))
	require.Equal(t, []string{"three", "one"}, shownTitles(r.inbox(t, "?state=unread")))

	for query, field := range map[string]string{"?state=new": "state", "?cursor=x": "cursor", "?limit=0": "limit"} {
		got := r.send(t, http.MethodGet, "/v1/me/inbox"+query, "", asReader)
		require.Equal(t, http.StatusBadRequest, got.status, query)
		require.Equal(t, []string{field}, fields(got.problem(t)))
	}
}

func TestInboxItemsAreMarked(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.post("one")
	r.ledger.post("two")
	for _, step := range []struct {
		mark           string
		read, archived bool
		unread         int64
	}{
		{"read", true, false, 1},
		{"unread", false, false, 2},
		{"archive", true, true, 1},
	} {
		got := r.send(t, http.MethodPost, "/v1/me/inbox/2/"+step.mark, "", asReader)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		var change api.InboxChange
		got.into(t, &change)
		require.Equal(t, "two", change.Item.Title)
		require.Equal(t, step.read, change.Item.ReadAt != nil)
		require.Equal(t, step.archived, change.Item.ArchivedAt != nil)
		require.Equal(t, step.unread, change.Unread)
	}
	require.Equal(t, http.StatusNoContent, r.send(t, http.MethodPost, "/v1/me/inbox/read", "", asReader).status)
	require.Zero(t, r.inbox(t, "").Unread)
	for _, id := range []string{"3", "0", "-1", "x", "9999999999999999999999", "2%2F"} {
		for _, mark := range []string{"read", "unread", "archive"} {
			require.Equal(t, http.StatusNotFound, r.send(t, http.MethodPost, "/v1/me/inbox/"+id+"/"+mark, "", asReader).status, id)
		}
	}
}

func TestInboxBelongsToItsSubscriber(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.ledger.post("one")
	for _, request := range [][2]string{
		{http.MethodGet, "/v1/me/inbox"},
		{http.MethodGet, "/v1/me/inbox/stream"},
		{http.MethodPost, "/v1/me/inbox/1/read"},
		{http.MethodPost, "/v1/me/inbox/1/unread"},
		{http.MethodPost, "/v1/me/inbox/1/archive"},
	} {
		require.Equal(t, http.StatusNotFound, r.send(t, request[0], request[1], "", asErased).status, request)
		for _, nobody := range []edit{noKey, header("Authorization", "Bearer "+testKey)} {
			got := r.send(t, request[0], request[1], "", nobody)
			require.Equal(t, http.StatusUnauthorized, got.status, request)
			require.Equal(t, api.ProblemCodeUnauthorized, got.problem(t).Code)
		}
	}
	require.Equal(t, http.StatusUnauthorized, r.send(t, http.MethodPost, "/v1/me/inbox/read", "", noKey).status)
	require.EqualValues(t, 1, r.inbox(t, "").Unread, "nobody but the subscriber changed anything")
}
