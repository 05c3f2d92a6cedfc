package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestChaosIsNotBlind does by hand what a chaos run must find, and looks that it does.
func TestChaosIsNotBlind(t *testing.T) {
	t.Parallel()
	c := startChaos(t, size{seed: 1, topics: 1, most: 300, pace: 10_000, batch: 100})
	c.subscribeAll()
	c.publish(t.Context(), "article-1", topicName(0), 0, 0)
	c.drain()
	require.Empty(t, c.examine().failed, "nothing is wrong yet")

	id := c.known["article-1"].id
	delivery := func(reader string) string {
		return fmt.Sprintf("%s.email.%d", id, c.count(`SELECT subscriber_number FROM subscribers WHERE external_id = $1`, reader))
	}
	twice, lost, unfounded, denied := delivery("reader-100"), delivery("reader-0"), delivery("reader-101"), delivery("reader-102")
	c.mail(twice, "01890000-0000-7000-8000-000000000001")
	c.damage(`DELETE FROM deliveries WHERE subscriber_number = $1`, lost)
	c.damage(`UPDATE deliveries SET state = 'skipped', reason = 'cancelled' WHERE subscriber_number = $1`, denied)
	c.known["article-1"].cancelled = c.began
	_, err := c.output.Write([]byte("worker | sent to reader-1@" + mailDomain + "\n"))
	require.NoError(t, err)
	c.count(`UPDATE subscriptions SET ended_cut = began_cut + 1, ended_at = now() WHERE subscriber_number = 200 RETURNING 1`)

	b := c.examine()
	require.Contains(t, b.failed[isTwice][0], twice)
	require.Contains(t, b.failed[isDenied][0], denied)
	require.Len(t, b.failed[isUnclaimed], 1)
	require.NotEmpty(t, b.failed[isLate])
	require.NotEmpty(t, b.failed[isUneven])
	require.NotEmpty(t, b.failed[isForgotten])
	require.NotEmpty(t, b.failed[isWritten])

	// These two had mail: with that forgotten they are what the others cannot be.
	delete(b.received, lost)
	delete(b.received, unfounded)
	require.Len(t, b.lost(), 2)
	require.Len(t, b.unfounded(), 1)
	require.Contains(t, b.unfounded()[0], unfounded)
}

// mail has the first sandbox accept a message that no worker sent.
func (c *chaos) mail(delivery, call string) {
	c.t.Helper()
	body := fmt.Sprintf(`{"personalizations":[{"to":[{"email":"twice@%s"}],"custom_args":{"delivery":"%s","call":"%s"}}],
		"from":{"email":"news@fanfare.example"},"subject":"again","content":[{"type":"text/plain","value":"again"}]}`, mailDomain, delivery, call)
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.addresses["sendgrid"]+"/v3/mail/send", bytes.NewReader([]byte(body)))
	require.NoError(c.t, err)
	request.Header.Set("Authorization", "Bearer SG.e2e")
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(c.t, err)
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, http.StatusAccepted, answer.StatusCode, "%s", said)
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
	var number int64
	_, err = fmt.Sscanf(delivery[strings.LastIndexByte(delivery, '.')+1:], "%d", &number)
	require.NoError(c.t, err)
	tag, err := conn.Exec(ctx, sql, number)
	require.NoError(c.t, err)
	require.EqualValues(c.t, 1, tag.RowsAffected())
}
