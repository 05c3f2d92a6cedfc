package ledger_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

// The benchmarks count in recipients: run them with the size of an audience,
//
//	go test ./ledger -run '^$' -bench . -benchtime 1000000x
const (
	benchBatch  = 10000
	benchChunk  = 1000
	benchOwners = 4 // batches under way at once
)

func perSecond(b *testing.B, what string) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), what+"/s")
}

func BenchmarkImport(b *testing.B) {
	w := newWorld(b)
	w.topic("writer-1")
	b.ResetTimer()
	w.imported(1, b.N, person)
	perSecond(b, "lines")
}

func BenchmarkImportAgain(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	b.ResetTimer()
	w.imported(1, b.N, person)
	perSecond(b, "lines")
}

func BenchmarkAccept(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	b.ResetTimer()
	w.accept("article-1")
	perSecond(b, "recipients")
}

func BenchmarkPlan(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	id := w.accept("article-1").ID
	b.ResetTimer()
	w.planned(id, benchBatch)
	perSecond(b, "recipients")
}

func BenchmarkClaimAndSettle(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	ref := w.running("article-1", benchBatch)
	b.ResetTimer()
	w.sendAll(ref)
	perSecond(b, "recipients")
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	w.sendAll(w.running("article-1", benchBatch))
	b.ResetTimer()
	w.balanced()
	perSecond(b, "recipients")
}

// sendAll claims and settles every batch of a publication, several at once.
func (w *world) sendAll(ref fanfare.BatchRef) {
	w.t.Helper()
	batches, err := w.OpenBatches(w.t.Context(), ref.Publication, ref.Channel, 0, 1000)
	require.NoError(w.t, err)
	next := make(chan fanfare.BatchRef, len(batches))
	for _, batch := range batches {
		next <- batch.BatchRef
	}
	close(next)
	errs := make([]error, benchOwners)
	var wg sync.WaitGroup
	for i := range benchOwners {
		wg.Go(func() {
			for batch := range next {
				if errs[i] = w.send(batch); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(w.t, err)
	}
}

func (w *world) send(ref fanfare.BatchRef) error {
	for {
		c, err := w.ClaimNew(w.t.Context(), ref, "sendgrid", benchChunk)
		if err != nil || len(c.Recipients) == 0 {
			return err
		}
		if _, err := w.Settle(w.t.Context(), ref, c.Call, result(fanfare.OutcomeAccepted)); err != nil {
			return err
		}
	}
}
