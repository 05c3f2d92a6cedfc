package ledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestAPublicationSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(30)
	require.NoError(t, w.RegisterProviders(t.Context(), []fanfare.Provider{{Name: "sendgrid", Channel: fanfare.Email}, {Name: "twilio", Channel: fanfare.SMS}}))
	ref := w.running("article-1", 30)
	waits := func() (kinds []string, by map[string]fanfare.Waiting) {
		by = map[string]fanfare.Waiting{}
		for _, each := range w.publication(ref.Publication).WaitingFor {
			kinds = append(kinds, each.Kind)
			by[each.Kind] = each
		}
		return kinds, by
	}
	kinds, _ := waits()
	require.Empty(t, kinds, "under way")

	w.settle(ref, w.claimNew(ref, 10).Call, fanfare.OutcomeAmbiguous)
	r := result(fanfare.OutcomeUnavailable)
	r.Outcome.RetryAfter = time.Minute
	w.settleWith(ref, w.claimNew(ref, 5).Call, r)
	require.NoError(t, w.OpenProvider(t.Context(), "twilio", true)) // has no part in it
	kinds, by := waits()
	require.Equal(t, []string{"doubt", "retry"}, kinds)
	require.EqualValues(t, 10, by["doubt"].Count)
	require.WithinDuration(t, time.Now().Add(time.Minute), *by["doubt"].Until, 10*time.Second)
	require.Contains(t, by["doubt"].Sentence, "10 recipients are in doubt at sendgrid")
	require.EqualValues(t, 5, by["retry"].Count)

	require.NoError(t, w.Throttle(t.Context(), "sendgrid", time.Hour, "SendGrid asks to send more slowly"))
	kinds, by = waits()
	require.Equal(t, []string{"throttle", "doubt", "retry"}, kinds)
	require.Contains(t, by["throttle"].Sentence, "sendgrid asked for time and is not called until")

	require.NoError(t, w.OpenProvider(t.Context(), "sendgrid", true))
	kinds, by = waits()
	require.Equal(t, "provider", kinds[0])
	require.Nil(t, by["provider"].Until)
	require.EqualValues(t, 20, by["provider"].Count)
	require.Contains(t, by["provider"].Sentence, "fanfare providers close sendgrid", "what to do next")
	require.NoError(t, w.OpenProvider(t.Context(), "sendgrid", false))
	_, by = waits()
	require.Contains(t, by["provider"].Sentence, "the next probe is at")

	_, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err)
	kinds, by = waits()
	require.Equal(t, []string{"doubt"}, kinds, "that alone keeps it from ending")
	require.EqualValues(t, 10, by["doubt"].Count)
}
