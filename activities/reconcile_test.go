package activities_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// doubtBook plays the ledger's doubts and notes what is done with them.
type doubtBook struct {
	mu         sync.Mutex
	unattached func(context.Context, []string) ([]string, error)
	due        []fanfare.Doubt
	next       *time.Duration
	limits     []int
	did        []string
	err        error // of whatever is written
	settled    fanfare.Result
	extended   bool
	after      time.Duration
	note       string
	wrote      func()
}

func (b *doubtBook) Doubts(_ context.Context, id fanfare.PublicationID, channel fanfare.Channel, limit int) ([]fanfare.Doubt, *time.Duration, error) {
	b.limits = append(b.limits, limit)
	if id != publicationID || channel != fanfare.Email {
		return nil, nil, fanfare.ErrNotFound
	}
	return b.due[:min(limit, len(b.due))], b.next, nil
}

// write is one thing at a time.
func (b *doubtBook) write(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
	if b.wrote != nil {
		b.wrote()
	}
}

func (b *doubtBook) LookAgain(_ context.Context, d fanfare.Doubt, after time.Duration, extend bool, note string) error {
	b.write(func() {
		b.did, b.after, b.extended, b.note = append(b.did, "look again "+string(d.Call)), after, extend, note
	})
	return b.err
}

func (b *doubtBook) ApplyPolicy(_ context.Context, d fanfare.Doubt) error {
	b.write(func() { b.did = append(b.did, "apply policy "+string(d.Call)) })
	return b.err
}

func (b *doubtBook) Settle(_ context.Context, ref fanfare.BatchRef, call fanfare.CallID, r fanfare.Result) error {
	b.write(func() { b.did, b.settled = append(b.did, fmt.Sprintf("settle %s of batch %d", call, ref.N)), r })
	return b.err
}

func (b *doubtBook) Unattached(ctx context.Context, messages []string) ([]string, error) {
	return b.unattached(ctx, messages)
}

// shown plays a provider's look-up: what it shows, by call, and "fails" for a
// look-up that cannot say.
type shown map[fanfare.CallID]string

func (s shown) LookUp(ctx context.Context, about fanfare.Question) (fanfare.Sighting, error) {
	call := about.Call
	switch deadline, ok := ctx.Deadline(); {
	case !ok || time.Until(deadline) > 10*time.Second:
		return fanfare.Sighting{}, errors.New("a look-up without an end")
	case call != "witness" && !about.EndedAt.Equal(callEnded):
		return fanfare.Sighting{}, errors.New("a look-up around another time")
	}
	shows := s[call]
	if call == "witness" && s["own"] == "shown behind the witness" {
		s["own"] = "shown"
	}
	if call == "witness" && s["own"] == "fails behind the witness" {
		s["own"] = "fails"
	}
	switch shows {
	case "shown":
		return fanfare.Sighting{Seen: true, Evidence: "2 messages carry the call's category"}, nil
	case "fails":
		return fanfare.Sighting{}, errors.New("look up call: 503")
	case "cannot":
		return fanfare.Sighting{}, fmt.Errorf("look up call: %w", fanfare.ErrNoLookUp)
	}
	return fanfare.Sighting{}, nil
}

var callEnded = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func reconcile(t *testing.T, book *doubtBook, lookUps map[string]activities.LookUp) (activities.ReconcileResult, error) {
	t.Helper()
	return reconcileUntil(t, nil, book, lookUps)
}

func reconcileUntil(t *testing.T, stop chan struct{}, book *doubtBook, lookUps map[string]activities.LookUp) (activities.ReconcileResult, error) {
	t.Helper()
	logs := new(bytes.Buffer)
	r := &activities.Reconciling{Doubter: book, Prover: book, Planner: newBatchBook(1), Renderer: text{}, LookUps: lookUps, Log: slog.New(slog.NewTextHandler(logs, nil))}
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetWorkerStopChannel(stop)
	env.RegisterActivity(r)
	value, err := env.ExecuteActivity(r.Reconcile, activities.ReconcileInput{Publication: publicationID, Channel: fanfare.Email})
	var result activities.ReconcileResult
	if err == nil {
		require.NoError(t, value.Get(&result))
	}
	return result, err
}

func TestReconcileOneDoubt(t *testing.T) {
	t.Parallel()
	const own, witness = fanfare.CallID("own"), fanfare.CallID("witness")
	for name, test := range map[string]struct {
		provider string
		shows    shown
		overdue  bool
		witness  fanfare.CallID
		unheard  bool
		final    bool
		did      string
		extended bool
	}{
		"presence is evidence":                         {shows: shown{own: "shown"}, did: "settle own of batch 3"},
		"presence is evidence after the deadline too":  {shows: shown{own: "shown"}, overdue: true, witness: witness, did: "settle own of batch 3"},
		"absence proves nothing":                       {shows: shown{witness: "shown"}, witness: witness, did: "look again own"},
		"absence behind the deadline, witness shown":   {shows: shown{witness: "shown"}, overdue: true, witness: witness, did: "apply policy own"},
		"absence behind the deadline, witness absent":  {shows: shown{}, overdue: true, witness: witness, did: "look again own", extended: true},
		"absence behind the deadline, witness unknown": {shows: shown{witness: "fails"}, overdue: true, witness: witness, did: "look again own", extended: true},
		"shown only when the witness is":               {shows: shown{own: "shown behind the witness", witness: "shown"}, overdue: true, witness: witness, did: "settle own of batch 3"},
		"fails once the witness is shown":              {shows: shown{own: "fails behind the witness", witness: "shown"}, overdue: true, witness: witness, did: "look again own", extended: true},
		"absence behind the deadline, no witness":      {shows: shown{}, overdue: true, did: "apply policy own"},
		"a look-up that fails":                         {shows: shown{own: "fails"}, witness: witness, did: "look again own"},
		"a look-up that fails at the deadline":         {shows: shown{own: "fails", witness: "shown"}, overdue: true, witness: witness, did: "look again own", extended: true},
		"an account without look-ups waits for events": {shows: shown{own: "cannot"}, did: "look again own"},
		"an account without look-ups at the deadline":  {shows: shown{own: "cannot"}, overdue: true, witness: witness, did: "apply policy own"},
		"only events, and they are late":               {shows: shown{own: "cannot"}, overdue: true, witness: witness, unheard: true, did: "look again own", extended: true},
		"a look-up that fails, and nothing is sent":    {shows: shown{own: "fails"}, overdue: true, witness: witness, final: true, did: "apply policy own"},
		"witness absent, and nothing is sent":          {shows: shown{}, overdue: true, witness: witness, final: true, did: "apply policy own"},
		"late events, and nothing is sent":             {shows: shown{own: "cannot"}, overdue: true, witness: witness, unheard: true, final: true, did: "apply policy own"},
		"nothing is sent, before the deadline":         {shows: shown{}, witness: witness, final: true, did: "look again own"},
		"presence is evidence to the end":              {shows: shown{own: "shown"}, overdue: true, final: true, did: "settle own of batch 3"},
		"a provider this worker does not know":         {provider: "another", overdue: true, witness: witness, did: "look again own", extended: true},
		"a provider without look-ups":                  {provider: "smtp", did: "look again own"},
		"a provider without look-ups at the deadline":  {provider: "smtp", overdue: true, witness: witness, did: "apply policy own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doubt := fanfare.Doubt{
				Ref:  fanfare.BatchRef{Publication: publicationID, Channel: fanfare.Email, N: 3},
				Call: own, Provider: "sandbox", EndedAt: callEnded, Overdue: test.overdue, Witness: test.witness, Unheard: test.unheard, Final: test.final,
			}
			if test.provider != "" {
				doubt.Provider = test.provider
			}
			book := &doubtBook{due: []fanfare.Doubt{doubt}}
			result, err := reconcile(t, book, map[string]activities.LookUp{"sandbox": test.shows, "smtp": activities.NoLookUp{}})
			require.NoError(t, err)
			require.Equal(t, []string{test.did}, book.did)
			require.Equal(t, test.extended, book.extended)
			if book.note != "" {
				require.Empty(t, result.Settled)
				require.Equal(t, 500*time.Millisecond, book.after)
				return
			}
			require.Equal(t, []fanfare.BatchRef{doubt.Ref}, result.Settled)
			if book.settled.Outcome.Kind != "" {
				require.Equal(t, fanfare.Result{
					Outcome:  fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Detail: "found by look-up"},
					Evidence: "2 messages carry the call's category",
				}, book.settled)
			}

			book.err = fanfare.ErrUnavailable
			_, err = reconcile(t, book, map[string]activities.LookUp{"sandbox": test.shows, "smtp": activities.NoLookUp{}})
			require.ErrorContains(t, err, fanfare.ErrUnavailable.Error(), "what could not be written is not settled")
		})
	}
}

func TestReconcileLooksEverLessOften(t *testing.T) {
	t.Parallel()
	for looks, want := range map[int]time.Duration{
		0: 500 * time.Millisecond, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1000: 30 * time.Second,
	} {
		book := &doubtBook{due: []fanfare.Doubt{{Call: "own", Provider: "sandbox", EndedAt: callEnded, Looks: looks}}}
		_, err := reconcile(t, book, map[string]activities.LookUp{"sandbox": shown{}})
		require.NoError(t, err)
		require.Equal(t, want, book.after)
	}
}

func TestReconcileTakesSomeAtATimeAndSaysWhenToGoOn(t *testing.T) {
	t.Parallel()
	book := &doubtBook{next: new(time.Duration)}
	*book.next = 3 * time.Second
	for n := range 300 {
		book.due = append(book.due, fanfare.Doubt{
			Ref:  fanfare.BatchRef{Publication: publicationID, Channel: fanfare.Email, N: n},
			Call: fanfare.CallID(fmt.Sprint(n)), Provider: "sandbox", EndedAt: callEnded,
		})
	}
	result, err := reconcile(t, book, map[string]activities.LookUp{"sandbox": shown{"0": "shown", "5": "shown"}})
	require.NoError(t, err)
	require.Len(t, book.did, 200)
	require.ElementsMatch(t, []fanfare.BatchRef{book.due[0].Ref, book.due[5].Ref}, result.Settled)
	require.Equal(t, 3*time.Second, *result.Next, "as the ledger says once all is written")
	require.Equal(t, []int{200, 0}, book.limits)

	book = &doubtBook{}
	result, err = reconcile(t, book, nil)
	require.NoError(t, err)
	require.Nil(t, result.Next, "nothing is in doubt")
}

// A provider is asked in vain when nobody stays to hear the answer, or it cannot be
// written.
func TestReconcileAsksNoMoreThanItCanUse(t *testing.T) {
	t.Parallel()
	for name, book := range map[string]*doubtBook{"the worker stops": {}, "the ledger is away": {err: fanfare.ErrUnavailable}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := range 200 {
				book.due = append(book.due, fanfare.Doubt{Ref: theBatch, Call: fanfare.CallID(fmt.Sprint(n)), Provider: "sandbox", EndedAt: callEnded})
			}
			stop := make(chan struct{})
			if book.err == nil {
				book.wrote = sync.OnceFunc(func() { close(stop) })
			}
			_, err := reconcileUntil(t, stop, book, map[string]activities.LookUp{"sandbox": shown{}})
			require.Equal(t, book.err != nil, err != nil, "%v", err)
			require.NotEmpty(t, book.did)
			require.LessOrEqual(t, len(book.did), 16, "those that were asked already")
		})
	}
}
