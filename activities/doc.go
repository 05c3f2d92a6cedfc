// Package activities is what workflows do to the world: plan, claim, send,
// settle, look up, close and finish.
//
// It declares the interfaces it needs; the ledger and the providers meet them.
// It never speaks SQL, HTTP or Temporal's client, and it decides nothing about the
// order of work, which is the workflows'.
//
// Every activity may be run again at any moment, by another worker, while an
// earlier run still believes it is alone: what it did is in the ledger, and the
// ledger's fences keep the two apart. Heartbeats only show that a worker lives.
package activities
