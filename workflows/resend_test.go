package workflows_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
	"github.com/fanfare-dev/fanfare/workflows"
)

// replayStage plays the ledger of a replay over so many batches, each with ten
// dead letters, in virtual time.
type replayStage struct {
	*testsuite.TestWorkflowEnvironment
	t       *testing.T
	batches int
	takes   time.Duration // how long a batch takes to send
	state   fanfare.ReplayState
	taken   map[int]time.Time
	started []int
	woken   []string
	most    int // under way at once
}

func newReplayStage(t *testing.T, batches int, takes time.Duration) *replayStage {
	t.Helper()
	s := &replayStage{
		t: t, TestWorkflowEnvironment: newEnvironment(), batches: batches, takes: takes,
		state: fanfare.ReplayRunning, taken: map[int]time.Time{},
	}
	s.RegisterWorkflow(workflows.Replay)
	s.RegisterWorkflowWithOptions(s.batch, workflow.RegisterOptions{Name: "Batch"})
	s.RegisterActivity(&replayBook{s})
	s.OnSignalExternalWorkflow(mock.Anything, mock.Anything, "", workflows.SignalWake, mock.Anything).Return(
		func(_, workflowID, _, _ string, _ any) error {
			s.woken = append(s.woken, workflowID)
			return errors.New("it has just ended")
		})
	return s
}

//workflowcheck:ignore
func (s *replayStage) batch(_ workflow.Context, in workflows.BatchInput) error {
	require.Equal(s.t, fanfare.Transactional, in.Class)
	s.started = append(s.started, in.Batch.N)
	return nil
}

type replayBook struct{ stage *replayStage }

func (a *replayBook) Take(_ context.Context, in activities.TakeInput) ([]fanfare.ReplayBatch, error) {
	s := a.stage
	var page []fanfare.ReplayBatch
	for n := in.After.N + 1; n <= s.batches && len(page) < in.Limit; n++ {
		page = append(page, fanfare.ReplayBatch{Batch: batchOf(batchRef(fanfare.Email, n)), Class: fanfare.Transactional, Topic: "writer-1"})
		s.taken[n] = s.Now()
	}
	return page, nil
}

func (a *replayBook) Progress(context.Context, fanfare.ReplayID) (activities.ReplayProgress, error) {
	s := a.stage
	p := activities.ReplayProgress{State: s.state, Count: int64(10 * s.batches), Waiting: int64(10 * (s.batches - len(s.taken)))}
	for _, at := range s.taken {
		if s.Now().Sub(at) < s.takes {
			p.Totals.Pending += 10
		} else {
			p.Totals.Sent += 10
		}
	}
	s.most = max(s.most, int(p.Totals.Pending/10))
	if p.Waiting+p.Totals.Pending == 0 {
		p.State = fanfare.ReplayCompleted
	}
	return p, nil
}

func (s *replayStage) replay() (activities.ReplayProgress, error) {
	s.t.Helper()
	s.ExecuteWorkflow(workflows.Replay, workflows.ReplayInput{Replay: "r-1"})
	require.True(s.t, s.IsWorkflowCompleted())
	var p activities.ReplayProgress
	err := s.GetWorkflowError()
	if err == nil {
		require.NoError(s.t, s.GetWorkflowResult(&p))
	}
	return p, err
}

func TestReplayGoesPageByPage(t *testing.T) {
	t.Parallel()
	s := newReplayStage(t, 20, 5*time.Second)
	p, err := s.replay()
	require.NoError(t, err)
	require.Equal(t, fanfare.ReplayCompleted, p.State)
	require.EqualValues(t, 200, p.Totals.Sent)
	require.Len(t, s.started, 20)
	require.Equal(t, 8, s.most, "the next page is not taken up before this one has come to an end")
}

func TestReplayDoesNotWaitForTheSlow(t *testing.T) {
	t.Parallel()
	s := newReplayStage(t, 20, 10*time.Minute)
	p, err := s.replay()
	require.NoError(t, err)
	require.EqualValues(t, 200, p.Totals.Sent)
	require.Equal(t, 20, s.most, "those on the slow ladder hold nobody up")
}

func TestReplayStopsWhenItWasCancelled(t *testing.T) {
	t.Parallel()
	s := newReplayStage(t, 20, 10*time.Minute)
	s.RegisterDelayedCallback(func() { s.state = fanfare.ReplayCancelled }, 10*time.Second)
	p, err := s.replay()
	require.NoError(t, err)
	require.Equal(t, fanfare.ReplayCancelled, p.State)
	require.Len(t, s.started, 8)
}
