package activities_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// plan plays a ledger that cuts batches page by page, on every channel.
type plan struct {
	total   int // batches on each channel, when all is planned
	planned int
	done    map[int]bool // batches with nothing left to do
	pages   []int        // limits that were asked for
	closed  map[fanfare.BatchRef]int
	err     error

	publication fanfare.Publication
	order       []string
	tallies     map[fanfare.BatchRef]fanfare.BatchTally
	open        map[string]bool // workflows
	runsErr     error
}

func (p *plan) Announcement(context.Context, fanfare.PublicationID) (fanfare.Announcement, error) {
	return fanfare.Announcement{
		Publication: publicationID, Topic: "writer-1", TopicName: "Writer One", Key: "article-1", Class: fanfare.Bulk,
		Channels: []fanfare.Channel{fanfare.Email, fanfare.SMS}, Content: fanfare.Content{Title: "A title"}, Audience: 77,
	}, p.err
}

func (p *plan) Plan(_ context.Context, _ fanfare.PublicationID, size, limit int) (int, bool, error) {
	p.pages = append(p.pages, limit)
	p.planned = min(p.total, p.planned+limit)
	return p.planned, p.planned == p.total, p.err
}

func (p *plan) OpenBatches(_ context.Context, id fanfare.PublicationID, channel fanfare.Channel, after, limit int) ([]fanfare.Batch, error) {
	var open []fanfare.Batch
	for n := after + 1; n <= p.planned && len(open) < limit; n++ {
		if !p.done[n] {
			open = append(open, fanfare.Batch{BatchRef: fanfare.BatchRef{Publication: id, Channel: channel, N: n}, Intended: 10})
		}
	}
	return open, nil
}

func (p *plan) CloseBatch(_ context.Context, ref fanfare.BatchRef, _ int) (bool, error) {
	p.closed[ref]++
	return p.closed[ref] == 3, p.err
}

func (p *plan) Start(context.Context, fanfare.PublicationID) error {
	p.order = append(p.order, "start")
	return p.err
}

func (p *plan) Expire(context.Context, fanfare.PublicationID) error {
	p.order = append(p.order, "expire")
	return p.err
}

func (p *plan) Finish(context.Context, fanfare.PublicationID) (fanfare.Publication, error) {
	p.order = append(p.order, "finish")
	return p.publication, p.err
}

func (p *plan) Tally(_ context.Context, ref fanfare.BatchRef) (fanfare.BatchTally, error) {
	tally, known := p.tallies[ref]
	if !known {
		return tally, fmt.Errorf("tally %s: %w", ref.WorkflowID(), fanfare.ErrNotFound)
	}
	return tally, nil
}

func (p *plan) Open(_ context.Context, workflowID string) (bool, error) {
	return p.open[workflowID], p.runsErr
}

func (p *plan) publishing() *activities.Publishing {
	return &activities.Publishing{Planner: p, Lifecycle: p, Tallier: p, Runs: p, BatchSize: 10}
}

func TestOpenTellsNothingPersonal(t *testing.T) {
	t.Parallel()
	opening, err := (&plan{}).publishing().Open(t.Context(), publicationID)
	require.NoError(t, err)
	require.Equal(t, activities.Opening{
		Key: "article-1", Topic: "writer-1", Class: fanfare.Bulk, Channels: []fanfare.Channel{fanfare.Email, fanfare.SMS}, Audience: 77,
	}, opening)
	_, err = (&plan{err: fanfare.ErrNotFound}).publishing().Open(t.Context(), publicationID)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

// slow plays a ledger that takes longer than a heartbeat for everything.
type slow struct{ *plan }

func (s slow) Announcement(ctx context.Context, id fanfare.PublicationID) (fanfare.Announcement, error) {
	<-time.After(2 * activities.HeartbeatEvery)
	return s.plan.Announcement(ctx, id)
}

func (s slow) OpenBatches(ctx context.Context, id fanfare.PublicationID, channel fanfare.Channel, after, limit int) ([]fanfare.Batch, error) {
	<-time.After(2 * activities.HeartbeatEvery)
	return s.plan.OpenBatches(ctx, id, channel, after, limit)
}

func (s slow) Expire(ctx context.Context, id fanfare.PublicationID) error {
	<-time.After(2 * activities.HeartbeatEvery)
	return s.plan.Expire(ctx, id)
}

func TestPublishingShowsThatItLives(t *testing.T) {
	for name, do := range map[string]func(*activities.Publishing) (activity, input any){
		"open": func(p *activities.Publishing) (any, any) { return p.Open, publicationID },
		"next": func(p *activities.Publishing) (any, any) { return p.Next, activities.NextInput{Limit: 4} },
		"look": func(p *activities.Publishing) (any, any) { return p.Look, activities.LookInput{} },
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				p := (&plan{total: 4}).publishing()
				p.Planner, p.Lifecycle = slow{p.Planner.(*plan)}, slow{p.Planner.(*plan)}
				d := newDesk(t, newBatchBook(1), &provider{})
				d.env.RegisterActivity(p)
				beats := make(chan struct{}, 100)
				d.beats(beats)
				activity, input := do(p)
				_, err := d.env.ExecuteActivity(activity, input)
				require.NoError(t, err)
				require.NotEmpty(t, beats)
			})
		})
	}
}

func TestNextBatches(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		plan  plan
		after int
		want  []int
		last  bool
		pages int
	}{
		"planned by an earlier page": {plan{total: 100, planned: 40}, 8, []int{9, 10, 11, 12}, false, 0},
		"to be planned":              {plan{total: 100}, 0, []int{1, 2, 3, 4}, false, 1},
		"partly planned":             {plan{total: 100, planned: 10}, 8, []int{9, 10, 11, 12}, false, 1},
		"the last ones":              {plan{total: 10, planned: 8}, 8, []int{9, 10}, true, 1},
		"as many as asked for, and perhaps more behind": {plan{total: 12, planned: 8}, 8, []int{9, 10, 11, 12}, false, 1},
		"none behind":                                {plan{total: 12, planned: 12}, 12, nil, true, 1},
		"an empty audience":                          {plan{}, 0, nil, true, 1},
		"done ones are passed over":                  {plan{total: 100, planned: 20, done: map[int]bool{1: true, 3: true, 4: true}}, 0, []int{2, 5, 6, 7}, false, 0},
		"and planned past, after a lost history":     {plan{total: 100, done: upTo(30)}, 0, []int{31, 32, 33, 34}, false, 9},
		"all done, and the publication not finished": {plan{total: 30, done: upTo(30)}, 0, nil, true, 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next, err := test.plan.publishing().Next(t.Context(), activities.NextInput{Publication: publicationID, Channel: fanfare.SMS, After: test.after, Limit: 4})
			require.NoError(t, err)
			var got []int
			for _, b := range next.Batches {
				require.Equal(t, fanfare.SMS, b.Channel)
				got = append(got, b.N)
			}
			require.Equal(t, test.want, got)
			require.Equal(t, test.last, next.Last)
			require.Len(t, test.plan.pages, test.pages, "planned in pages, and no more than needed")
		})
	}
	_, err := (&plan{total: 1, err: fanfare.ErrUnavailable}).publishing().Next(t.Context(), activities.NextInput{Limit: 1})
	require.ErrorIs(t, err, fanfare.ErrUnavailable)
}

func upTo(n int) map[int]bool {
	done := map[int]bool{}
	for i := 1; i <= n; i++ {
		done[i] = true
	}
	return done
}

func emailBatch(n int) fanfare.BatchRef {
	return fanfare.BatchRef{Publication: publicationID, Channel: fanfare.Email, N: n}
}

func TestLookReportsWhereBatchesStand(t *testing.T) {
	t.Parallel()
	left := fanfare.Totals{Intended: 10, Sent: 9, Pending: 1}
	p := &plan{
		total: 10, planned: 10, done: map[int]bool{9: true}, // the tenth stands behind the ninth
		publication: fanfare.Publication{State: fanfare.Running, Totals: left},
		tallies: map[fanfare.BatchRef]fanfare.BatchTally{
			emailBatch(1): {Totals: left},                                                                // in its first pass
			emailBatch(2): {AllClaimed: true, Totals: left},                                              // over it
			emailBatch(3): {AllClaimed: true, Totals: fanfare.Totals{Intended: 10, Sent: 10}},            // done
			emailBatch(4): {Totals: left},                                                                // in its first pass, without a workflow
			emailBatch(5): {AllClaimed: true, Totals: left},                                              // waiting
			emailBatch(6): {AllClaimed: true, Totals: left},                                              // waiting, without a workflow
			emailBatch(7): {AllClaimed: true, Totals: fanfare.Totals{Intended: 10, Dead: 10}},            // done
			emailBatch(9): {AllClaimed: true, Totals: fanfare.Totals{Intended: 10, Sent: 9, InDoubt: 1}}, // done by the time it is read
		},
		open: map[string]bool{emailBatch(1).WorkflowID(): true, emailBatch(2).WorkflowID(): true, emailBatch(5).WorkflowID(): true},
	}
	in := activities.LookInput{
		Publication: publicationID,
		Window:      []fanfare.BatchRef{emailBatch(1), emailBatch(2), emailBatch(3), emailBatch(4)},
		Waiting:     []fanfare.BatchRef{emailBatch(5), emailBatch(6), emailBatch(7), emailBatch(9)},
	}
	look, err := p.publishing().Look(t.Context(), in)
	require.NoError(t, err)
	require.Equal(t, activities.Look{
		State: fanfare.Running, Totals: left,
		Passed: []fanfare.BatchRef{emailBatch(2)},
		Done:   []fanfare.BatchRef{emailBatch(3), emailBatch(7)},
		Orphans: []fanfare.Batch{
			{BatchRef: emailBatch(4), Intended: 10}, {BatchRef: emailBatch(6), Intended: 10},
		},
	}, look)
	require.Equal(t, []string{"expire", "start", "finish"}, p.order, "what is late must not begin")

	p.runsErr = errors.New("describe: Temporal is away")
	_, err = p.publishing().Look(t.Context(), in)
	require.ErrorIs(t, err, p.runsErr, "who cannot be asked is no orphan")

	_, err = p.publishing().Look(t.Context(), activities.LookInput{Waiting: []fanfare.BatchRef{emailBatch(99)}})
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestLookAtAPublication(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // the clock stands still
		soon, now := time.Now().Add(90*time.Second), time.Now()
		for name, test := range map[string]struct {
			publication fanfare.Publication
			want        activities.Look
		}{
			"scheduled": {
				fanfare.Publication{State: fanfare.Scheduled, ScheduledAt: &soon},
				activities.Look{State: fanfare.Scheduled, Begins: 90 * time.Second},
			},
			"running, at its time": {
				fanfare.Publication{State: fanfare.Running, ScheduledAt: &soon},
				activities.Look{State: fanfare.Running},
			},
			"cancelled, with calls under way": {
				fanfare.Publication{State: fanfare.Cancelled},
				activities.Look{State: fanfare.Cancelled},
			},
			"finished": {
				fanfare.Publication{State: fanfare.Completed, FinishedAt: &now, Totals: fanfare.Totals{Intended: 3, Sent: 3}},
				activities.Look{State: fanfare.Completed, Finished: true, Totals: fanfare.Totals{Intended: 3, Sent: 3}},
			},
		} {
			p := &plan{publication: test.publication}
			in := activities.LookInput{Publication: publicationID}
			if test.want.Finished {
				in.Window = []fanfare.BatchRef{emailBatch(99)} // is not asked about any more
			}
			look, err := p.publishing().Look(t.Context(), in)
			require.NoError(t, err, name)
			require.Equal(t, test.want, look, name)
		}
	})
}

func TestCloseEndsEveryBatch(t *testing.T) {
	t.Parallel()
	p := &plan{total: 230, planned: 5, done: map[int]bool{2: true}, closed: map[fanfare.BatchRef]int{}}
	closing := &activities.Closing{Planner: p, Closer: p, BatchSize: 10}
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivity(closing)
	_, err := env.ExecuteActivity(closing.Close, publicationID)
	require.NoError(t, err)
	require.Equal(t, 230, p.planned, "whoever was never planned is planned, to be skipped")
	require.Len(t, p.closed, 2*229, "on both channels, all but the one that is done")
	for ref, times := range p.closed {
		require.Equal(t, 3, times, "%v is closed until nobody is left", ref)
	}

	p.err = fanfare.ErrUnavailable
	_, err = env.ExecuteActivity(closing.Close, publicationID)
	require.ErrorContains(t, err, fanfare.ErrUnavailable.Error())
}
