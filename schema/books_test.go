package schema_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireBooks counts the deliveries again and compares totals, reasons and
// attention with them.
func (db *tables) requireBooks(what string) {
	db.t.Helper()
	const counts = `count(*) FILTER (WHERE state = 'sending') AS sending, count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
		count(*) FILTER (WHERE state = 'sent') AS sent, count(*) FILTER (WHERE state = 'delivered') AS delivered,
		count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'skipped') AS skipped, count(*) FILTER (WHERE state = 'dead') AS dead`
	for name, sql := range map[string]string{
		"totals": `
			SELECT (b.publication_id, b.channel, b.n)::text FROM batches b LEFT JOIN (
			  SELECT publication_id, channel, batch AS n, ` + counts + ` FROM deliveries GROUP BY 1, 2, 3) d USING (publication_id, channel, n)
			WHERE (b.sending, b.in_doubt, b.sent, b.delivered, b.failed, b.skipped, b.dead) IS DISTINCT FROM
			  (COALESCE(d.sending, 0), COALESCE(d.in_doubt, 0), COALESCE(d.sent, 0), COALESCE(d.delivered, 0), COALESCE(d.failed, 0), COALESCE(d.skipped, 0), COALESCE(d.dead, 0))`,
		"reasons": `
			SELECT (channel, n, state, reason)::text FROM (SELECT * FROM batch_reasons WHERE count > 0) r FULL JOIN (
			  SELECT publication_id, channel, batch AS n, state, COALESCE(reason, code) AS reason, count(*) AS count FROM deliveries
			  WHERE state IN ('skipped', 'failed', 'dead') GROUP BY 1, 2, 3, 4, 5) d USING (publication_id, channel, n, state, reason)
			WHERE r.count IS DISTINCT FROM d.count`,
		"attention": `
			SELECT (channel, subscriber_number, state)::text FROM attention a FULL JOIN (
			  SELECT * FROM deliveries WHERE state IN ('pending', 'in_doubt', 'failed', 'dead')) d USING (publication_id, channel, state, subscriber_number)
			WHERE (a.batch, a.due_at) IS DISTINCT FROM (d.batch, d.due_at)`,
	} {
		require.Empty(db.t, all[string](db, sql), "%s after %s", name, what)
	}
}

func TestTheBooksFollowAnyUpdate(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	for n := 1; n <= 10; n++ {
		for _, channel := range []string{"email", "push"} {
			db.exec(delivery, id, n, channel, "sending")
		}
	}
	db.requireBooks("inserts")
	for _, sql := range []string{
		`UPDATE deliveries SET state = 'in_doubt', due_at = now() WHERE subscriber_number BETWEEN 3 AND 8`,
		`UPDATE deliveries SET due_at = due_at + interval '1 h' WHERE subscriber_number < 6`,
		`UPDATE deliveries SET state = 'failed', due_at = NULL, code = 'sendgrid:' || subscriber_number % 2 WHERE subscriber_number IN (3, 4) AND channel = 'email'`,
		`UPDATE deliveries SET code = 'sendgrid:400' WHERE state = 'failed'`,
		`UPDATE deliveries SET state = CASE WHEN subscriber_number < 6 THEN 'dead' ELSE 'pending' END::delivery_state,
		   due_at = CASE WHEN subscriber_number < 6 THEN NULL ELSE now() END, reason = CASE WHEN subscriber_number < 6 THEN 'doubt_held' END
		 WHERE state = 'in_doubt'`,
		`UPDATE deliveries SET state = 'skipped', due_at = NULL, reason = 'cancelled' WHERE state = 'pending' AND channel = 'push'`,
		`UPDATE deliveries SET state = 'sent', due_at = NULL, reason = NULL WHERE state IN ('dead', 'sending', 'pending')`,
		`UPDATE deliveries SET state = 'failed', code = 'sendgrid:bounce' WHERE state = 'sent' AND subscriber_number = 9`,
		`UPDATE deliveries SET changed_at = now()`,
		`UPDATE deliveries SET state = 'delivered' WHERE false`,
	} {
		db.exec(sql)
		db.requireBooks(sql)
	}
}

func TestTheBooksFollowARowToAnotherBatch(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	db.exec(delivery, id, 1, "email", "pending")
	db.exec(delivery, id, 6, "email", "failed")
	db.exec(`UPDATE deliveries SET batch = 3 - batch`)
	db.requireBooks("the rows of two batches changed places")
}

func TestTheBooksFollowARandomStormOfUpdates(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	states := []string{"pending", "sending", "in_doubt", "sent", "delivered", "failed", "skipped", "dead"}
	random := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 10; n++ {
		db.exec(delivery, id, n, "email", states[random.IntN(len(states))])
	}
	for range 100 {
		from := states[random.IntN(len(states))]
		if len(moves[from]) == 0 {
			continue
		}
		to := moves[from][random.IntN(len(moves[from]))]
		sql := fmt.Sprintf(`UPDATE deliveries SET state = '%[1]s', call_id = gen_random_uuid(),
			due_at = CASE WHEN '%[1]s' IN ('pending', 'in_doubt') THEN now() END, reason = CASE WHEN '%[1]s' IN ('skipped', 'dead') THEN 'reason %[2]d' END,
			code = CASE WHEN '%[1]s' = 'failed' THEN 'sendgrid:%[2]d' END WHERE state = '%[3]s' AND subscriber_number %% 3 <> %[2]d`,
			to, random.IntN(3), from)
		db.exec(sql)
	}
	db.requireBooks("a storm of updates")
}

func TestDeliveriesAreNeverDeleted(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	db.exec(delivery, id, 1, "email", "sent")
	require.Equal(t, "a_delivery_is_never_deleted", db.refused(`DELETE FROM deliveries`))
	require.Equal(t, "a_delivery_is_never_deleted", db.refused(`TRUNCATE deliveries`))
	db.requireBooks("a refused delete")
}
