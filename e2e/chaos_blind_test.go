package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestChaosIsNotBlind does by hand what a chaos run must find, on every channel, and
// looks that it does.
func TestChaosIsNotBlind(t *testing.T) {
	t.Parallel()
	c := startChaos(t, size{seed: 1, topics: 1, most: 300, pace: 10_000, batch: 100})
	c.subscribeAll()
	a := &article{topic: topicName(0), channels: fourChannels}
	c.publish(t.Context(), "article-1", a, 0, 0)
	c.drain()
	require.Empty(t, c.examine().failed, "nothing is wrong yet")

	delivery := func(channel fanfare.Channel, r reader) string {
		number := c.count(`SELECT subscriber_number FROM subscribers WHERE external_id = $1`, r.String())
		return row{Publication: a.id, Channel: channel, Number: fanfare.SubscriberNumber(number)}.id()
	}
	const twice, lost, unfounded, denied, failed, unwanted = reader(100), reader(101), reader(102), reader(103), reader(104), reader(105)
	for account, channel := range map[string]fanfare.Channel{"sendgrid": fanfare.Email, "twilio": fanfare.SMS, "fcm": fanfare.Push, c.believed(): fanfare.Email} {
		c.send(account, delivery(channel, twice))
	}
	c.damage(`INSERT INTO inbox_items (subscriber_number, number, change, publication_id, locale)
		SELECT subscriber_number, number + 1, change + 1, publication_id, locale FROM inbox_items WHERE subscriber_number = $2 AND $1 = 'inapp'`, delivery(fanfare.InApp, twice))
	c.damage(`UPDATE deliveries SET call_id = '`+nobodysCall+`' WHERE channel = $1::text::channel AND subscriber_number = $2`, delivery(fanfare.InApp, twice))
	for _, channel := range fourChannels {
		c.damage(`DELETE FROM deliveries WHERE channel = $1::text::channel AND subscriber_number = $2`, delivery(channel, lost))
		c.damage(`UPDATE deliveries SET state = 'skipped', reason = 'opted_out' WHERE channel = $1::text::channel AND subscriber_number = $2`, delivery(channel, denied))
		c.damage(`UPDATE deliveries SET state = 'failed', code = 'x:1' WHERE channel = $1::text::channel AND subscriber_number = $2`, delivery(channel, failed))
		c.refusals[unwanted] = append(c.refusals[unwanted], &refusal{channel: channel, from: c.began.Add(-aMoment)})
	}
	a.cancelled = c.began
	_, err := fmt.Fprintf(c.output, "worker | sent to reader-1@%s\nworker | sent to +34600000001\nworker | to=%%2B34710001610\nworker | sent to device-of-reader-1\n", mailDomain)
	require.NoError(t, err)
	c.count(`UPDATE subscriptions SET ended_cut = began_cut + 1, ended_at = now() WHERE subscriber_number = 200 RETURNING 1`)

	b := c.examine()
	found := func(what string) string { return fmt.Sprint(b.failed[what]) }
	for what, who := range map[string]reader{isTwice: twice, isDenied: denied, isUnexplained: failed, isUnwanted: unwanted} {
		for _, channel := range fourChannels {
			require.Contains(t, found(what), delivery(channel, who), what)
		}
	}
	require.Contains(t, found(isUnexplained), delivery(fanfare.SMS, denied), "nobody opted out")
	require.Contains(t, found(isDenied), delivery(fanfare.Push, failed))
	for _, where := range []string{"sendgrid", "twilio", "fcm", "inbox"} {
		require.Contains(t, found(isUnclaimed), where+" at ")
		require.Contains(t, found(isLate), where+", ")
	}
	require.NotEmpty(t, b.failed[isUneven])
	require.NotEmpty(t, b.failed[isForgotten])
	require.Len(t, b.failed[isWritten], 4)
	require.NotEmpty(t, b.failed[isBelieved])

	// These got what was sent: with that forgotten they are what the others cannot be.
	for _, channel := range fourChannels {
		delete(b.received, delivery(channel, lost))
		delete(b.received, delivery(channel, unfounded))
		require.Contains(t, fmt.Sprint(b.lost()), delivery(channel, lost))
		require.Contains(t, fmt.Sprint(b.lost()), delivery(channel, unfounded))
		require.Contains(t, fmt.Sprint(b.unfounded()), delivery(channel, unfounded))
	}
}

// nobodysCall is a call that no claim announced.
const nobodysCall = "01890000-0000-7000-8000-000000000001"

// send has an account accept a message that no worker sent.
func (c *chaos) send(account, delivery string) {
	c.t.Helper()
	path, contentType := "/v3/mail/send", "application/json"
	body := fmt.Sprintf(`{"personalizations":[{"to":[{"email":"twice@%s"}],"custom_args":{"delivery":"%s","call":"%s"}}],
		"from":{"email":"news@fanfare.example"},"subject":"again","content":[{"type":"text/plain","value":"again"}]}`, mailDomain, delivery, nobodysCall)
	switch account {
	case "twilio":
		path, contentType = "/2010-04-01/Accounts/"+twilioAccount("twilio")+"/Messages.json", "application/x-www-form-urlencoded"
		callback := fmt.Sprintf("%s/webhooks/twilio?delivery=%s&call=%s", c.api, delivery, nobodysCall)
		body = url.Values{"To": {"+34600000100"}, "From": {"+15005550006"}, "Body": {"again"}, "StatusCallback": {callback}}.Encode()
	case "fcm":
		path = "/v1/projects/fanfare-e2e/messages:send"
		body = fmt.Sprintf(`{"message":{"token":"device-of-reader-100","notification":{"title":"again"},"data":{"delivery":"%s","call":"%s"}}}`, delivery, nobodysCall)
	}
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.addresses[account]+path, strings.NewReader(body))
	require.NoError(c.t, err)
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Authorization", "Bearer SG.e2e")
	if account == "twilio" {
		request.SetBasicAuth(twilioAccount("twilio"), twilioToken)
	}
	answer, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	require.NoError(c.t, err)
	require.Less(c.t, answer.StatusCode, http.StatusMultipleChoices, "%s", said)
}

// believed adds an account that posts forged events to somebody who takes everything for
// true, and gives its name.
func (c *chaos) believed() string {
	c.t.Helper()
	everything := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	c.t.Cleanup(everything.Close)
	const name = "believed"
	plain := c.api
	c.api = everything.URL
	c.sandboxes[name], c.addresses[name] = c.startSandbox(true, "sendgrid")
	c.api = plain
	require.NoError(c.t, c.sandboxes[name].SetFaults(sandbox.Faults{Webhooks: sandbox.WebhookFaults{Forged: 1}}))
	return name
}

// damage changes a delivery as if the disk had done it: no trigger keeps the books.
func (c *chaos) damage(sql, delivery string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.database)
	require.NoError(c.t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `SET session_replication_role = replica`)
	require.NoError(c.t, err)
	id, err := fanfare.ParseDeliveryID(delivery)
	require.NoError(c.t, err)
	tag, err := conn.Exec(ctx, sql, string(id.Channel), int64(id.Number))
	require.NoError(c.t, err)
	require.EqualValues(c.t, 1, tag.RowsAffected())
}
