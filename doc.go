// Package fanfare holds the words of the project and its promise.
//
// When a writer publishes, every subscriber hears of it, and anyone can prove
// afterwards what happened to any one of them. The providers that carry the
// messages take no idempotency key, so nobody can promise exactly-once
// delivery. Fanfare promises this instead:
//
//  1. Accepted means durable. A 202 is answered only after PostgreSQL committed
//     the request.
//  2. One logical send. There is one row per (publication, subscriber, channel).
//     It is claimed before the provider is called and settled afterwards; no
//     retry, crash, reset or loss of Temporal makes a second one.
//  3. Doubt is a state, not a guess. What became of a call that was cut is asked
//     of the provider; only the presence of a message is evidence.
//  4. The books balance. For every publication and channel, at every moment,
//     intended = pending + sending + in_doubt + sent + delivered + failed +
//     skipped + dead.
//  5. Nothing is dropped in silence. Whoever was not sent to has a reason.
//  6. Stop means stop. Once a cancel was answered, no provider call for that
//     publication begins.
//
// The package owns only the types that cross two packages. It never talks to a
// database, a network or Temporal, and imports nothing but the standard library.
package fanfare
