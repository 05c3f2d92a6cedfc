package ledger_test

import "testing"

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

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	w.subscribed(b.N)
	w.sendAll(w.running("article-1", benchBatch), benchChunk)
	b.ResetTimer()
	w.balanced()
	perSecond(b, "recipients")
}
