package activities_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// inboxes are a batch whose recipients are posted to.
type inboxes struct {
	*batchBook
	wanted   []fanfare.Wanted
	messages map[string]fanfare.Message
	before   func() // each post
	err      error
}

func (i *inboxes) Post(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted, messages map[string]fanfare.Message) (int, bool, error) {
	if i.before != nil {
		i.before()
	}
	i.wanted, i.messages = append(i.wanted, wanted), messages
	claim, err := i.ClaimNew(ctx, ref, wanted)
	if err = errors.Join(err, i.err); err != nil {
		return 0, false, err
	}
	posted := 0
	for _, call := range claim.Calls {
		posted += len(call.Recipients)
		for _, r := range call.Recipients {
			i.recipients[r.Number].state = fanfare.Sent
		}
	}
	return posted, claim.More, nil
}

func (d *desk) post(i *inboxes) (activities.SendResult, error) {
	d.t.Helper()
	posting := &activities.Posting{Planner: i, Tallier: i, Poster: i, Closer: i, Reporter: i, Renderer: renderer{}}
	d.env.RegisterActivity(posting)
	var result activities.SendResult
	ref := fanfare.BatchRef{Publication: theBatch.Publication, Channel: fanfare.InApp, N: 1}
	value, err := d.env.ExecuteActivity(posting.Send, activities.SendInput{Ref: ref})
	if err == nil {
		require.NoError(d.t, value.Get(&result))
	}
	return result, err
}

func TestPostAWholeBatch(t *testing.T) {
	virtually(t, func(t *testing.T) {
		i := &inboxes{batchBook: newBatchBook(2500)}
		i.skip = func(n fanfare.SubscriberNumber) bool { return n > 1000 && n <= 2000 }
		result, err := bareDesk(t).post(i)
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 2500, Sent: 1500, Skipped: 1000}, result.Tally.Totals, "a chunk in which nobody is sent to is not the end")
		require.Equal(t, activities.SendResult{Tally: result.Tally}, result)
		for _, wanted := range i.wanted {
			require.Equal(t, fanfare.Wanted{Provider: "inapp", Limit: 1000}, wanted)
		}
		require.Equal(t, map[string]fanfare.Message{"": {Subject: "Writer One: A title"}}, i.messages)
	})
}

func TestPostStopsBetweenChunks(t *testing.T) {
	virtually(t, func(t *testing.T) {
		i, d := &inboxes{batchBook: newBatchBook(5000)}, bareDesk(t)
		i.before = func() {
			if i.claimed == 1000 {
				close(d.stop)
			}
		}
		result, err := d.post(i)
		require.NoError(t, err)
		require.Equal(t, "the worker is stopping", result.Why)
		require.EqualValues(t, 2000, result.Tally.Totals.Sent, "the chunk under way is written")
		require.False(t, result.Tally.AllClaimed)
	})
}

func TestPostEndsWhenItIsCancelled(t *testing.T) {
	virtually(t, func(t *testing.T) {
		i, d := &inboxes{batchBook: newBatchBook(5000)}, bareDesk(t)
		i.before = func() {
			if i.claimed == 1000 {
				d.cancel()
			}
		}
		_, err := d.post(i)
		require.ErrorContains(t, err, "canceled")
		require.Len(t, i.wanted, 2)
	})
}

func TestPostReportsALedgerThatIsAway(t *testing.T) {
	virtually(t, func(t *testing.T) {
		_, err := bareDesk(t).post(&inboxes{batchBook: newBatchBook(10), err: fanfare.ErrUnavailable})
		require.ErrorContains(t, err, fanfare.ErrUnavailable.Error())
	})
}

// Whatever became of the publication, a post ends, and closes the batch where nobody is
// sent to any more.
func TestPostForAPublicationThatDoesNotRun(t *testing.T) {
	t.Parallel()
	for state, closed := range map[fanfare.PublicationState]bool{fanfare.Paused: false, fanfare.Cancelled: true, fanfare.Expired: true} {
		t.Run(string(state), func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				i := &inboxes{batchBook: newBatchBook(1500)}
				i.before = func() {
					if i.claimed == 1000 {
						i.state = state
					}
				}
				result, err := bareDesk(t).post(i)
				require.NoError(t, err)
				require.EqualValues(t, 1000, result.Tally.Totals.Sent)
				require.Equal(t, closed, result.Tally.Done())
			})
		})
	}
}
