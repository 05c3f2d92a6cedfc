package ledger_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// TestTheLedgerDoesWhatTheModelDoes runs random operations on one batch and, in
// a few lines of Go, on a model of it; after each of them both must agree on every
// recipient.
func TestTheLedgerDoesWhatTheModelDoes(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"rapid.checks": "50", "rapid.steps": "50"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue { // unless asked for more
			require.NoError(t, f.Value.Set(value))
		}
	}
	w := newWorld(t, func(cfg *ledger.Config) { cfg.Ladder = make([]time.Duration, ladderSteps) })
	w.topic("writer-1")
	w.imported(1, modelled, func(i int) fanfare.Subscriber {
		s := person(i)
		s.Locale = []string{"", "es", "pt_BR"}[(i-1)%3]
		return s
	})
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		m := newModel(w, runs)
		r.Repeat(map[string]func(*rapid.T){
			"":          m.agree,
			"claim new": m.claimNew,
			"claim due": m.claimDue,
			"settle":    m.settle,
			"prove":     m.prove,
			"event":     m.event,
			"lift":      m.lift,
			"lapse":     m.lapse,
			"policy":    m.policy,
			"leave":     m.leave,
			"return":    m.comeBack,
			"stop":      m.stop,
			"close":     m.close,
			"finish":    m.finish,
			"reopen":    m.reopen,
			"replay":    m.replay,
		})
	})
	require.Equal(t, runs, w.balanced().Checked)
}

const (
	modelled    = 12 // recipients
	ladderSteps = 2
)

type recipient struct {
	state    string
	reason   string
	call     int // place in model.calls; -1: none
	resends  int
	attempts int
	events   []modelEvent
}

type modelEvent struct {
	kind fanfare.EventType
	call int
}

type modelCall struct {
	id      fanfare.CallID
	outcome fanfare.OutcomeKind // empty while it is open
	doubted bool                // it stands in doubts
	has     [modelled]bool
	tried   [modelled]bool // whom it did not reach for certain, as far as it said
}

type model struct {
	w          *world
	ref        fanfare.BatchRef
	people     [modelled]recipient
	cursor     int
	left       [modelled]bool
	suppressed [modelled]bool
	calls      []modelCall
	stopped    bool
	finished   bool
	reopened   int // times
	reported   int // events
}

func newModel(w *world, run int) *model {
	for i := 1; i <= modelled; i++ {
		w.subscribe(i)
	}
	w.exec(`DELETE FROM suppressions`)
	m := &model{w: w, ref: w.running(fmt.Sprint("article-", run), modelled)}
	for i := range m.people {
		m.people[i] = recipient{state: "pending", call: -1}
	}
	return m
}

// claimed notes a claim: of candidates, those who left or whose address is suppressed are
// skipped, and the others must be what the ledger claimed, in the same calls.
func (m *model) claimed(t *rapid.T, c fanfare.Claim, wanted fanfare.Wanted, candidates []int) {
	var want, got [][]int
	place := map[string]int{} // of a call, by who shares it
	for _, i := range candidates {
		p := &m.people[i]
		before := *p
		*p = recipient{state: "sending", call: p.call, resends: p.resends, attempts: p.attempts, events: p.events}
		switch {
		case m.left[i]:
			p.state, p.reason = "skipped", "unsubscribed"
		case m.suppressed[i]:
			p.state, p.reason = "skipped", "suppressed"
		}
		if p.state == "skipped" {
			if before.resends > 0 {
				p.state, p.reason = "dead", "doubt_held"
			}
			continue
		}
		lot := localeOf(i, wanted)
		if wanted.Single {
			lot = fmt.Sprint(i)
		}
		if _, begun := place[lot]; !begun {
			place[lot] = len(want)
			want = append(want, nil)
		}
		want[place[lot]] = append(want[place[lot]], i+1)
		p.call = len(m.calls) + place[lot]
	}
	for _, call := range c.Calls {
		one := modelCall{id: call.ID}
		var numbers []int
		for _, r := range call.Recipients {
			numbers = append(numbers, int(r.Number))
			one.has[r.Number-1] = true
			if locale := localeOf(int(r.Number)-1, wanted); call.Locale != locale {
				t.Fatal("reader", r.Number, "gets locale", call.Locale, "and reads", locale)
			}
		}
		m.calls, got = append(m.calls, one), append(got, numbers)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal("claimed are others than in the model:\n", diff)
	}
}

// localeOf is what reader i, counted from 0, gets.
func localeOf(i int, wanted fanfare.Wanted) string {
	if len(wanted.Locales) == 0 {
		return ""
	}
	return []string{"en", "es", "pt"}[i%3]
}

// wanted is a claim for one call, for one in each locale, or for one call each.
func (m *model) wanted(t *rapid.T) fanfare.Wanted {
	w := fanfare.Wanted{Provider: "sendgrid", Limit: rapid.IntRange(1, 5).Draw(t, "limit"), Single: rapid.Bool().Draw(t, "single")}
	if rapid.Bool().Draw(t, "locales") {
		w.Locales = []string{"en", "es", "pt"}
	}
	return w
}

func (m *model) claimNew(t *rapid.T) {
	wanted := m.wanted(t)
	c, err := m.w.ClaimNew(m.w.t.Context(), m.ref, wanted)
	require.NoError(t, err)
	candidates := []int{}
	for ; m.running() && len(candidates) < wanted.Limit && m.cursor < modelled; m.cursor++ {
		candidates = append(candidates, m.cursor)
	}
	m.claimed(t, c, wanted, candidates)
}

func (m *model) claimDue(t *rapid.T) {
	wanted := m.wanted(t)
	c, err := m.w.ClaimDue(m.w.t.Context(), m.ref, wanted, everyone)
	require.NoError(t, err)
	candidates := []int{}
	for i := 0; m.running() && i < m.cursor && len(candidates) < wanted.Limit; i++ {
		if m.people[i].state == "pending" {
			candidates = append(candidates, i)
		}
	}
	m.claimed(t, c, wanted, candidates)
}

func (m *model) running() bool { return !m.stopped && !m.finished }

// settle settles a call or several at once, which may name a recipient, of theirs or not.
func (m *model) settle(t *rapid.T) {
	if len(m.calls) == 0 {
		t.Skip("no call")
	}
	var all []fanfare.Settlement
	var named []map[int]fanfare.OutcomeKind
	places := rapid.SliceOfNDistinct(rapid.SampledFrom(m.unsure()), 1, 3, rapid.ID[int]).Draw(t, "calls")
	for _, n := range places {
		kind := rapid.SampledFrom([]fanfare.OutcomeKind{
			fanfare.OutcomeAccepted, fanfare.OutcomeAccepted, fanfare.OutcomeRejected, fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeReleased,
		}).Draw(t, "outcome")
		r, own := result(kind), map[int]fanfare.OutcomeKind{}
		if who := rapid.IntRange(0, 2*modelled).Draw(t, "named"); who < modelled { // more often nobody
			own[who] = rapid.SampledFrom([]fanfare.OutcomeKind{fanfare.OutcomeRejected, fanfare.OutcomeThrottled}).Draw(t, "own outcome")
			r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{fanfare.SubscriberNumber(who + 1): {Kind: own[who], Code: "550"}}
		}
		all, named = append(all, fanfare.Settlement{Call: m.calls[n].id, Result: r}), append(named, own)
	}
	require.NoError(t, m.w.SettleAll(m.w.t.Context(), m.ref, all))
	for _, accepted := range []bool{true, false} { // those first
		for i, n := range places {
			if kind := all[i].Result.Outcome.Kind; (kind == fanfare.OutcomeAccepted) == accepted {
				m.settled(n, kind, named[i])
			}
		}
	}
}

// unsure are the calls that can still change something, and the last.
func (m *model) unsure() []int {
	list := []int{len(m.calls) - 1}
	for n, c := range m.calls {
		if c.outcome == "" || c.outcome == fanfare.OutcomeAmbiguous {
			list = append(list, n)
		}
	}
	return list
}

func (m *model) settled(n int, kind fanfare.OutcomeKind, named map[int]fanfare.OutcomeKind) {
	c := &m.calls[n]
	m.spare(n, kind) // also when it says nothing new
	if c.outcome != "" && (c.outcome != fanfare.OutcomeAmbiguous || kind == fanfare.OutcomeAmbiguous) {
		return
	}
	c.outcome, c.doubted = kind, kind == fanfare.OutcomeAmbiguous
	m.spread(n, kind, named)
}

// spare finds those whom a call did not reach, and an earlier one did.
func (m *model) spare(n int, kind fanfare.OutcomeKind) {
	for i := range m.people {
		p := &m.people[i]
		held := p.call == n && (p.state == "sending" || p.state == "in_doubt")
		if before := m.reachedBefore(i, n); held && kind != fanfare.OutcomeAccepted && p.resends > 0 && before >= 0 {
			p.state, p.reason, p.call = "sent", "", before
			m.calls[n].tried[i] = m.calls[n].tried[i] || kind != fanfare.OutcomeRejected
		}
	}
}

// spread moves those whom the call holds.
func (m *model) spread(n int, whole fanfare.OutcomeKind, named map[int]fanfare.OutcomeKind) {
	for i := range m.people {
		p := &m.people[i]
		kind, own := named[i]
		if !own {
			kind = whole
		}
		held := p.state == "sending" || p.state == "in_doubt"
		givenUp := p.state == "pending" || p.state == "dead"
		switch {
		case p.call != n:
		case held:
			p.answered(kind, map[bool]string{true: "sendgrid:550", false: "sendgrid:400"}[own])
			m.calls[n].note(i, kind)
		case givenUp && whole == fanfare.OutcomeAccepted && !own:
			p.state, p.reason = "sent", ""
		}
	}
}

// answered moves one who was held by a call.
func (p *recipient) answered(kind fanfare.OutcomeKind, code string) {
	p.state, p.reason = everyKind[kind], ""
	switch kind {
	case fanfare.OutcomeRejected:
		p.reason = code
	case fanfare.OutcomeThrottled:
		if p.attempts == ladderSteps {
			p.state, p.reason = "dead", "retries_exhausted"
		}
		p.attempts++
	}
}

// note keeps whether the call may yet turn out to have reached i.
func (c *modelCall) note(i int, kind fanfare.OutcomeKind) {
	switch kind {
	case fanfare.OutcomeRejected:
		c.tried[i] = false
	case fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous:
		c.tried[i] = true
	}
}

// reachedBefore is the first call, other than the nth, that was accepted after
// all and had i in it; -1: none.
func (m *model) reachedBefore(i, n int) int {
	return slices.IndexFunc(m.calls, func(c modelCall) bool {
		return c.id != m.calls[n].id && c.outcome == fanfare.OutcomeAccepted && c.tried[i]
	})
}

// prove brings proof that a call was accepted, whatever was thought of it.
func (m *model) prove(t *rapid.T) {
	if len(m.calls) == 0 {
		t.Skip("no call")
	}
	n := rapid.IntRange(0, len(m.calls)-1).Draw(t, "call")
	r := result(fanfare.OutcomeAccepted)
	r.Evidence = "an event"
	require.NoError(t, m.w.Settle(m.w.t.Context(), m.ref, m.calls[n].id, r))
	m.proven(n)
}

func (m *model) proven(n int) {
	c := &m.calls[n]
	if c.outcome != fanfare.OutcomeAccepted {
		c.outcome, c.doubted = fanfare.OutcomeAccepted, false
		m.spread(n, fanfare.OutcomeAccepted, nil)
	}
	for i := range m.people {
		p := &m.people[i]
		if later := p.call != n && (p.state == "pending" || p.state == "in_doubt" || p.state == "dead"); later && c.tried[i] {
			p.state, p.reason, p.call = "sent", "", n
		}
	}
}

// event brings one about a recipient of a call. It proves the call, unless that is known,
// and its recipient goes where all their events together say.
func (m *model) event(t *rapid.T) {
	var places [][2]int
	for n, c := range m.calls {
		for i, p := range m.people {
			if c.has[i] && (p.state != "sending" || p.call == n) { // others would have to wait
				places = append(places, [2]int{n, i})
			}
		}
	}
	if len(places) == 0 {
		t.Skip("no call")
	}
	place := rapid.SampledFrom(places).Draw(t, "call and recipient")
	n, i := place[0], place[1]
	kind := rapid.SampledFrom([]fanfare.EventType{fanfare.EventProcessed, fanfare.EventDelivered, fanfare.EventDelivered, fanfare.EventBounced}).Draw(t, "event")
	e := event(kind, m.ref, i+1, m.calls[n].id)
	e.At = anHourAgo.Add(time.Duration(m.reported) * time.Second)
	m.reported++
	require.NoError(t, m.w.TakeEvents(m.w.t.Context(), []fanfare.ProviderEvent{digested(e)}))
	applied, err := m.w.ApplyEvents(m.w.t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, applied)
	if m.calls[n].outcome != fanfare.OutcomeAccepted {
		m.proven(n)
	}
	m.suppressed[i] = m.suppressed[i] || kind == fanfare.EventBounced
	m.people[i].reported(modelEvent{kind, n})
}

func (p *recipient) reported(e modelEvent) {
	p.events = append(p.events, e)
	says := "sent"
	for _, e := range p.events {
		switch {
		case e.kind == fanfare.EventBounced:
			says = "failed"
		case e.kind == fanfare.EventDelivered && says == "sent":
			says = "delivered"
		}
	}
	switch p.state {
	case "pending", "in_doubt", "dead":
		p.state, p.reason, p.call = says, "", p.events[0].call
	case "sent":
		p.state = says
	case "delivered":
		if says == "failed" {
			p.state = says
		}
	default:
		return
	}
	if p.state == "failed" {
		p.reason = "sendgrid:5.1.1"
	}
}

// lift lets the suppressed be sent to again.
func (m *model) lift(t *rapid.T) {
	i := slices.Index(m.suppressed[:], true)
	if i < 0 {
		t.Skip("nobody is suppressed")
	}
	_, err := m.w.LiftSuppression(m.w.t.Context(), fanfare.Email, person(i+1).Email)
	require.NoError(t, err)
	m.suppressed[i] = false
}

// lapse lets the time of all open calls run out.
func (m *model) lapse(t *rapid.T) {
	m.w.exec(`UPDATE calls SET claimed_at = claimed_at - interval '1 min', begin_by = begin_by - interval '1 min', call_until = call_until - interval '1 min'
		WHERE publication_id = $1 AND outcome IS NULL`, m.ref.Publication)
	_, err := m.w.DoubtLapsed(m.w.t.Context(), m.ref)
	require.NoError(t, err)
	for n, c := range m.calls {
		if c.outcome == "" {
			m.settled(n, fanfare.OutcomeAmbiguous, nil)
		}
	}
}

func (m *model) policy(t *rapid.T) {
	n := slices.IndexFunc(m.calls, func(c modelCall) bool { return c.doubted })
	if n < 0 {
		t.Skip("no doubt")
	}
	require.NoError(t, m.w.ApplyPolicy(m.w.t.Context(), fanfare.Doubt{Ref: m.ref, Call: m.calls[n].id}))
	m.calls[n].doubted = false
	for i := range m.people {
		p := &m.people[i]
		if p.call != n || p.state != "in_doubt" {
			continue
		}
		p.state, p.reason = "dead", "doubt_held"
		if m.running() && p.resends == 0 {
			p.state, p.reason, p.resends = "pending", "", 1
		}
	}
}

func (m *model) leave(t *rapid.T) {
	i := rapid.IntRange(0, modelled-1).Draw(t, "who")
	m.w.unsubscribe(i + 1)
	m.left[i] = true
}

func (m *model) comeBack(t *rapid.T) {
	i := rapid.IntRange(0, modelled-1).Draw(t, "who")
	m.w.subscribe(i + 1)
	m.left[i] = false
}

// stop lets the publication expire, which unlike a cancel takes no time.
func (m *model) stop(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "stop") > 0 || m.finished {
		t.Skip("not now")
	}
	m.w.exec(`UPDATE publications SET state = 'expired', stopped_at = now() WHERE publication_id = $1 AND state = 'running'`, m.ref.Publication)
	m.stopped = true
}

func (m *model) close(t *rapid.T) {
	if !m.stopped {
		t.Skip("it runs")
	}
	limit := rapid.IntRange(1, 5).Draw(t, "limit")
	done, err := m.w.CloseBatch(m.w.t.Context(), m.ref, limit)
	require.NoError(t, err)
	for i := range m.cursor {
		p := &m.people[i]
		switch {
		case p.state == "pending" && p.resends > 0:
			p.state, p.reason = "dead", "doubt_held"
		case p.state == "pending":
			p.state, p.reason = "skipped", "expired"
		}
	}
	for ; limit > 0 && m.cursor < modelled; limit, m.cursor = limit-1, m.cursor+1 {
		m.people[m.cursor] = recipient{state: "skipped", reason: "expired", call: -1}
	}
	if done != (m.cursor == modelled) {
		t.Fatal("done is", done, "with the cursor at", m.cursor)
	}
}

func (m *model) finish(t *rapid.T) {
	p := m.w.finish(m.ref.Publication)
	over := !slices.ContainsFunc(m.people[:], func(p recipient) bool {
		return p.state == "pending" || p.state == "sending" || p.state == "in_doubt"
	})
	m.finished = m.finished || over
	require.Equal(t, m.finished, p.FinishedAt != nil)
}

// reopen takes the dead back, as a run that was reset does; not of one that has expired and
// is not finished.
func (m *model) reopen(t *rapid.T) {
	m.reopened++
	n, why, err := m.w.Reopen(m.w.t.Context(), m.ref, fmt.Sprint("run-", m.reopened))
	require.NoError(t, err)
	dead := slices.ContainsFunc(m.people[:], func(p recipient) bool { return p.state == "dead" && p.reason != "doubt_held" })
	require.Equal(t, dead && m.stopped && !m.finished, why != "", why)
	if why != "" {
		require.Zero(t, n)
		return
	}
	m.takenBack(t, n, func(p recipient) bool { return p.reason != "doubt_held" })
}

// replay takes those back who were held because of doubt, by name.
func (m *model) replay(t *rapid.T) {
	if m.stopped && !m.finished {
		t.Skip("they would go on waiting")
	}
	r, err := m.w.AcceptReplay(m.w.t.Context(), fanfare.ReplayFilter{Publication: string(m.ref.Publication), Reason: fanfare.ReasonDoubtHeld}, "")
	require.NoError(t, err)
	n, err := m.w.ReopenForReplay(m.w.t.Context(), r.ID, m.ref)
	require.NoError(t, err)
	require.Equal(t, r.Count, n)
	m.takenBack(t, n, func(p recipient) bool { return p.reason == "doubt_held" })
}

func (m *model) takenBack(t *rapid.T, n int64, these func(recipient) bool) {
	back := int64(0)
	for i := range m.people {
		p := &m.people[i]
		if p.state == "dead" && these(*p) {
			if p.reason == "doubt_held" {
				p.resends = 1
			}
			p.state, p.reason, p.attempts = "pending", "", 0
			back++
		}
	}
	require.Equal(t, back, n)
	if back > 0 { // it runs again
		m.stopped, m.finished = false, false
	}
}

// agree compares every recipient, the totals and the doubts.
func (m *model) agree(t *rapid.T) {
	rows, err := m.w.db.Query(m.w.t.Context(), `
		SELECT s.n, COALESCE(d.state, 'pending'), COALESCE(d.reason, d.code, ''), COALESCE(d.call_id::text, ''), COALESCE(d.resends, 0), COALESCE(d.attempts, 0)
		FROM generate_series(1, $2::int) s (n) LEFT JOIN deliveries d ON d.publication_id = $1 AND d.subscriber_number = s.n ORDER BY s.n`, m.ref.Publication, modelled)
	require.NoError(t, err)
	defer rows.Close()
	var got, want []string
	totals := fanfare.Totals{Intended: modelled}
	for rows.Next() {
		var n, resends, attempts int
		var state, reason, call string
		require.NoError(t, rows.Scan(&n, &state, &reason, &call, &resends, &attempts))
		got = append(got, fmt.Sprintln(n, state, reason, call, resends, attempts))
		p := m.people[n-1]
		id := fanfare.CallID("")
		if p.call >= 0 {
			id = m.calls[p.call].id
		}
		want = append(want, fmt.Sprintln(n, p.state, p.reason, id, p.resends, p.attempts))
		*map[string]*int64{
			"pending": &totals.Pending, "sending": &totals.Sending, "in_doubt": &totals.InDoubt, "sent": &totals.Sent, "delivered": &totals.Delivered,
			"failed": &totals.Failed, "skipped": &totals.Skipped, "dead": &totals.Dead,
		}[p.state]++
	}
	require.NoError(t, rows.Err())
	require.Empty(t, cmp.Diff(want, got))
	tally, err := m.w.Tally(m.w.t.Context(), m.ref)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(totals, tally.Totals))
	require.Equal(t, m.cursor == modelled, tally.AllClaimed)
	doubted := 0
	for _, c := range m.calls {
		if c.doubted {
			doubted++
		}
	}
	require.Equal(t, doubted, one[int](m.w, `SELECT count(*) FROM doubts WHERE publication_id = $1`, m.ref.Publication))
}
