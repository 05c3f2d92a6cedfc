// Package workflows tells the order in which things happen: publish, batch,
// reconcile.
//
// It holds deterministic code only and never touches the world; activities do.
// The ledger is the truth and Temporal drives the work: a workflow that lost its
// history starts anew, asks the ledger what is left, and nobody is sent to twice.
//
// It promises that a publication's workflow ends only when the ledger says that
// everyone in its audience has come to an end, and that histories hold ids and counts,
// never an address or a message.
package workflows
