package conformance

import (
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
)

// Failures runs the trials of these names and returns those that failed.
func Failures(tb testing.TB, s Subject, names []string) []string {
	tb.Helper()
	var failed []string
	for _, trial := range s.trials(tb) {
		if !slices.Contains(names, trial.name) {
			continue
		}
		w := &witness{TB: tb}
		over := make(chan struct{})
		go func() {
			defer close(over)
			trial.run(w, s)
		}()
		<-over
		if w.failed.Load() {
			failed = append(failed, trial.name)
		}
	}
	return failed
}

// Trials are the names of those that a subject can come into.
func Trials(tb testing.TB, s Subject) []string {
	tb.Helper()
	var names []string
	for _, trial := range s.trials(tb) {
		names = append(names, trial.name)
	}
	return names
}

// Updating reports whether golden files are written anew.
func Updating() bool { return *update }

// witness remembers that a test failed, and lets it pass.
type witness struct {
	testing.TB

	failed atomic.Bool
}

func (w *witness) Errorf(string, ...any) { w.failed.Store(true) }

func (w *witness) FailNow() {
	w.failed.Store(true)
	runtime.Goexit()
}
