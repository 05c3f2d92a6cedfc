package ledger

import (
	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// queueSuppress keeps addresses from being used again. A token that is dead goes
// from its subscriber's devices too.
func queueSuppress(b *pgx.Batch, channel fanfare.Channel, refused []fanfare.Refused) {
	if len(refused) == 0 {
		return
	}
	addresses, reasons := make([]string, len(refused)), make([]string, len(refused))
	for i, r := range refused {
		addresses[i], reasons[i] = r.Address, string(r.Reason)
	}
	b.Queue(`
		WITH refused AS MATERIALIZED (
		  SELECT address_hash(address) AS hash, min(reason) AS reason FROM unnest($2::text[], $3::text[]) AS r (address, reason) GROUP BY 1 ORDER BY 1
		), pruned AS (
		  DELETE FROM devices WHERE token_hash IN (SELECT hash FROM refused WHERE reason = 'dead_token')
		)
		INSERT INTO suppressions (channel, address_hash, reason) SELECT $1, hash, reason FROM refused ON CONFLICT DO NOTHING`,
		string(channel), addresses, reasons)
}
