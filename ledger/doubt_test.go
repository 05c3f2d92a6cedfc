package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

func (w *world) dueDoubts(id fanfare.PublicationID) []fanfare.Doubt {
	w.t.Helper()
	due, _, err := w.Doubts(w.t.Context(), id, fanfare.Email, 100)
	require.NoError(w.t, err)
	return due
}

// doubtful claims n recipients, loses their call and returns the doubt.
func (w *world) doubtful(ref fanfare.BatchRef, n int) fanfare.Doubt {
	w.t.Helper()
	call := w.lapsed(ref, n)
	for _, d := range w.dueDoubts(ref.Publication) {
		if d.Call == call {
			return d
		}
	}
	require.Fail(w.t, "the call is not in doubt")
	return fanfare.Doubt{}
}

func TestACallLapsesOnlyAfterItsEndAndAMargin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(10)
	ref := w.running("article-1", 10)
	c := w.claimNew(ref, 3)
	settled := w.claimNew(ref, 3)
	w.settle(ref, settled.Call, fanfare.OutcomeReleased)
	w.age(settled.Call, time.Hour)
	for _, age := range []time.Duration{0, 14 * time.Second, 16 * time.Second} { // it may last 15 s, and 2 s are the margin
		w.exec(`UPDATE calls SET claimed_at = now() - $2::interval, begin_by = now() + interval '1 s' - $2::interval, call_until = now() + interval '15 s' - $2::interval WHERE call_id = $1`, c.Call, age)
		tally, err := w.DoubtLapsed(t.Context(), ref)
		require.NoError(t, err)
		require.EqualValues(t, 3, tally.Totals.Sending, "after %s", age)
		require.InDelta(t, (17*time.Second - age).Seconds(), tally.NextLapse.Seconds(), 1)
	}
	w.age(c.Call, 2*time.Second)
	tally, err := w.DoubtLapsed(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, fanfare.Totals{Intended: 10, Pending: 7, InDoubt: 3}, tally.Totals)
	require.Nil(t, tally.NextLapse)
	require.Equal(t, "in_doubt", w.state(ref, 1))
	require.Equal(t, "pending", w.state(ref, 4), "a call that was settled does not lapse")
	require.Equal(t, []string{"ambiguous"}, w.attempts(ref, 1))
	require.True(t, one[bool](w, `SELECT ended_at = call_until AND outcome = 'ambiguous' FROM calls WHERE call_id = $1`, c.Call), "it ended when its time did")
	require.True(t, one[bool](w, `SELECT deadline = call_ended_at + interval '1 min' FROM doubts`), "the deadline counts from there")

	tally, err = w.DoubtLapsed(t.Context(), ref)
	require.NoError(t, err)
	require.EqualValues(t, 3, tally.Totals.InDoubt, "again changes nothing")
	require.Equal(t, 1, w.doubts())
	w.balanced()
}

func TestOnlyTheBatchsOwnCallsLapse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 2)
	other := ref
	other.N = 2
	c := w.claimNew(other, 2)
	w.age(c.Call, time.Hour)
	_, err := w.DoubtLapsed(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, "sending", w.state(other, 3))
}

func TestDoubtsAreReturnedWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(9)
	ref := w.running("article-1", 3)
	due, next, err := w.Doubts(t.Context(), ref.Publication, fanfare.Email, 10)
	require.NoError(t, err)
	require.Empty(t, due)
	require.Nil(t, next, "nothing is in doubt")

	var calls []fanfare.CallID
	for n := 1; n <= 3; n++ {
		ref.N = n
		calls = append(calls, w.lapsed(ref, 3))
	}
	due, next, err = w.Doubts(t.Context(), ref.Publication, fanfare.Email, 10)
	require.NoError(t, err)
	require.Len(t, due, 3)
	require.Zero(t, *next)
	for i, d := range due {
		require.Equal(t, fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: i + 1}, d.Ref)
		require.Equal(t, calls[i], d.Call)
		require.Equal(t, "sendgrid", d.Provider)
		require.WithinDuration(t, time.Now().Add(-45*time.Second), d.EndedAt, 5*time.Second, "it lapsed a minute after its claim, and lasted 15 s at most")
		require.Zero(t, d.Looks)
		require.False(t, d.Overdue)
		require.Empty(t, d.Witness, "no call was accepted")
	}
	due, _, err = w.Doubts(t.Context(), ref.Publication, fanfare.Email, 2)
	require.NoError(t, err)
	require.Len(t, due, 2)
	due, _, err = w.Doubts(t.Context(), ref.Publication, fanfare.SMS, 10)
	require.NoError(t, err)
	require.Empty(t, due, "channels do not wait for each other")

	require.NoError(t, w.LookAgain(t.Context(), fanfare.Doubt{Ref: ref, Call: calls[0]}, 20*time.Second, false, "not shown yet"))
	require.NoError(t, w.LookAgain(t.Context(), fanfare.Doubt{Ref: ref, Call: calls[1]}, 10*time.Second, false, "not shown yet"))
	require.NoError(t, w.LookAgain(t.Context(), fanfare.Doubt{Ref: ref, Call: calls[2]}, 5*time.Second, false, "not shown yet"))
	due, next, err = w.Doubts(t.Context(), ref.Publication, fanfare.Email, 10)
	require.NoError(t, err)
	require.Empty(t, due)
	require.InDelta(t, 5, next.Seconds(), 1, "the earliest of the next looks")
}

func TestTheWitnessIsTheFirstAcceptedAfterElseTheLastBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(20)
	ref := w.running("article-1", 20)
	claim := func(age time.Duration, kind fanfare.OutcomeKind, provider string) fanfare.CallID {
		return fanfare.CallID(one[string](w, `
			INSERT INTO calls (publication_id, call_id, channel, batch, first_number, last_number, size, provider, claimed_at, begin_by, call_until, ended_at, outcome)
			SELECT $1, uuid_v7(at), 'email', 1, 2, 2, 1, $4, at, at + interval '1 s', at + interval '15 s', at + interval '1 s', $3::text::outcome
			FROM (SELECT clock_timestamp() - $2::interval AS at) x RETURNING call_id::text`, ref.Publication, age, kind, provider))
	}
	witness := func() fanfare.CallID {
		due := w.dueDoubts(ref.Publication)
		require.Len(t, due, 1)
		return due[0].Witness
	}
	d := w.doubtful(ref, 1) // claimed a minute ago, ended 45 s ago
	require.Empty(t, witness())
	claim(30*time.Second, fanfare.OutcomeRejected, "sendgrid")
	claim(30*time.Second, fanfare.OutcomeAccepted, "other")
	require.Empty(t, witness(), "what was not accepted, or by another provider, proves nothing")
	claim(3*time.Minute, fanfare.OutcomeAccepted, "sendgrid")
	last := claim(2*time.Minute, fanfare.OutcomeAccepted, "sendgrid")
	require.Equal(t, last, witness(), "the last before")
	claim(10*time.Second, fanfare.OutcomeAccepted, "sendgrid")
	first := claim(20*time.Second, fanfare.OutcomeAccepted, "sendgrid")
	claim(5*time.Second, fanfare.OutcomeAccepted, "sendgrid")
	require.Equal(t, first, witness(), "the first after")
	require.NotEqual(t, d.Call, first)
}

func TestLookAgainKeepsTheDeadlineUnlessItIsExtended(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		deadline       time.Duration // from now, before the look
		after          time.Duration
		extend         bool
		look, extended time.Duration // from now, after it
	}{
		{"the next look", time.Minute, 5 * time.Second, false, 5 * time.Second, time.Minute},
		{"not behind the deadline", 2 * time.Second, 30 * time.Second, false, 2 * time.Second, 2 * time.Second},
		{"at once when the deadline has passed", -10 * time.Second, 30 * time.Second, false, 0, -10 * time.Second},
		{"extended to the next look", 2 * time.Second, 30 * time.Second, true, 30 * time.Second, 30 * time.Second},
		{"extended from the past", -10 * time.Second, 30 * time.Second, true, 30 * time.Second, 30 * time.Second},
		{"never shortened", time.Minute, 5 * time.Second, true, 5 * time.Second, time.Minute},
	} {
		w := newWorld(t)
		w.subscribed(1)
		ref := w.running("article-1", 10)
		d := w.doubtful(ref, 1)
		w.exec(`UPDATE doubts SET deadline = clock_timestamp() + $1::interval`, c.deadline)
		require.Equal(t, c.deadline < 0, w.dueDoubts(ref.Publication)[0].Overdue, c.name)
		require.NoError(t, w.LookAgain(t.Context(), d, c.after, c.extend, "not shown yet"), c.name)
		require.InDelta(t, c.look.Seconds(), one[float64](w, `SELECT extract(epoch FROM look_at - clock_timestamp())::float8 FROM doubts`), 1, c.name)
		require.InDelta(t, c.extended.Seconds(), one[float64](w, `SELECT extract(epoch FROM deadline - clock_timestamp())::float8 FROM doubts`), 1, c.name)
		require.Equal(t, "1 not shown yet", one[string](w, `SELECT looks || ' ' || last_look FROM doubts`))
	}
}

func TestADoubtIsResentOnceAndNeverAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	ref := w.running("article-1", 10)
	first := w.doubtful(ref, 2)
	require.NoError(t, w.ApplyPolicy(t.Context(), first))
	require.Equal(t, row{State: "pending", Call: string(first.Call), Resends: 1}, w.row(ref, 1))
	require.Zero(t, w.doubts())
	require.Contains(t, w.call(first.Call), "none by the deadline; policy resend")
	tally, err := w.Tally(t.Context(), ref)
	require.NoError(t, err)
	require.Zero(t, *tally.NextDue, "it may be claimed at once")
	require.NoError(t, w.ApplyPolicy(t.Context(), first), "applying it again changes nothing")
	require.Equal(t, 1, w.row(ref, 1).Resends)

	second := w.claimDue(ref, 10)
	require.Len(t, second.Recipients, 2)
	w.settle(ref, second.Call, fanfare.OutcomeReleased)
	third := w.claimDue(ref, 10) // nothing was accepted for certain: another try is no resend
	w.settle(ref, third.Call, fanfare.OutcomeAmbiguous)
	require.NoError(t, w.ApplyPolicy(t.Context(), w.dueDoubts(ref.Publication)[0]))
	require.Equal(t, row{State: "dead", Reason: "doubt_held", Call: string(third.Call), Resends: 1}, w.row(ref, 1))
	require.NoError(t, w.ApplyPolicy(t.Context(), first), "the policy of the first call moves nothing any more")
	require.Equal(t, "dead doubt_held", w.state(ref, 1))

	p := w.finish(ref.Publication)
	require.Equal(t, fanfare.CompletedWithFailures, p.State)
	require.EqualValues(t, 2, p.Totals.Dead)
	w.balanced()
}

func TestADoubtIsHeldWhereItMustNotBeResent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy map[fanfare.Channel]ledger.Policy
		before func(w *world, id fanfare.PublicationID)
		state  string
	}{
		"hold":            {map[fanfare.Channel]ledger.Policy{fanfare.Email: ledger.Hold}, nil, "dead doubt_held"},
		"no policy given": {nil, nil, "dead doubt_held"},
		"cancelled": {nil, func(w *world, id fanfare.PublicationID) {
			_, err := w.Cancel(w.t.Context(), id)
			require.NoError(w.t, err)
		}, "dead doubt_held"},
		"late": {nil, func(w *world, _ fanfare.PublicationID) {
			w.exec(`UPDATE publications SET accepted_at = now() - interval '2 h', expires_at = now() - interval '1 h'`)
		}, "dead doubt_held"},
		"expired": {nil, func(w *world, id fanfare.PublicationID) {
			w.exec(`UPDATE publications SET accepted_at = now() - interval '2 h', expires_at = now() - interval '1 h'`)
			require.NoError(w.t, w.Expire(w.t.Context(), id))
		}, "dead doubt_held"},
		"paused, which only waits": {nil, func(w *world, id fanfare.PublicationID) {
			_, err := w.Pause(w.t.Context(), id)
			require.NoError(w.t, err)
		}, "pending"},
	} {
		w := newWorld(t, func(cfg *ledger.Config) {
			if c.policy != nil || name == "no policy given" {
				cfg.DoubtPolicy = c.policy
			}
		})
		w.subscribed(2)
		ref := w.running("article-1", 10)
		d := w.doubtful(ref, 2)
		if c.before != nil {
			c.before(w, ref.Publication)
		}
		require.NoError(t, w.ApplyPolicy(t.Context(), d))
		require.Equal(t, c.state, w.state(ref, 1), name)
		require.Zero(t, w.doubts())
		w.balanced()
	}
}

func TestWhoLeavesBeforeTheResendIsNotSentToAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(4)
	ref := w.running("article-1", 10)
	d := w.doubtful(ref, 4)
	require.NoError(t, w.ApplyPolicy(t.Context(), d))
	w.unsubscribe(1)
	w.suppress("reader-2@mail.example")
	require.NoError(t, w.EraseSubscriber(t.Context(), reader(3)))
	require.Equal(t, []int{4}, numbers(w.claimDue(ref, 10)))
	for n := 1; n <= 3; n++ {
		require.Equal(t, row{State: "dead", Reason: "doubt_held", Call: string(d.Call), Resends: 1}, w.row(ref, n), "they may have been sent to")
	}
	w.settle(ref, d.Call, fanfare.OutcomeAccepted)
	require.Equal(t, "sent", w.state(ref, 1), "so that a late proof finds them")
	w.balanced()
}

// A resent call that is lost as well is looked up like any other.
func TestEvidenceForTheSecondCallComesToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(1)
	ref := w.running("article-1", 10)
	first := w.doubtful(ref, 1)
	require.NoError(t, w.ApplyPolicy(t.Context(), first))
	second := w.claimDue(ref, 10)
	w.settle(ref, second.Call, fanfare.OutcomeAmbiguous)
	r := result(fanfare.OutcomeAccepted)
	r.Evidence = "the log shows it"
	w.settleWith(ref, second.Call, r)
	w.settleWith(ref, first.Call, r)
	require.Equal(t, "sent", w.state(ref, 1))
	require.EqualValues(t, 1, w.balanced().Duplicates, "both were accepted: it is counted")

	d, err := w.Delivery(t.Context(), fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Email, Number: 1})
	require.NoError(t, err)
	require.Len(t, d.Attempts, 2)
	for i, a := range d.Attempts {
		require.Equal(t, i+1, a.N)
		require.Equal(t, []fanfare.CallID{first.Call, second.Call}[i], a.Call)
		require.Equal(t, "accepted", a.Outcome, fmt.Sprint("attempt ", a.N))
		require.Equal(t, "the log shows it", a.Evidence)
	}
}

func TestEventsThatAreLateKeepADoubtOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *ledger.Config) { cfg.DoubtDeadline = time.Millisecond })
	w.subscribed(30)
	ref := w.running("article-1", 30)
	d := w.doubtful(ref, 10)
	witness := w.claimNew(ref, 10).Call
	w.settle(ref, witness, fanfare.OutcomeAccepted)
	other := w.claimNew(ref, 10).Call
	w.settle(ref, other, fanfare.OutcomeAccepted)
	due := func() fanfare.Doubt {
		w.exec(`UPDATE doubts SET look_at = clock_timestamp()`)
		list := w.dueDoubts(ref.Publication)
		require.Len(t, list, 1)
		require.Equal(t, d.Call, list[0].Call)
		return list[0]
	}
	require.True(t, due().Overdue)
	require.False(t, due().Unheard, "nobody reports anything: there is nothing to wait for")

	event := func(call fanfare.CallID, number int) fanfare.ProviderEvent {
		return fanfare.ProviderEvent{
			Provider: "sendgrid", Type: fanfare.EventProcessed, At: time.Now(), Call: call, Digest: [32]byte{byte(number)},
			Delivery: fanfare.DeliveryID{Publication: ref.Publication, Channel: fanfare.Email, Number: fanfare.SubscriberNumber(number)},
		}
	}
	require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{event(other, 25)}))
	w.exec(`UPDATE event_inbox SET received_at = received_at - interval '1 hour'`)
	require.False(t, due().Overdue, "evidence may be among what is not applied")
	_, err := w.ApplyEvents(t.Context(), 100)
	require.NoError(t, err)
	require.True(t, due().Overdue)
	require.Equal(t, witness, due().Witness)
	require.True(t, due().Unheard, "events come, and not yet those of the call behind it")

	require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{event(witness, 15)}))
	_, err = w.ApplyEvents(t.Context(), 100)
	require.NoError(t, err)
	require.False(t, due().Unheard)
}

// A provider that reports nothing is not waited for because another one reports, on its
// channel or on others.
func TestEventsOfAnotherProviderDoNotKeepADoubtOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *ledger.Config) { cfg.DoubtDeadline = time.Millisecond })
	w.subscribed(30)
	w.put(phoned(1))
	w.put(phoned(2))
	email := w.runningOn(fanfare.Email, "article-1", "")
	reported := w.claimNew(email, 10)
	w.settle(email, reported.Call, fanfare.OutcomeAccepted)
	require.NoError(t, w.TakeEvents(t.Context(), []fanfare.ProviderEvent{event(fanfare.EventProcessed, email, int(reported.Recipients[0].Number), reported.Call)}))
	_, err := w.ApplyEvents(t.Context(), 100)
	require.NoError(t, err)
	for provider, ref := range map[string]fanfare.BatchRef{"smtp": email, "silent": {Publication: email.Publication, Channel: fanfare.SMS, N: 1}} {
		for _, kind := range []fanfare.OutcomeKind{fanfare.OutcomeAccepted, fanfare.OutcomeAmbiguous} {
			c, err := w.ClaimNew(t.Context(), ref, fanfare.Wanted{Provider: provider, Limit: 1, Single: true})
			require.NoError(t, err)
			w.settle(ref, c.Calls[0].ID, kind)
		}
		w.exec(`UPDATE doubts SET look_at = clock_timestamp()`)
		due, _, err := w.Doubts(t.Context(), ref.Publication, ref.Channel, 10)
		require.NoError(t, err)
		require.Len(t, due, 1)
		require.NotEmpty(t, due[0].Witness)
		require.True(t, due[0].Overdue)
		require.False(t, due[0].Unheard, "%s reports nothing", provider)
	}
}

func TestADoubtIsFinalWhenNothingIsSentAnyMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(2)
	ref := w.running("article-1", 10)
	w.doubtful(ref, 1)
	require.False(t, w.dueDoubts(ref.Publication)[0].Final)
	w.exec(`UPDATE publications SET expires_at = clock_timestamp() + interval '1 ms', accepted_at = accepted_at - interval '1 h'`)
	require.Eventually(t, func() bool { return w.dueDoubts(ref.Publication)[0].Final }, time.Minute, time.Millisecond)
	w.exec(`UPDATE publications SET expires_at = clock_timestamp() + interval '1 h'`)
	_, err := w.Cancel(t.Context(), ref.Publication)
	require.NoError(t, err)
	require.True(t, w.dueDoubts(ref.Publication)[0].Final)
}
