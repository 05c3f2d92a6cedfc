package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	fanfare "github.com/fanfare-dev/fanfare"
)

// shown is how many cases of one kind of failure are told in full.
const shown = 5

// receipt is one acceptance of a delivery by a sandbox, or one item in an inbox.
type receipt struct {
	provider string
	call     string
	to       string // the device; the other channels have one address to a delivery
	at       time.Time
}

// row is a delivery as the ledger has it.
type row struct {
	Publication fanfare.PublicationID
	Channel     fanfare.Channel
	Number      fanfare.SubscriberNumber
	State       fanfare.State
	Reason      string
	Code        string
	Resends     int16
	Call        string
}

func (r row) id() string {
	return fanfare.DeliveryID{Publication: r.Publication, Channel: r.Channel, Number: r.Number}.String()
}

// claimed is a call as the ledger has it.
type claimed struct {
	Call        string
	Publication fanfare.PublicationID
	At          time.Time
}

// books is what was counted at the end, at the sandboxes and in the ledger, each
// without the other.
type books struct {
	*chaos
	received map[string][]receipt // by delivery
	rows     map[string]row       // likewise
	calls    map[string]claimed
	readers  map[fanfare.SubscriberNumber]reader
	articles map[fanfare.PublicationID]*article
	verified fanfare.Verification

	failed map[string][]finding // by what is wrong
}

// finding is one case of something that is wrong, and what it is about, of which all is
// told where it is shown.
type finding struct{ text, delivery, call string }

func (f finding) String() string { return strings.TrimSpace(f.text + " " + f.delivery + f.call) }

// account counts, prints, and fails where something is wrong.
func (c *chaos) account() {
	c.t.Helper()
	b := c.examine()
	if len(b.failed) > 0 || *chaosMinutes > 0 {
		c.saveOutput()
	}
	require.Empty(c.t, slices.Sorted(maps.Keys(b.failed)), "chaos with seed %d", c.size.seed)
}

// What can be wrong.
const (
	isLost        = "lost: in the audience, got nothing, and no end with a reason"
	isUnfounded   = "sent as the ledger says, and nobody got it"
	isTwice       = "got it more than once, and the ledger tells of no such re-send"
	isDenied      = "skipped or given up on for certain as the ledger says, and got it"
	isUnclaimed   = "call that no claim announced"
	isForgotten   = "not in the audience, although they subscribed and never left"
	isLate        = "call while it was stopped"
	isUnwanted    = "claimed after it was known that they do not want it"
	isUnexplained = "not sent to, and nothing that happened explains it"
	isUneven      = "verify and the totals"
	isBelieved    = "forged or stale events accepted"
	isWritten     = "an address was written down"
)

// examine counts and prints.
func (c *chaos) examine() *books {
	c.t.Helper()
	b := c.open()
	again, allowed := b.duplicates()
	for what, cases := range map[string][]finding{
		isLost: b.lost(), isUnfounded: b.unfounded(), isTwice: again, isDenied: b.denied(), isUnclaimed: b.unclaimed(),
		isForgotten: b.forgotten(), isLate: b.afterStop(), isUnwanted: b.unwanted(), isUnexplained: b.unexplained(),
		isUneven: b.unbalanced(), isBelieved: b.believed(), isWritten: b.addresses(),
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
			b.sayf("", "%s", b.tell(one))
		}
	}
	return b
}

// open reads the sandboxes, the inboxes and the ledger.
func (c *chaos) open() *books {
	c.t.Helper()
	b := &books{
		chaos: c, received: map[string][]receipt{}, rows: map[string]row{}, calls: map[string]claimed{}, readers: map[fanfare.SubscriberNumber]reader{},
		articles: map[fanfare.PublicationID]*article{}, failed: map[string][]finding{},
	}
	for _, a := range c.known {
		b.articles[a.id] = a
	}
	query(c, func(r row) { b.rows[r.id()] = r }, `
		SELECT publication_id::text, channel::text, subscriber_number, state, COALESCE(reason, ''), COALESCE(code, ''), resends, COALESCE(call_id::text, '')
		FROM deliveries`)
	query(c, func(one claimed) { b.calls[one.Call] = one }, `SELECT call_id::text, publication_id::text, claimed_at FROM calls`)
	query(c, func(one struct {
		Number fanfare.SubscriberNumber
		Reader int
	},
	) {
		b.readers[one.Number] = reader(one.Reader)
	}, `SELECT subscriber_number, substr(external_id, length('reader-') + 1)::int FROM subscribers`)
	var read, accepted int64
	for name, one := range c.sandboxes {
		read += c.readMessages(name, b.received)
		accepted += one.Stats().Messages
	}
	require.Equal(c.t, accepted, read, "all messages were read")
	b.readInboxes()
	_, out := c.fanfare("verify", "--json")
	require.NoError(c.t, json.Unmarshal(out, &b.verified), "%s", out)
	return b
}

// readInboxes reads everybody's inbox as they do.
func (b *books) readInboxes() {
	b.t.Helper()
	var mu sync.Mutex
	var reading errgroup.Group
	reading.SetLimit(8)
	for number := range b.readers {
		reading.Go(func() error {
			token := fanfare.SubscriberToken{Number: number, Expires: time.Now().Add(time.Hour)}.Sign(secret)
			for cursor := ""; ; {
				var page struct {
					Items      []fanfare.InboxItem
					NextCursor string `json:"next_cursor"`
				}
				if said := b.asksAs(b.t.Context(), token, http.MethodGet, "/v1/me/inbox?limit=1000"+cursor, nil, &page); said != "" {
					return errors.New(said)
				}
				mu.Lock()
				for _, item := range page.Items {
					id := row{Publication: item.Publication, Channel: fanfare.InApp, Number: number}.id()
					b.received[id] = append(b.received[id], receipt{provider: "inbox", call: b.rows[id].Call, at: item.CreatedAt})
				}
				mu.Unlock()
				if page.NextCursor == "" {
					return nil
				}
				cursor = "&cursor=" + page.NextCursor
			}
		})
	}
	require.NoError(b.t, reading.Wait())
}

// readMessages reads all messages of a sandbox the way everybody can, and counts them.
func (c *chaos) readMessages(name string, into map[string][]receipt) (read int64) {
	c.t.Helper()
	for cursor := ""; ; {
		request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.addresses[name]+"/sandbox/messages?limit=1000&cursor="+cursor, nil)
		require.NoError(c.t, err)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(c.t, err)
		var page struct {
			Items []struct {
				Channel  fanfare.Channel `json:"channel"`
				Delivery string          `json:"delivery"`
				Call     string          `json:"call"`
				To       string          `json:"to"`
				At       time.Time       `json:"at"`
			} `json:"items"`
			NextCursor string `json:"next_cursor"`
		}
		err = json.NewDecoder(answer.Body).Decode(&page)
		answer.Body.Close()
		require.NoError(c.t, err)
		for _, m := range page.Items {
			if m.Channel != fanfare.Push {
				m.To = ""
			}
			into[m.Delivery] = append(into[m.Delivery], receipt{name, m.Call, m.To, m.At})
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

// unfinished are the first of those who have come to no end.
func (b *books) unfinished() (cases []finding) {
	for id, r := range b.rows {
		if (r.State == fanfare.Pending || r.State == fanfare.Sending || r.State == fanfare.InDoubt) && len(cases) < shown {
			cases = append(cases, finding{delivery: id})
		}
	}
	return cases
}

// members are asked for by publication, channel and number. They are read from the
// subscriptions and from what was published, not from the deliveries.
func (b *books) members(each func(a *article, r row)) {
	query(b.chaos, func(m struct {
		Publication fanfare.PublicationID
		Number      fanfare.SubscriberNumber
	},
	) {
		a := b.articles[m.Publication]
		for _, channel := range a.channels {
			each(a, row{Publication: m.Publication, Channel: channel, Number: m.Number})
		}
	}, `
		SELECT p.publication_id::text, s.subscriber_number FROM publications p
		JOIN subscriptions s ON s.topic_id = p.topic_id AND s.began_cut < p.cut AND (s.ended_cut IS NULL OR s.ended_cut > p.cut)`)
}

// lost are members who got nothing and have no end that has a reason.
func (b *books) lost() (cases []finding) {
	b.members(func(_ *article, m row) {
		id := m.id()
		r, known := b.rows[id]
		reasoned := (r.State == fanfare.Skipped || r.State == fanfare.Dead) && r.Reason != "" || r.State == fanfare.Failed && r.Code != ""
		if len(b.received[id]) == 0 && (!known || !reasoned) {
			cases = append(cases, finding{delivery: id})
		}
	})
	return cases
}

// unfounded are those the ledger calls sent who got nothing.
func (b *books) unfounded() (cases []finding) {
	for id, r := range b.rows {
		if (r.State == fanfare.Sent || r.State == fanfare.Delivered) && len(b.received[id]) == 0 {
			cases = append(cases, finding{delivery: id})
		}
	}
	return cases
}

// duplicates are deliveries that arrived more often than the ledger accounts for: once,
// and once more where it was sent again without evidence, as the policy resend does. In the
// app there is no such thing. A push may arrive on each device.
func (b *books) duplicates() (cases []finding, allowed map[fanfare.Channel]int64) {
	allowed = map[fanfare.Channel]int64{}
	var total int64
	for id, receipts := range b.received {
		most, extra := int(b.rows[id].Resends), 0
		if b.size.policy() == "hold" || b.rows[id].Channel == fanfare.InApp {
			most = 0
		}
		arrived := map[string]int{}
		for _, one := range receipts {
			arrived[one.to]++
			extra = max(extra, arrived[one.to]-1)
		}
		switch {
		case extra > most:
			cases = append(cases, finding{delivery: id})
		case extra > 0:
			allowed[b.rows[id].Channel]++
			total++
		}
	}
	if total > b.verified.Resent {
		cases = append(cases, finding{text: fmt.Sprintf("%d in all, of which verify knows %d", total, b.verified.Resent)})
	}
	return cases, allowed
}

// denied are those whom the ledger says nothing reached, wrongly. What fails by push
// was refused at once; elsewhere it may fail after it was accepted.
func (b *books) denied() (cases []finding) {
	for id, r := range b.rows {
		no := r.State == fanfare.Skipped || r.State == fanfare.Dead && r.Reason != fanfare.ReasonDoubtHeld || r.State == fanfare.Failed && r.Channel == fanfare.Push
		if no && len(b.received[id]) > 0 {
			cases = append(cases, finding{delivery: id})
		}
	}
	return cases
}

// arrivals are all calls as they came: to the sandboxes, by their clock, or into
// inboxes, by the time of their claim.
func (b *books) arrivals(each func(where, call string, at time.Time)) {
	for name, one := range b.sandboxes {
		for _, call := range one.Calls(0, 1<<20) {
			if call.ID != "" { // it could be read
				each(name, call.ID, call.ArrivedAt)
			}
		}
	}
	posts := map[string]bool{}
	for id, r := range b.rows {
		if r.Channel == fanfare.InApp && len(b.received[id]) > 0 && !posts[r.Call] {
			posts[r.Call] = true
			each("inbox", r.Call, b.calls[r.Call].At)
		}
	}
}

// unclaimed are calls that arrived and that the ledger has never heard of.
func (b *books) unclaimed() (cases []finding) {
	b.arrivals(func(where, call string, at time.Time) {
		if _, known := b.calls[call]; !known {
			cases = append(cases, finding{text: fmt.Sprintf("%s at %s:", where, clock(at)), call: call})
		}
	})
	return cases
}

// forgotten are those whom this test subscribed and never told to leave, and who are
// not in an audience.
func (b *books) forgotten() (cases []finding) {
	audience := map[*article]map[reader]bool{}
	b.members(func(a *article, r row) {
		if audience[a] == nil {
			audience[a] = map[reader]bool{}
		}
		audience[a][b.readers[r.Number]] = true
	})
	for i, n := range b.size.topicSizes() {
		for r := range reader(n) {
			for key, a := range b.known {
				left := slices.ContainsFunc(b.refusals[r], func(no *refusal) bool { return no.how == "leave" && no.topic == a.topic })
				if topicName(i) == a.topic && !left && !audience[a][r] {
					cases = append(cases, finding{text: r.String() + " of " + key})
				}
			}
		}
	}
	return cases
}

// afterStop are calls of a publication that arrived after its cancel was answered,
// or between the answer to pause and the wish to resume.
func (b *books) afterStop() (cases []finding) {
	b.arrivals(func(where, call string, at time.Time) {
		a := b.articles[b.calls[call].Publication]
		if a == nil {
			return
		}
		if !a.cancelled.IsZero() && at.After(a.cancelled) {
			cases = append(cases, finding{text: fmt.Sprintf("%s, %s after cancel of %s was answered:", where, at.Sub(a.cancelled), a.id), call: call})
		}
		for _, p := range a.paused {
			if at.After(p[0]) && (p[1].IsZero() || at.Before(p[1])) {
				cases = append(cases, finding{text: fmt.Sprintf("%s, %s after pause of %s was answered:", where, at.Sub(p[0]), a.id), call: call})
			}
		}
	})
	return cases
}

// aMoment is how much later than its snapshot of the ledger a claim may read the clock:
// a statement does both when it begins, on a machine that is busy.
const aMoment = time.Second

// unwanted are those who got what they had refused before it was claimed for them.
func (b *books) unwanted() (cases []finding) {
	for id, receipts := range b.received {
		r := b.rows[id]
		a := b.articles[r.Publication]
		for _, no := range b.refusals[b.readers[r.Number]] {
			if a == nil || no.from.IsZero() || !no.covers(r.Channel, a.topic) {
				continue
			}
			for _, one := range receipts {
				at := b.calls[one.call].At
				other := no.address != "" && one.to != "" && one.to != no.address
				if !other && at.After(no.from.Add(aMoment)) && (no.until.IsZero() || at.Before(no.until)) {
					cases = append(cases, finding{text: fmt.Sprintf("%s: %s since %s:", b.readers[r.Number], no.how, clock(no.from)), delivery: id})
				}
			}
		}
	}
	return cases
}

// unexplained are those who were not sent to although nobody ever asked for that, and
// nothing is odd about them.
func (b *books) unexplained() (cases []finding) {
	for id, r := range b.rows {
		a, who := b.articles[r.Publication], b.readers[r.Number]
		_, odd := who.addresses(r.Channel)
		refused := slices.ContainsFunc(b.refusals[who], func(no *refusal) bool {
			return no.covers(r.Channel, a.topic) && (no.reason == r.Reason || r.State == fanfare.Failed && no.how == "stop")
		})
		explained := true
		switch r.State {
		case fanfare.Skipped:
			explained = refused || odd && (r.Reason == fanfare.ReasonNoAddress || r.Reason == fanfare.ReasonSuppressed) ||
				a.toCancel.Load() && r.Reason == fanfare.ReasonCancelled || a.expires && r.Reason == fanfare.ReasonExpired
		case fanfare.Failed:
			explained = odd || refused || r.Channel == fanfare.Email && slices.ContainsFunc(b.refusedMail, func(begin string) bool { return strings.HasPrefix(who.String(), begin) })
		case fanfare.Dead:
			explained = r.Channel != fanfare.InApp // nothing stands in its way
		}
		if !explained {
			cases = append(cases, finding{text: who.String() + ":", delivery: id})
		}
	}
	return cases
}

func (b *books) unbalanced() (cases []finding) {
	for _, p := range b.verified.Problems {
		cases = append(cases, finding{text: fmt.Sprintf("%s: %s", p.Publication, p.Sentence)})
	}
	if !b.verified.OK && len(cases) == 0 {
		cases = append(cases, finding{text: "not ok, and it says nothing"})
	}
	audience := map[string]int64{} // counted again, by publication and channel
	b.members(func(a *article, r row) { audience[fmt.Sprint(a.id, r.Channel)]++ })
	for _, key := range b.keys {
		a := b.known[key]
		p := b.publication(a.id) // checks that the totals balance
		if p.Totals.Unfinished() > 0 || p.FinishedAt == nil {
			cases = append(cases, finding{text: fmt.Sprintf("%s is %s, unfinished %d", key, p.State, p.Totals.Unfinished())})
		}
		for _, channel := range a.channels {
			if n := audience[fmt.Sprint(a.id, channel)]; n != p.ByChannel[channel].Intended {
				cases = append(cases, finding{text: fmt.Sprintf("%s: of %d in the audience %d are intended by %s", key, n, p.ByChannel[channel].Intended, channel)})
			}
		}
	}
	return cases
}

func (b *books) believed() (cases []finding) {
	for name, one := range b.sandboxes {
		if w := one.Stats().Webhooks; w.ForgedAccepted+w.StaleAccepted > 0 {
			cases = append(cases, finding{text: fmt.Sprintf("%s: %d forged, %d stale", name, w.ForgedAccepted, w.StaleAccepted)})
		}
	}
	return cases
}

// addresses are lines of the processes' output, and parts of Temporal's database,
// that hold an address.
func (b *books) addresses() (cases []finding) {
	for line := range bytes.Lines(b.output.bytes()) {
		if personal.Match(line) {
			cases = append(cases, finding{text: "in a log: " + strings.TrimSpace(string(line))})
		}
	}
	files, err := filepath.Glob(b.where.File + "*")
	require.NoError(b.t, err)
	require.NotEmpty(b.t, files)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(b.t, err)
		if at := personal.FindIndex(data); at != nil {
			cases = append(cases, finding{text: fmt.Sprintf("in %s: %q", filepath.Base(file), data[max(0, at[0]-200):min(len(data), at[0]+100)])})
		}
	}
	return cases
}

// tell is all there is to know about a finding.
func (b *books) tell(f finding) string {
	switch {
	case f.delivery != "":
		return strings.TrimSpace(f.text + " " + b.tellDelivery(f.delivery))
	case f.call != "":
		return strings.TrimSpace(f.text + " " + b.tellCall(f.call))
	}
	return f.text
}

func (b *books) tellDelivery(id string) string {
	text := fmt.Sprintf("%s: ledger %+v\n", id, b.rows[id])
	calls := map[string]bool{}
	for _, r := range b.received[id] {
		text += fmt.Sprintf("          %s has it since %s by call %s %s\n", r.provider, clock(r.at), r.call, r.to)
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
	}, `SELECT call_id::text, outcome::text, COALESCE(code, ''), at FROM attempts WHERE publication_id = NULLIF($1, '')::uuid AND subscriber_number = $2 AND channel::text = $3 ORDER BY at`, string(r.Publication), r.Number, string(r.Channel))
	query(b.chaos, func(a struct{ Call string }) { calls[a.Call] = true },
		`SELECT call_id::text FROM deliveries WHERE publication_id = NULLIF($1, '')::uuid AND subscriber_number = $2 AND channel::text = $3 AND call_id IS NOT NULL`, string(r.Publication), r.Number, string(r.Channel))
	query(b.chaos, func(e struct {
		Type, Call   string
		At, Received time.Time
	},
	) {
		text += fmt.Sprintf("          event %s of %s received %s, of call %s\n", e.Type, clock(e.At), clock(e.Received), e.Call)
	}, `SELECT type::text, COALESCE(call_id::text, ''), at, received_at FROM events WHERE publication_id = NULLIF($1, '')::uuid AND subscriber_number = $2 AND channel::text = $3 ORDER BY at`, string(r.Publication), r.Number, string(r.Channel))
	query(b.chaos, func(d struct{ Line string }) { text += "          " + d.Line + "\n" }, `
		SELECT format('in doubt by call %s: %s looks, the last at %s: %s; until %s', call_id, looks, look_at, last_look, deadline) FROM doubts WHERE call_id = NULLIF($1, '')::uuid
		UNION ALL SELECT format('waits until %s', due_at) FROM attention WHERE publication_id = NULLIF($2, '')::uuid AND channel::text = $3 AND subscriber_number = $4 AND state = 'pending'`,
		r.Call, string(r.Publication), string(r.Channel), r.Number)
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
func (b *books) table(allowed map[fanfare.Channel]int64) {
	byChannel, states, skipped, dead := map[fanfare.Channel]fanfare.Totals{}, map[string]int64{}, map[fanfare.Channel]map[string]int64{}, map[fanfare.Channel]map[string]int64{}
	for _, channel := range fourChannels {
		skipped[channel], dead[channel] = map[string]int64{}, map[string]int64{}
	}
	for _, key := range b.keys {
		p := b.publication(b.known[key].id)
		states[string(p.State)]++
		for channel, totals := range p.ByChannel {
			byChannel[channel] = byChannel[channel].Add(totals)
		}
	}
	for _, r := range b.rows {
		switch r.State {
		case fanfare.Skipped:
			skipped[r.Channel][r.Reason]++
		case fanfare.Dead:
			dead[r.Channel][r.Reason]++
		}
	}
	var faults, calls, messages int64
	for _, one := range b.sandboxes {
		s := one.Stats()
		faults, calls, messages = faults+s.FaultsApplied, calls+s.Calls, messages+s.Messages
	}
	var wishes int64
	for _, all := range b.refusals {
		wishes += int64(len(all))
	}
	lines := [][2]string{{"publications", fmt.Sprintf("%d %s", len(b.keys), counts(states))}}
	for _, channel := range fourChannels {
		t := byChannel[channel]
		lines = append(lines, [2]string{string(channel), fmt.Sprintf("intended %d, sent %d, of them delivered %d, failed %d, skipped %d %s, dead %d %s, twice by the policy resend %d",
			t.Intended, t.Sent+t.Delivered, t.Delivered, t.Failed, t.Skipped, counts(skipped[channel]), t.Dead, counts(dead[channel]), allowed[channel])})
	}
	lines = append(lines, [][2]string{
		{"lost", fmt.Sprint(len(b.failed[isLost]))},
		{"sent to nobody", fmt.Sprint(len(b.failed[isUnfounded]))},
		{"duplicates", fmt.Sprint(len(b.failed[isTwice]))},
		{"verify says", fmt.Sprintf("ok %t, duplicates %d, resent %d", b.verified.OK, b.verified.Duplicates, b.verified.Resent)},
		{"in doubt, settled by", counts(b.evidence())},
		{"refused by readers", fmt.Sprint(wishes)},
		{"at the providers", fmt.Sprintf("%d calls, %d of them hurt, %d messages", calls, faults, messages)},
		{"killed", counts(b.killed)},
	}...)
	b.sayf("chaos", "seed %d, policy %s", b.size.seed, b.size.policy())
	for _, line := range lines {
		fmt.Fprintf(b.t.Output(), "        %-22s %s\n", line[0], line[1])
	}
}

// evidence is by what those were settled who were in doubt.
func (b *books) evidence() map[string]int64 {
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
	return evidence
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
