//go:build !linux

package ledger

import "time"

// limitSilence is Linux's: elsewhere keepalives have to do.
func limitSilence(uintptr, time.Duration) {}
