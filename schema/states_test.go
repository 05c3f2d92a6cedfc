package schema_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// moves are the arrows of the state machine.
var moves = map[string][]string{
	"pending":   {"sending", "skipped", "sent", "delivered", "dead"},
	"sending":   {"sent", "pending", "in_doubt", "failed", "delivered", "dead"},
	"in_doubt":  {"sent", "delivered", "failed", "pending", "dead"},
	"sent":      {"delivered", "failed"},
	"delivered": {"failed"},
	"dead":      {"pending", "sent", "delivered"},
	"failed":    {},
	"skipped":   {},
}

func TestTheStateMachineRefusesEveryOtherMove(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	id := db.publication()
	tried := 0
	for from, allowed := range moves {
		for to := range moves {
			ok := from == to
			for _, state := range allowed {
				ok = ok || state == to
			}
			tx, err := db.Begin(t.Context())
			require.NoError(t, err)
			db.exec(delivery, id, 1, "email", from)
			const move = `
				UPDATE deliveries SET state = m.state, call_id = gen_random_uuid(),
				  due_at = CASE WHEN m.state IN ('pending', 'in_doubt') THEN now() END,
				  reason = CASE WHEN m.state IN ('skipped', 'dead') THEN 'reason' END, code = CASE WHEN m.state = 'failed' THEN 'sendgrid:400' END
				FROM (SELECT $2::text::delivery_state AS state) m WHERE publication_id = $1`
			if ok {
				db.exec(move, id, to)
				db.exec(`SET CONSTRAINTS ALL IMMEDIATE`)
			} else {
				require.Equal(t, "delivery_moves_as_the_state_machine_says", db.refused(move, id, to), "%s to %s", from, to)
			}
			require.NoError(t, tx.Rollback(t.Context()))
			tried++
		}
	}
	require.Equal(t, 64, tried)
}
