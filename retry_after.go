package fanfare

import (
	"net/http"
	"strconv"
	"time"
)

// maxWait bounds what an answer can ask for: a publication's time is a day.
const maxWait = 24 * time.Hour

// RetryAfter is how long an answer asks to wait: its Retry-After, in seconds or as a
// date; 0 when it does not say. "Now", or a moment that has passed, is a second, so that
// a refusal never means to call again at once.
func RetryAfter(header http.Header) time.Duration {
	asked := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(asked, 10, 32); err == nil {
		return sensible(time.Duration(seconds) * time.Second)
	}
	if at, err := http.ParseTime(asked); err == nil {
		return RetryAt(header, at)
	}
	return 0
}

// RetryAt is how long it is until a moment that an answer names, by the answer's own clock
// where it shows one. It is bounded as RetryAfter is.
func RetryAt(header http.Header, at time.Time) time.Duration {
	now := time.Now()
	if served, err := http.ParseTime(header.Get("Date")); err == nil {
		now = served
	}
	return sensible(at.Sub(now))
}

func sensible(wait time.Duration) time.Duration { return min(max(wait, time.Second), maxWait) }
