package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestClaimSettleFinish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(25)
	ref := w.running("article-1", 20)

	first := w.claimNew(ref, 15)
	require.Len(t, first.Recipients, 15)
	require.Equal(t, "reader-1@mail.example", first.Recipients[0].Address)
	require.False(t, first.Tally.AllClaimed)
	second := w.claimNew(ref, 15)
	require.Len(t, second.Recipients, 5)
	require.True(t, second.Tally.AllClaimed)
	require.Empty(t, w.claimNew(ref, 15).Recipients, "nobody is left to claim")
	w.balanced()

	w.settle(ref, first.Call, fanfare.OutcomeAccepted)
	tally := w.settle(ref, second.Call, fanfare.OutcomeAccepted)
	require.Equal(t, fanfare.Totals{Intended: 20, Sent: 20}, tally.Totals)
	require.Equal(t, tally, w.settle(ref, second.Call, fanfare.OutcomeAccepted), "settling again changes nothing")

	p, err := w.Finish(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Running, p.State, "the second batch is not sent")
	require.Equal(t, fanfare.Totals{Intended: 25, Pending: 5, Sent: 20}, p.Totals)

	ref.N = 2
	w.settle(ref, w.claimNew(ref, 100).Call, fanfare.OutcomeAccepted)
	p, err = w.Finish(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.Equal(t, fanfare.Completed, p.State)
	require.Equal(t, fanfare.Totals{Intended: 25, Sent: 25}, p.Totals)
	require.NotNil(t, p.FinishedAt)
	w.balanced()
}
