package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Post claims recipients of an in-app batch, puts the message into their inboxes and
// settles them as sent, all in one transaction: a crash leaves nothing behind, and
// nobody in doubt. It takes up to wanted.Limit of those whose wait is over, and as
// many who have no row yet.
//
// messages are by locale, those of wanted.Locales, or under "" the one for all.
// posted is how many were claimed, and more is Claim.More.
func (l *Ledger) Post(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted, messages map[string]fanfare.Message) (posted int, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pipelineWithin)
	defer cancel()
	err = l.transact(ctx, func(tx pgx.Tx) error {
		var due, unclaimed fanfare.Claim
		claims := &pgx.Batch{}
		queueClaim(claims, ref, claimDueSQL[ref.Channel], wanted, &due, 0, maxNumber, 0.0)
		queueClaim(claims, ref, claimNewSQL[ref.Channel], wanted, &unclaimed)
		if err := tx.SendBatch(ctx, claims).Close(); err != nil {
			return err
		}
		rest := &pgx.Batch{}
		if calls := slices.Concat(due.Calls, unclaimed.Calls); len(calls) > 0 {
			if posted, err = queueItems(rest, ref.Publication, calls, messages); err != nil {
				return err
			}
			l.queueSettle(rest, ref, accepted(calls), nil)
		}
		queueMore(rest, ref, &more)
		return tx.SendBatch(ctx, rest).Close()
	})
	if err != nil {
		return 0, false, failed("post "+ref.WorkflowID(), err)
	}
	return posted, more, nil
}

// maxNumber is no subscriber's number, and behind all of them.
const maxNumber = int64(1<<63 - 1)

func accepted(calls []fanfare.ClaimedCall) []fanfare.Settlement {
	settled := make([]fanfare.Settlement, len(calls))
	for i, call := range calls {
		settled[i] = fanfare.Settlement{Call: call.ID, Result: fanfare.Result{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAccepted}}}
	}
	return settled
}

// queueItems queues the message, in each locale that is read, and an item for each
// recipient. The messages come first: who waits for another's to be committed
// must not hold inboxes meanwhile.
func queueItems(b *pgx.Batch, id fanfare.PublicationID, calls []fanfare.ClaimedCall, messages map[string]fanfare.Message) (recipients int, err error) {
	var numbers []fanfare.SubscriberNumber
	usual, others := calls[0].Locale, map[fanfare.SubscriberNumber]string{}
	var locales []string
	for _, call := range calls {
		if !slices.Contains(locales, call.Locale) {
			locales = append(locales, call.Locale)
		}
		for _, r := range call.Recipients {
			numbers = append(numbers, r.Number)
			if call.Locale != usual {
				others[r.Number] = call.Locale
			}
		}
	}
	slices.Sort(locales) // one order for all posts: no deadlock
	for _, locale := range locales {
		m, written := messages[locale]
		if !written {
			return 0, fmt.Errorf("there is no message in locale %q", locale)
		}
		b.Queue(writeMessageSQL, id, locale, m.Subject, m.Text, m.URL)
	}
	b.Queue(writeItemsSQL, id, numbers, usual, others)
	return len(numbers), nil
}

const writeMessageSQL = `
INSERT INTO inbox_messages (publication_id, locale, title, body, url) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (publication_id, locale) DO NOTHING`

// writeItemsSQL locks the readers' inboxes in one order for all posts, so that two for the
// same readers do not deadlock. Whoever was erased since the claim gets nothing any more. $1
// publication, $2 numbers, $3 the locale of most, $4 the locales of others by their number:
// to join with a list of them is to compare each with each.
const writeItemsSQL = `
WITH turned AS (
  INSERT INTO inboxes AS i (subscriber_number, last_change, unread)
  SELECT n, 1, 1 FROM unnest($2::bigint[]) AS n ORDER BY n
  ON CONFLICT (subscriber_number) DO UPDATE SET last_change = i.last_change + 1, unread = i.unread + 1 WHERE NOT i.closed
  RETURNING subscriber_number, last_change
)
INSERT INTO inbox_items (subscriber_number, number, change, publication_id, locale)
SELECT subscriber_number, last_change, last_change, $1, COALESCE($4::jsonb ->> subscriber_number::text, $3) FROM turned`

// closeInbox empties the inbox of number for good: a post under way either was before
// this and is removed, or comes after it and finds it closed.
func closeInbox(ctx context.Context, tx pgx.Tx, number fanfare.SubscriberNumber) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO inboxes (subscriber_number, closed) VALUES ($1, true)
		ON CONFLICT (subscriber_number) DO UPDATE SET closed = true, unread = 0`, number)
	if err != nil {
		return err
	}
	// Its own statement: its snapshot must be younger than the lock.
	_, err = tx.Exec(ctx, `DELETE FROM inbox_items WHERE subscriber_number = $1`, number)
	return err
}
