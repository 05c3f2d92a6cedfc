package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// TestUrgentDoesNotWaitBehindBulk: while every place that bulk has is taken by calls
// that are slow, what is transactional goes out on the same channels.
func TestUrgentDoesNotWaitBehindBulk(t *testing.T) {
	t.Parallel()
	const readers = 20_000 // in as many batches as are ever under way
	st := start(t, setup{workers: 1, batchSize: readers / 16, channels: true})
	st.reachable(readers)
	st.call(http.MethodPut, "/v1/topics/account-1", map[string]any{"name": "Your account"}, http.StatusCreated, nil)
	st.call(http.MethodPut, "/v1/topics/account-1/subscribers/reader-1", nil, http.StatusCreated, nil)
	st.faults(sandbox.Faults{Rules: []sandbox.Fault{{Action: sandbox.ActionLatency, Delay: sandbox.Duration(2 * time.Second), Every: 1}}})
	channels := []fanfare.Channel{fanfare.SMS, fanfare.Push}
	bulk := st.publishWith(map[string]any{"key": "article-1", "topic": "writer-1", "content": content("article-1"), "channels": channels})
	st.reaches(bulk, "both channels are busy", func(p fanfare.Publication) bool {
		return p.ByChannel[fanfare.SMS].Sent > 0 && p.ByChannel[fanfare.Push].Sent > 0
	})
	urgent := st.publishWith(map[string]any{"key": "code-1", "topic": "account-1", "class": "transactional", "content": content("code-1"), "channels": channels})
	over := st.completes(urgent).Totals
	require.EqualValues(t, 2, over.Sent+over.Delivered)
	for _, channel := range channels { // behind any of the batches under way it would have waited for most of them
		require.Greater(t, st.publication(bulk).ByChannel[channel].Pending, int64(readers/2), "%s: it overtook the bulk", channel)
	}
	st.act(bulk, "cancel")
	require.Zero(t, st.finishes(bulk).Totals.Unfinished())
}
