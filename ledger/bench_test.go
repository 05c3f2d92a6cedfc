package ledger_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

func TestTmpSpeed(t *testing.T) {
	w := newWorld(t)
	n := 200000
	t0 := time.Now()
	w.subscribed(n)
	fmt.Println("import", float64(n)/time.Since(t0).Seconds())
	t0 = time.Now()
	w.subscribed(n)
	fmt.Println("reimport", float64(n)/time.Since(t0).Seconds())
	t0 = time.Now()
	ref := w.running("a", 10000)
	fmt.Println("accept+plan", time.Since(t0))
	for _, claimOnly := range []bool{false} {
		t0 = time.Now()
		var wg sync.WaitGroup
		next := make(chan int, 100)
		for i := 1; i <= n/10000; i++ {
			next <- i
		}
		close(next)
		var mu sync.Mutex
		var ct, st time.Duration
		for range 4 {
			wg.Go(func() {
				for i := range next {
					r := fanfare.BatchRef{Publication: ref.Publication, Channel: fanfare.Email, N: i}
					for {
						a := time.Now()
						c := w.claimNew(r, 1000)
						b := time.Now()
						if len(c.Recipients) == 0 {
							break
						}
						if !claimOnly {
							w.settle(r, c.Call, accepted)
						}
						mu.Lock()
						ct += b.Sub(a)
						st += time.Since(b)
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		fmt.Println("claim+settle", float64(n)/time.Since(t0).Seconds(), ct/time.Duration(n/1000), st/time.Duration(n/1000))
	}
	t0 = time.Now()
	w.balanced()
	fmt.Println("verify", time.Since(t0))
	var s string
	require.NoError(t, w.db.QueryRow(t.Context(), "select string_agg(relname||' '||n_tup_upd||' '||n_tup_hot_upd, E'\n') from pg_stat_user_tables where n_tup_upd>0").Scan(&s))
	fmt.Println(s)
	require.NoError(t, w.db.QueryRow(t.Context(), "select string_agg(relname||' '||pg_size_pretty(pg_relation_size(oid)), E'\n') from pg_class where relkind in ('r','i') and pg_relation_size(oid)>3000000").Scan(&s))
	fmt.Println(s)
}
