// Package sandbox is a stand-in for the providers, to develop, test, measure and
// demonstrate against: for SendGrid, Twilio and FCM.
//
// It owns everything it was sent: it checks a request as strictly as the
// provider does, accepts or refuses it as a whole, keeps what it accepted in
// memory, counts distinct and duplicate deliveries, answers the provider's
// look-ups, reports what became of a message by the provider's webhook, misbehaves
// on demand, and shows a person the messages. It never sends a message on, posts to
// nobody but the webhooks' targets (SendGrid's and Twilio's inbound one are
// configured; Twilio's status callbacks go where the message says), never writes to
// disk and knows nothing of the rest of the project: what it was told in a request
// is all it knows. It has no passwords and shows addresses, so it belongs on a
// private address.
//
// It promises:
//
//  1. A call is written down when its header has arrived, before its body is
//     read, whatever becomes of it. The time is taken first of all.
//  2. A message is counted before the answer that accepts it is written, and
//     a message that was not counted was not accepted.
//  3. Counts are exact for ever; contents are kept for the newest
//     Config.MaxMessages messages, and with them the count Replaced.
//  4. Every event of an accepted message is posted, signed: SendGrid's until the
//     target answers 2xx, Twilio's as often as Twilio would, which is once, and
//     again as the fragment of the callback's address asks (#rc=3&rp=ct,rt,5xx).
//     What there is no room to keep, or is given up, is counted. Events that wait
//     end with the process.
//
// What becomes of a message is chosen by its address. Of email, by how it begins,
// in any case:
//
//	bounce+     processed, bounce (permanent, 5.1.1)
//	block+      processed, bounce of the type "blocked" (the mailbox is full)
//	drop+       dropped
//	defer+      processed, deferred, and delivered a second later
//	open+       processed, delivered, open
//	click+      processed, delivered, open, click
//	complain+   processed, delivered, open, spamreport
//	bad-address refused in the answer to the call, with all the others in it
//	the rest    processed, delivered
//
// Of SMS, by how a number ends that begins with +347 and has nine digits after the
// +34, of which there are 5,000 to an ending (the next digit is 1, 2, 3, 4 or 8, the
// three after it are free). The ending is the last four digits of Twilio's code:
//
//	1211 1408 1610 1611 1612 1614   refused with 21211, 21408, 21610 and so on
//	0001 0008 0034                  failed with 30001, 30008, 30034
//	0003 0004 0005 0006 0007        sent, undelivered with 30003 and so on
//	0000                            sent, and nothing after that
//	the rest                        sent, delivered, as every other number
//
// Twilio's own test numbers, +15005550001 and so on, are refused as at Twilio, as the
// recipient and as the sender. A number that answers STOP, which POST
// /sandbox/inbound has it do, is refused with 21610 until it answers START.
//
// Of pushes, by how the token begins, in any case:
//
//	dead+ invalid+ mismatch+     404 UNREGISTERED, 400 INVALID_ARGUMENT, 403 SENDER_ID_MISMATCH
//	apns+ quota+                 401 THIRD_PARTY_AUTH_ERROR, 429 QUOTA_EXCEEDED
//	unavailable+ internal+       503 UNAVAILABLE, 500 INTERNAL
//	the rest                     accepted
//
// An email's delivery is the custom argument "delivery", its call the argument
// "call"; a personalization's custom arguments win over the message's. An SMS has
// both in the query of its StatusCallback, a push in its data. Twilio asks for basic
// authentication, SendGrid for a bearer; FCM's access token is not asked for, because
// nobody can get one for a sandbox.
//
// Memory: about 450 bytes for a kept email with an unsubscribe link of its own
// (contents common to a call are kept once), 100 for an SMS and 250 for a push whose
// text differs from others' by no more than the delivery id and the address, and
// about 40 bytes for each distinct delivery, kept or not; 40 bytes for an event that
// waits, of which there are at most Webhook.MaxWaiting. The last 500,000 calls and the first
// 100,000 duplicated deliveries are listed; beyond that they are only counted.
//
// Each provider has files of its own, named after it: its routes and the shape
// of its requests (sendgrid.go, twilio.go, fcm.go), its rules (sendgrid_check.go, ...),
// its look-up (sendgrid_logs.go, twilio_list.go), what happens to a message
// (sendgrid_events.go, twilio_status.go) and the posts that tell it
// (sendgrid_webhook.go, twilio_webhook.go, twilio_inbound.go). What all providers
// share is in exchange.go (a call), store.go, batch.go and series.go (what is
// counted and kept), webhook.go and webhook_faults.go, faults.go, admin.go and page.go.
package sandbox
