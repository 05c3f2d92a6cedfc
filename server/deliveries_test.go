package server

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// withDeliveries publishes to 25 people: the first unsubscribed, the second is
// refused by the provider, the third was erased.
func withDeliveries(t *testing.T, r *running) fanfare.PublicationID {
	t.Helper()
	id := publish(t, r, "article-1")
	ended := testNow.Add(time.Second)
	for i := 1; i <= 25; i++ {
		d := fanfare.Delivery{
			ID:          fanfare.DeliveryID{Publication: id, Channel: fanfare.Email, Number: fanfare.SubscriberNumber(100 + i)}.String(),
			Publication: id, Subscriber: fanfare.SubscriberID(fmt.Sprintf("reader-%d", i)), Channel: fanfare.Email, State: fanfare.Sent,
		}
		switch i {
		case 1:
			d.State, d.Reason = fanfare.Skipped, fanfare.ReasonUnsubscribed
		case 2:
			d.State, d.Code, d.Provider, d.Batch = fanfare.Failed, "sendgrid:400", "sendgrid", 3
			d.Attempts = []fanfare.Attempt{{N: 1, Call: "c-1", Provider: "sendgrid", StartedAt: testNow, EndedAt: &ended, Outcome: "rejected", Code: "sendgrid:400", Evidence: "the log shows another message of this call"}}
			d.Events = []fanfare.Event{{Type: fanfare.EventBounced, At: ended}}
		case 3:
			d.Subscriber = ""
		}
		r.ledger.deliveries = append(r.ledger.deliveries, d)
	}
	return id
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	r := start(t)
	id := withDeliveries(t, r)
	list := "/v1/publications/" + string(id) + "/deliveries"
	var seen []string
	for path, pages := list+"?limit=10&channel=email", 0; path != ""; pages++ {
		var page api.DeliveryList
		r.send(t, http.MethodGet, path, "").into(t, &page)
		for _, d := range page.Items {
			seen = append(seen, d.ID)
		}
		path = ""
		if page.NextCursor != nil {
			path = list + "?limit=10&channel=email&cursor=" + *page.NextCursor
		}
	}
	require.Len(t, seen, 25)

	var failed api.DeliveryList
	r.send(t, http.MethodGet, list+"?state=failed", "").into(t, &failed)
	require.Len(t, failed.Items, 1)
	got := r.send(t, http.MethodGet, "/v1/deliveries/"+failed.Items[0].ID, "")
	require.Equal(t, http.StatusOK, got.status)
	var d fanfare.Delivery
	got.into(t, &d)
	require.Equal(t, []fanfare.Event{{Type: fanfare.EventBounced, At: testNow.Add(time.Second)}}, d.Events)
	require.Equal(t, "the log shows another message of this call", d.Attempts[0].Evidence)
	require.Equal(t, "rejected", d.Attempts[0].Outcome)
	require.Equal(t, "https://fanfare.example/v1/deliveries/"+d.ID, d.Links["self"])
	require.Equal(t, "https://fanfare.example/v1/publications/"+string(id), d.Links["publication"])
	require.Equal(t, "http://temporal.example:8233/namespaces/fanfare/workflows/publish%2F"+string(id)+"%2Femail%2F3", d.Links["temporal"])

	got = r.send(t, http.MethodGet, list+"?state=skipped", "")
	require.NotContains(t, string(got.body), "temporal", "no batch has it")
	require.Contains(t, string(r.send(t, http.MethodGet, list+"?channel=sms", "").body), `"items":[]`)

	other := publish(t, r, "article-2")
	p := r.send(t, http.MethodGet, "/v1/publications/"+string(other)+"/deliveries?cursor="+cursorOf(seen[0]), "").problem(t)
	require.Equal(t, []string{"cursor"}, fields(p), "a cursor is good for its own list only")
	require.Equal(t, []string{"channel", "state"}, fields(r.send(t, http.MethodGet, list+"?channel=fax&state=lost", "").problem(t)))
	for _, missing := range []string{
		"/v1/deliveries/nonsense", "/v1/deliveries/" + string(id) + ".email.999", "/v1/deliveries/" + string(id) + ".fax.1",
		"/v1/publications/nonsense/deliveries", "/v1/publications/0199c7a0-0000-7000-8000-00000000ffff/deliveries",
	} {
		require.Equal(t, http.StatusNotFound, r.send(t, http.MethodGet, missing, "").status, missing)
	}
}

func cursorOf(id string) string {
	_, next := page([]string{id, "more"}, 1, func(s string) string { return s })
	return *next
}

func TestLinksWithoutPublicAddress(t *testing.T) {
	t.Parallel()
	links := newLinks(Config{}).ofPublication("p")
	require.Equal(t, map[string]string{"self": "/v1/publications/p", "deliveries": "/v1/publications/p/deliveries"}, links)
}
