// Package sandbox is a stand-in for the providers, to develop, test, measure and
// demonstrate against. Today it stands in for SendGrid.
//
// It owns everything it was sent: it checks a request as strictly as the
// provider does, accepts or refuses it as a whole, keeps what it accepted in
// memory, counts distinct and duplicate deliveries, answers the provider's log
// look-ups, reports what became of a message by the provider's webhook, misbehaves
// on demand, and shows a person the mail. It never sends a message on, posts to
// nobody but the webhook's target, never writes to disk and knows nothing of the rest of the
// project: what it was told in a request is all it knows. It has no passwords
// and shows addresses, so it belongs on a private address.
//
// It promises:
//
//  1. A call is written down when its header has arrived, before its body is
//     read, whatever becomes of it. The time is taken first of all.
//  2. A message is counted before the answer that accepts it is written, and
//     a message that was not counted was not accepted.
//  3. Counts are exact for ever; contents are kept for the newest
//     Config.MaxMessages messages.
//  4. Every event of an accepted message is posted, signed, until the target
//     answers 2xx; what there is no room to keep is dropped and counted. Events
//     that wait end with the process.
//
// What becomes of a message is chosen by how its address begins, in any case:
//
//	bounce+     processed, bounce (permanent, 5.1.1)
//	block+      processed, bounce of the type "blocked" (the address is good)
//	drop+       dropped
//	defer+      processed, deferred, and delivered a second later
//	open+       processed, delivered, open
//	click+      processed, delivered, open, click
//	complain+   processed, delivered, open, spamreport
//	bad-address refused in the answer to the call, with all the others in it
//	the rest    processed, delivered
//
// A delivery is recognised by the custom argument "delivery" and a call by
// "call"; a personalization's custom arguments win over the message's.
//
// Memory: about 450 bytes for a kept email with an unsubscribe link of its own
// (contents common to a call are kept once), and about 40 bytes for each
// distinct delivery id, kept or not; 32 bytes for an event that waits, of which there
// are at most Webhook.MaxWaiting. The last 500,000 calls and the first
// 100,000 duplicated deliveries are listed; beyond that they are only counted.
//
// Each provider has files of its own, named after it: its routes and the shape
// of its requests (sendgrid.go), its rules (sendgrid_check.go), its look-up
// (sendgrid_logs.go), what happens to a message (sendgrid_events.go), the posts that
// tell it (sendgrid_webhook.go) and how those go wrong (sendgrid_webhook_faults.go).
// What all providers share is in store.go,
// faults.go, admin.go and page.go.
package sandbox
