package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Member is what a Group looks after: a [Process], [Postgres] or [Temporal].
type Member interface {
	// Done is closed when the member has ended for good.
	Done() <-chan struct{}
	// Err tells why it ended where nobody asked it to.
	Err() error
	// Stop ends it and returns when it is gone.
	Stop(ctx context.Context) error
}

// Group ends what was started together, in reverse order: what was added last may
// use everything added before it, until it is gone itself. The zero value is
// ready; its methods may be called from several goroutines.
type Group struct {
	mu      sync.Mutex
	members []namedMember
}

type namedMember struct {
	name string
	Member
}

// Add puts a member in the group's care.
func (g *Group) Add(name string, m Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = append(g.members, namedMember{name, m})
}

// Run waits until ctx is done or a member ends by itself, then stops all members
// and returns when they are gone. Ending through ctx is success; a member's own
// end is an error that names it. Members added after Run began are stopped, but
// not watched.
func (g *Group) Run(ctx context.Context) error {
	watch, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.mu.Lock()
	for _, m := range g.members {
		go func() {
			select {
			case <-m.Done():
				cancel(fmt.Errorf("%s ended by itself: %w", m.name, m.Err()))
			case <-watch.Done():
			}
		}()
	}
	g.mu.Unlock()
	<-watch.Done()
	var ended error
	if ctx.Err() == nil {
		ended = context.Cause(watch)
	}
	return errors.Join(ended, g.Stop(context.WithoutCancel(ctx)))
}

// Stop ends all members in reverse order and returns when they are gone. Each has
// its own grace period; a done ctx cuts them all short. It may be repeated.
func (g *Group) Stop(ctx context.Context) error {
	g.mu.Lock()
	members := slices.Clone(g.members)
	g.mu.Unlock()
	var errs []error
	for _, m := range slices.Backward(members) {
		if err := m.Stop(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
