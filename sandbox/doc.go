// Package sandbox is a stand-in for the providers, to develop, test, measure and
// demonstrate against. Today it stands in for SendGrid.
//
// It owns everything it was sent: it checks a request as strictly as the
// provider does, accepts or refuses it as a whole, keeps what it accepted in
// memory, counts distinct and duplicate deliveries, answers the provider's log
// look-ups, misbehaves on demand, and shows a person the mail. It never sends
// anything on, never writes to disk and knows nothing of the rest of the
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
//
// A delivery is recognised by the custom argument "delivery" and a call by
// "call"; a personalization's custom arguments win over the message's.
//
// Memory: about 450 bytes for a kept email with an unsubscribe link of its own
// (contents common to a call are kept once), and about 40 bytes for each
// distinct delivery id, kept or not. The last 500,000 calls and the first
// 100,000 duplicated deliveries are listed; beyond that they are only counted.
//
// Each provider has files of its own, named after it: its routes and the shape
// of its requests (sendgrid.go), its rules (sendgrid_check.go), its look-up
// (sendgrid_logs.go). The webhooks it sends back start where a message has been
// accepted, in (*exchange).accept. What all providers share is in store.go,
// faults.go, admin.go and page.go.
package sandbox
