package ledger_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

// The benchmarks count in recipients: run them with the size of an audience,
//
//	go test ./ledger -run '^$' -bench . -benchtime 1000000x
const (
	benchBatch = 10000
	benchChunk = 1000
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
	w.sendAll(ref, benchChunk)
	perSecond(b, "recipients")
}

// To readers who have an inbox, which all but the first publication finds.
func BenchmarkPost(b *testing.B) {
	const owners = 4
	w := inApp(b)
	w.subscribed(b.N)
	for i := range 2 {
		if i == 1 {
			b.ResetTimer()
		}
		ref := w.posting(fmt.Sprintf("article-%d", i), benchBatch)
		batches, err := w.OpenBatches(b.Context(), ref.Publication, fanfare.InApp, 0, 1000)
		require.NoError(b, err)
		atOnce(b, owners, func(owner int) error {
			for n := owner; n < len(batches); n += owners {
				if _, err := w.tryPost(batches[n].BatchRef, benchChunk, "Tides"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	perSecond(b, "recipients")
}

// What streams ask twice a second, when nothing has happened.
func BenchmarkInboxNews(b *testing.B) {
	const streams = 10000
	w := posted(b, streams, 1)
	positions := make([]fanfare.InboxPosition, streams)
	for i := range positions {
		positions[i] = fanfare.InboxPosition{Number: fanfare.SubscriberNumber(i + 1), Seen: 1}
	}
	b.ResetTimer()
	for range b.N {
		news, err := w.InboxNews(b.Context(), positions)
		require.NoError(b, err)
		require.Empty(b, news)
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	w.sendAll(w.running("article-1", benchBatch), benchChunk)
	b.ResetTimer()
	w.balanced()
	perSecond(b, "recipients")
}
