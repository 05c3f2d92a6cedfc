package fanfare_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const date = "Fri, 20 Nov 2026 10:00:00 GMT"
	for asked, want := range map[string]time.Duration{
		"": 0, "soon": 0, "-1": 0, "1.5": 0, "99999999999": 0,
		"0": time.Second, "7": 7 * time.Second, "4294967295": 24 * time.Hour,
		"Fri, 20 Nov 2026 10:00:30 GMT": 30 * time.Second, "Fri, 20 Nov 2026 09:00:00 GMT": time.Second, "Fri, 20 Nov 2099 10:00:00 GMT": 24 * time.Hour,
	} {
		require.Equal(t, want, fanfare.RetryAfter(http.Header{"Date": {date}, "Retry-After": {asked}}), asked)
	}
	ours := http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}
	require.InDelta(t, time.Hour, fanfare.RetryAfter(ours), float64(time.Minute), "by our own clock")
	require.Equal(t, 30*time.Second, fanfare.RetryAt(http.Header{"Date": {date}}, time.Date(2026, 11, 20, 10, 0, 30, 0, time.UTC)))
}
