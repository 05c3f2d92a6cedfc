package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
)

// shown is how many cases of one kind of failure are told in full.
const shown = 5

// receipt is one acceptance of a delivery by a sandbox.
type receipt struct {
	provider string
	call     string
	at       time.Time
}

// row is a delivery as the ledger has it.
type row struct {
	Publication fanfare.PublicationID
	Number      int64
	State       fanfare.State
	Reason      string
	Code        string
	Resends     int16
}

func (r row) delivery() string { return fmt.Sprintf("%s.email.%d", r.Publication, r.Number) }

// books is what was counted at the end, at the sandboxes and in the ledger, each
// without the other.
type books struct {
	*chaos
	received map[string][]receipt // by delivery
	rows     map[string]row       // likewise
	verified fanfare.Verification

	failed map[string][]string // cases by what is wrong
}

// account counts, prints, and fails where something is wrong.
func (c *chaos) account() {
	c.t.Helper()
	b := c.examine()
	if len(b.failed) > 0 || *chaosMinutes > 0 {
		c.saveOutput()
	}
	require.Empty(c.t, b.failed, "chaos with seed %d", c.size.seed)
}

// What can be wrong.
const (
	isLost      = "lost: in the audience, no mail, and no end with a reason"
	isUnfounded = "sent as the ledger says, and no sandbox got it"
	isTwice     = "accepted in more than one call, and the ledger tells of no such re-send"
	isDenied    = "skipped or given up on for certain as the ledger says, and a sandbox got mail"
	isUnclaimed = "call that no claim announced"
	isForgotten = "not in the audience, although they subscribed and never left"
	isLate      = "call while it was stopped"
	isUneven    = "verify and the totals"
	isBelieved  = "forged or stale events accepted"
	isWritten   = "an address was written down"
)

// examine counts and prints.
func (c *chaos) examine() *books {
	c.t.Helper()
	b := &books{chaos: c, received: map[string][]receipt{}, rows: map[string]row{}, failed: map[string][]string{}}
	var read, accepted int64
	for name, one := range c.sandboxes {
		read += c.readMail(name, b.received)
		accepted += one.Stats().Messages
	}
	require.Equal(c.t, accepted, read, "all mail was read")
	query(c, func(r row) { b.rows[r.delivery()] = r },
		`SELECT publication_id::text, subscriber_number, state, COALESCE(reason, ''), COALESCE(code, ''), resends FROM deliveries`)
	_, out := c.fanfare("verify", "--json")
	require.NoError(c.t, json.Unmarshal(out, &b.verified), "%s", out)

	again, allowed := b.duplicates()
	for what, cases := range map[string][]string{
		isLost: b.lost(), isUnfounded: b.unfounded(), isTwice: again, isDenied: b.denied(), isUnclaimed: b.unclaimed(),
		isForgotten: b.forgotten(), isLate: b.afterStop(), isUneven: b.unbalanced(), isBelieved: b.believed(), isWritten: b.addresses(),
	} {
		if len(cases) > 0 {
			b.failed[what] = cases
		}
	}
	b.table(allowed)
	for _, what := range slices.Sorted(maps.Keys(b.failed)) {
		cases := b.failed[what]
		b.sayf("FAILED", "%d: %s", len(cases), what)
		for _, one := range cases[:min(len(cases), shown)] {
			b.sayf("", "%s", one)
		}
		b.failed[what] = cases[:min(len(cases), shown)]
	}
	return b
}

// readMail reads all mail of a sandbox the way everybody can, and counts it.
func (c *chaos) readMail(name string, into map[string][]receipt) (read int64) {
	c.t.Helper()
	for cursor := ""; ; {
		request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.addresses[name]+"/sandbox/messages?limit=1000&cursor="+cursor, nil)
		require.NoError(c.t, err)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(c.t, err)
		var page struct {
			Items []struct {
				Delivery string    `json:"delivery"`
				Call     string    `json:"call"`
				At       time.Time `json:"at"`
			} `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		err = json.NewDecoder(answer.Body).Decode(&page)
		answer.Body.Close()
		require.NoError(c.t, err)
		for _, m := range page.Items {
			into[m.Delivery] = append(into[m.Delivery], receipt{name, m.Call, m.At})
			read++
		}
		if cursor = page.NextCursor; cursor == "" {
			return read
		}
	}
}

// query reads rows of the ledger's tables.
func query[T any](c *chaos, each func(T), sql string, args ...any) {
	c.t.Helper()
	ctx := context.WithoutCancel(c.t.Context())
	conn, err := pgx.Connect(ctx, c.database)
	require.NoError(c.t, err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	require.NoError(c.t, err)
	var one T
	_, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (struct{}, error) {
		var err error
		if one, err = pgx.RowToStructByPos[T](r); err == nil {
			each(one)
		}
		return struct{}{}, err
	})
	require.NoError(c.t, err)
}

// member is somebody in the audience of a publication.
type member struct {
	Publication fanfare.PublicationID
	Number      int64
	Subscriber  string
}

// members are read from the subscriptions, not from the deliveries.
func (b *books) members(each func(member)) {
	query(b.chaos, each, `
		SELECT p.publication_id::text, s.subscriber_number, r.external_id FROM publications p
		JOIN subscriptions s ON s.topic_id = p.topic_id AND s.began_cut < p.cut AND (s.ended_cut IS NULL OR s.ended_cut > p.cut)
		JOIN subscribers r USING (subscriber_number)`)
}

// lost are members without mail and without an end that has a reason.
func (b *books) lost() (cases []string) {
	b.members(func(m member) {
		id := fmt.Sprintf("%s.email.%d", m.Publication, m.Number)
		r, known := b.rows[id]
		reasoned := (r.State == fanfare.Skipped || r.State == fanfare.Dead) && r.Reason != "" || r.State == fanfare.Failed && r.Code != ""
		if len(b.received[id]) == 0 && (!known || !reasoned) {
			cases = append(cases, b.tell(id))
		}
	})
	return cases
}

// unfounded are those the ledger calls sent whom no sandbox got mail for.
func (b *books) unfounded() (cases []string) {
	for id, r := range b.rows {
		if (r.State == fanfare.Sent || r.State == fanfare.Delivered) && len(b.received[id]) == 0 {
			cases = append(cases, b.tell(id))
		}
	}
	return cases
}

// duplicates are deliveries accepted more often than the ledger accounts for: once,
// and once more where it was sent again without evidence, as the policy resend does.
func (b *books) duplicates() (cases []string, allowed int) {
	for id, receipts := range b.received {
		extra := len(receipts) - 1
		if extra > 0 && b.size.policy() == "resend" && extra <= int(b.rows[id].Resends) {
			allowed += extra
			continue
		}
		if extra > 0 {
			cases = append(cases, b.tell(id))
		}
	}
	return cases, allowed
}

// denied are those whom the ledger says nobody wrote to, wrongly.
func (b *books) denied() (cases []string) {
	for id, r := range b.rows {
		no := r.State == fanfare.Skipped || r.State == fanfare.Dead && r.Reason != fanfare.ReasonDoubtHeld
		if no && len(b.received[id]) > 0 {
			cases = append(cases, b.tell(id))
		}
	}
	return cases
}

// unclaimed are calls that arrived and that the ledger has never heard of.
func (b *books) unclaimed() (cases []string) {
	claimed := b.publicationsOfCalls()
	for name, one := range b.sandboxes {
		for _, call := range one.Calls(0, 1<<20) {
			if _, known := claimed[call.ID]; call.ID != "" && !known {
				cases = append(cases, fmt.Sprintf("%s: %+v", name, call))
			}
		}
	}
	return cases
}

func (c *chaos) publicationsOfCalls() map[string]fanfare.PublicationID {
	of := map[string]fanfare.PublicationID{}
	query(c, func(r struct {
		Call        string
		Publication fanfare.PublicationID
	},
	) {
		of[r.Call] = r.Publication
	}, `SELECT call_id::text, publication_id::text FROM calls`)
	return of
}

// forgotten are those whom this test subscribed and never told to leave, and who are
// not in an audience.
func (b *books) forgotten() (cases []string) {
	audience := map[fanfare.PublicationID]map[string]bool{}
	b.members(func(m member) {
		if audience[m.Publication] == nil {
			audience[m.Publication] = map[string]bool{}
		}
		audience[m.Publication][m.Subscriber] = true
	})
	sizes := b.size.topicSizes()
	for _, key := range b.keys {
		a := b.known[key]
		for i, n := range sizes {
			for reader := range n {
				who := fmt.Sprintf("reader-%d", reader)
				if topicName(i) == a.topic && !b.left[a.topic+" "+who] && !audience[a.id][who] {
					cases = append(cases, who+" of "+key)
				}
			}
		}
	}
	return cases
}

// afterStop are calls of a publication that arrived after its cancel was answered,
// or between the answer to pause and the wish to resume.
func (b *books) afterStop() (cases []string) {
	articles := map[fanfare.PublicationID]*article{}
	for _, a := range b.known {
		articles[a.id] = a
	}
	of := b.publicationsOfCalls()
	for name, one := range b.sandboxes {
		for _, call := range one.Calls(0, 1<<20) {
			a := articles[of[call.ID]]
			if a == nil {
				continue
			}
			if !a.cancelled.IsZero() && call.ArrivedAt.After(a.cancelled) {
				cases = append(cases, fmt.Sprintf("%s, %s after cancel of %s was answered: %s", name, call.ArrivedAt.Sub(a.cancelled), a.id, b.tellCall(call.ID)))
			}
			for _, p := range a.paused {
				if call.ArrivedAt.After(p[0]) && (p[1].IsZero() || call.ArrivedAt.Before(p[1])) {
					cases = append(cases, fmt.Sprintf("%s, %s after pause of %s was answered: %s", name, call.ArrivedAt.Sub(p[0]), a.id, b.tellCall(call.ID)))
				}
			}
		}
	}
	return cases
}

func (b *books) unbalanced() (cases []string) {
	for _, p := range b.verified.Problems {
		cases = append(cases, fmt.Sprintf("%s: %s", p.Publication, p.Sentence))
	}
	if !b.verified.OK && len(cases) == 0 {
		cases = append(cases, "not ok, and it says nothing")
	}
	for _, key := range b.keys {
		p := b.publication(b.known[key].id) // checks that the totals balance
		if p.Totals.Unfinished() > 0 || p.FinishedAt == nil {
			cases = append(cases, fmt.Sprintf("%s is %s, unfinished %d", key, p.State, p.Totals.Unfinished()))
		}
	}
	return cases
}

func (b *books) believed() (cases []string) {
	for name, one := range b.sandboxes {
		if w := one.Stats().Webhooks; w.ForgedAccepted+w.StaleAccepted > 0 {
			cases = append(cases, fmt.Sprintf("%s: %d forged, %d stale", name, w.ForgedAccepted, w.StaleAccepted))
		}
	}
	return cases
}

// addresses are lines of the processes' output, and parts of Temporal's database,
// that hold an address.
func (b *books) addresses() (cases []string) {
	for line := range bytes.Lines(b.output.bytes()) {
		if bytes.Contains(line, []byte("@"+mailDomain)) {
			cases = append(cases, "in a log: "+strings.TrimSpace(string(line)))
		}
	}
	files, err := filepath.Glob(b.where.File + "*")
	require.NoError(b.t, err)
	require.NotEmpty(b.t, files)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(b.t, err)
		if at := bytes.Index(data, []byte("@"+mailDomain)); at >= 0 {
			cases = append(cases, fmt.Sprintf("in %s: %q", filepath.Base(file), data[max(0, at-200):min(len(data), at+100)]))
		}
	}
	return cases
}

// tell is all there is to know about one delivery.
func (b *books) tell(id string) string {
	text := fmt.Sprintf("%s: ledger %+v\n", id, b.rows[id])
	calls := map[string]bool{}
	for _, r := range b.received[id] {
		text += fmt.Sprintf("          %s accepted it at %s in call %s\n", r.provider, clock(r.at), r.call)
		calls[r.call] = true
	}
	r := b.rows[id]
	query(b.chaos, func(a struct {
		Call, Outcome, Code string
		At                  time.Time
	},
	) {
		text += fmt.Sprintf("          attempt at %s: %s %s in call %s\n", clock(a.At), a.Outcome, a.Code, a.Call)
		calls[a.Call] = true
	}, `SELECT call_id::text, outcome::text, COALESCE(code, ''), at FROM attempts WHERE publication_id = NULLIF($1, '')::uuid AND subscriber_number = $2 ORDER BY at`, string(r.Publication), r.Number)
	query(b.chaos, func(a struct{ Call string }) { calls[a.Call] = true },
		`SELECT call_id::text FROM deliveries WHERE publication_id = NULLIF($1, '')::uuid AND subscriber_number = $2 AND call_id IS NOT NULL`, string(r.Publication), r.Number)
	query(b.chaos, func(e struct {
		Type, Call   string
		At, Received time.Time
	},
	) {
		text += fmt.Sprintf("          event %s of %s received %s, of call %s\n", e.Type, clock(e.At), clock(e.Received), e.Call)
	}, `SELECT type::text, COALESCE(call_id::text, ''), at, received_at FROM events WHERE publication_id = NULLIF($1, '')::uuid AND subscriber_number = $2 ORDER BY at`, string(r.Publication), r.Number)
	for _, call := range slices.Sorted(maps.Keys(calls)) {
		text += "          " + b.tellCall(call) + "\n"
	}
	return strings.TrimRight(text, "\n")
}

// tellCall is a call as the ledger and the sandboxes have it.
func (b *books) tellCall(id string) string {
	text := "call " + id
	query(b.chaos, func(r struct{ Line string }) { text += ": ledger " + r.Line }, `
		SELECT format('%s batch %s %s size %s claimed %s until %s ended %s: %s %s %s; evidence: %s', p.key, batch, provider, size,
		  claimed_at AT TIME ZONE 'UTC', (call_until AT TIME ZONE 'UTC')::time, (ended_at AT TIME ZONE 'UTC')::time, outcome, code, detail, evidence)
		FROM calls JOIN publications p USING (publication_id) WHERE call_id = NULLIF($1, '')::uuid`, id)
	for name, one := range b.sandboxes {
		for _, c := range one.Calls(0, 1<<20) {
			if c.ID == id {
				text += fmt.Sprintf("; %s: arrived %s read %s answered %s status %d accepted %t %s %s", name, clock(c.ArrivedAt), clock(c.ReadAt), clock(c.AnsweredAt), c.Status, c.Accepted, c.Fault, c.Error)
			}
		}
	}
	return text
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// table prints what happened.
func (b *books) table(allowed int) {
	totals, skipped, dead, states := fanfare.Totals{}, map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, key := range b.keys {
		p := b.publication(b.known[key].id)
		totals = totals.Add(p.Totals)
		states[string(p.State)]++
		for reason, n := range p.SkippedByReason {
			skipped[reason] += n
		}
	}
	for _, r := range b.rows {
		if r.State == fanfare.Dead {
			dead[r.Reason]++
		}
	}
	var faults, calls, messages int64
	for _, one := range b.sandboxes {
		s := one.Stats()
		faults, calls, messages = faults+s.FaultsApplied, calls+s.Calls, messages+s.Messages
	}
	evidence := map[string]int64{}
	query(b.chaos, func(r struct {
		How               string
		Calls, Deliveries int64
	},
	) {
		evidence[r.How+": calls"], evidence[r.How+": recipients"] = r.Calls, r.Deliveries
	}, `
		SELECT CASE WHEN c.evidence LIKE 'event %' THEN 'events' WHEN c.evidence LIKE 'none by the deadline%' THEN 'policy' ELSE 'look-up' END AS how,
		  count(DISTINCT call_id), count(*)
		FROM calls c JOIN attempts a USING (publication_id, call_id) WHERE c.evidence IS NOT NULL AND a.outcome = 'ambiguous' GROUP BY 1`)
	lines := [][2]string{
		{"publications", fmt.Sprintf("%d %s", len(b.keys), counts(states))},
		{"intended", fmt.Sprint(totals.Intended)},
		{"sent or delivered", fmt.Sprintf("%d, delivered %d", totals.Sent+totals.Delivered, totals.Delivered)},
		{"failed", fmt.Sprint(totals.Failed)},
		{"skipped", fmt.Sprintf("%d %s", totals.Skipped, counts(skipped))},
		{"dead", fmt.Sprintf("%d %s", totals.Dead, counts(dead))},
		{"lost", fmt.Sprint(len(b.failed[isLost]))},
		{"sent to nobody", fmt.Sprint(len(b.failed[isUnfounded]))},
		{"duplicates", fmt.Sprintf("%d, and %d that the policy resend accounts for", len(b.failed[isTwice]), allowed)},
		{"verify says", fmt.Sprintf("ok %t, duplicates %d, resent %d", b.verified.OK, b.verified.Duplicates, b.verified.Resent)},
		{"in doubt, settled by", counts(evidence)},
		{"at the providers", fmt.Sprintf("%d calls, %d of them hurt, %d messages", calls, faults, messages)},
		{"lives", fmt.Sprintf("server %d, %s", b.server.Lives(), b.livesOfWorkers())},
	}
	b.sayf("chaos", "seed %d, policy %s", b.size.seed, b.size.policy())
	for _, line := range lines {
		fmt.Fprintf(b.t.Output(), "        %-22s %s\n", line[0], line[1])
	}
}

func (c *chaos) livesOfWorkers() string {
	var lives []string
	for _, w := range c.workers {
		lives = append(lives, fmt.Sprintf("worker %d", w.Lives()))
	}
	return strings.Join(lives, ", ")
}

// counts writes counts by name, in the order of the names.
func counts(of map[string]int64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, of[name]))
	}
	if len(parts) == 0 {
		return ""
	}
	return "(" + strings.Join(parts, ", ") + ")"
}
