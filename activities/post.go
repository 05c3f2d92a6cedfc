package activities

import (
	"context"

	"go.temporal.io/sdk/activity"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Poster claims, writes and settles in-app notifications, in one transaction.
type Poster interface {
	Post(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted, messages map[string]fanfare.Message) (posted int, more bool, err error)
}

// InApp is the provider's name in the records of in-app deliveries.
const InApp = "inapp"

// postChunk is how many recipients one transaction is for: some tens of milliseconds, so
// that readers who mark something meanwhile do not notice.
const postChunk = 1000

// Posting are the activities that send the batches of the in-app channel, under the names
// of Sending's. Nothing leaves the database: there is no provider that could fail, no
// lease, and never a doubt.
type Posting struct {
	Planner  Planner
	Tallier  Tallier
	Poster   Poster
	Closer   Closer
	Reporter Reporter
	Renderer Renderer
}

// Send posts chunk by chunk until nobody in the batch can be sent to at the moment.
func (p *Posting) Send(ctx context.Context, in SendInput) (SendResult, error) {
	defer heartbeat(ctx)()
	about, err := p.Planner.Announcement(ctx, in.Ref.Publication)
	if err != nil {
		return SendResult{}, err
	}
	locales, messages, err := renderAll(p.Renderer, in.Ref.Channel, about)
	if err != nil {
		return SendResult{}, err
	}
	wanted := fanfare.Wanted{Provider: InApp, Limit: postChunk, Locales: locales}
	stopping := activity.GetWorkerStopChannel(ctx)
	var why string
	for posted, more := 0, true; posted > 0 || more; {
		select {
		case <-stopping:
			why, posted, more = "the worker is stopping", 0, false
			continue
		default:
		}
		if posted, more, err = p.Poster.Post(ctx, in.Ref, wanted, messages); err != nil {
			return SendResult{}, err
		}
	}
	tally, err := tallyOrClose(ctx, p.Tallier, p.Closer, in.Ref)
	return SendResult{Tally: tally, Why: why}, err
}

// Problems names what did not go well in a batch.
func (p *Posting) Problems(ctx context.Context, ref fanfare.BatchRef) (fanfare.BatchProblems, error) {
	defer heartbeat(ctx)()
	return p.Reporter.BatchProblems(ctx, ref, namedProblems)
}
