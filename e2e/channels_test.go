package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/sandbox"
)

// person is one of the made-up audience: what they can be reached by and what they
// want, with what must become of the first two publications on each channel.
type person struct {
	line     map[string]any
	wants    map[string]any // what they put into their preferences; nil: nothing
	suppress map[fanfare.Channel]string
	first    map[fanfare.Channel]string // state, or state and reason or code
	second   map[fanfare.Channel]string
}

var fourChannels = []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp}

// kinds are so many different people: each function makes person i of its kind.
// What must become of them is written down here, independently of the code that does it.
var kinds = []func(p *person, i int){
	func(p *person, i int) {}, // reached everywhere
	func(p *person, i int) { // has an email address only
		delete(p.line, "phone")
		delete(p.line, "devices")
		p.both(fanfare.SMS, "skipped no_address")
		p.both(fanfare.Push, "skipped no_address")
	},
	func(p *person, i int) { // wants no SMS at all
		p.wants = map[string]any{"channels": map[string]bool{"sms": false}}
		p.both(fanfare.SMS, "skipped opted_out")
	},
	func(p *person, i int) { // wants this writer in the app only
		p.wants = map[string]any{"topics": map[string]any{"writer-1": map[string]bool{"email": false, "sms": false, "push": false}}}
		p.both(fanfare.Email, "skipped opted_out")
		p.both(fanfare.SMS, "skipped opted_out")
		p.both(fanfare.Push, "skipped opted_out")
	},
	func(p *person, i int) { // wants SMS, but nothing of this writer by it, and no push
		p.wants = map[string]any{"channels": map[string]bool{"sms": true, "push": false}, "topics": map[string]any{"writer-1": map[string]bool{"sms": false, "push": true}}}
		p.both(fanfare.SMS, "skipped opted_out")
		p.both(fanfare.Push, "skipped opted_out")
	},
	func(p *person, i int) { // a person suppressed their email address
		p.suppress = map[fanfare.Channel]string{fanfare.Email: p.line["email"].(string)}
		p.both(fanfare.Email, "skipped suppressed")
	},
	func(p *person, i int) { // a person suppressed their number
		p.suppress = map[fanfare.Channel]string{fanfare.SMS: p.line["phone"].(string)}
		p.both(fanfare.SMS, "skipped suppressed")
	},
	func(p *person, i int) { // the app is gone from the device
		p.line["devices"] = []map[string]string{{"token": fmt.Sprint("dead+", i), "platform": "android"}}
		p.first[fanfare.Push] = "failed fcm:UNREGISTERED"
		p.second[fanfare.Push] = "skipped no_address"
	},
	func(p *person, i int) { // of two devices one is dead
		p.line["devices"] = []map[string]string{{"token": fmt.Sprint("dead+tablet-", i)}, {"token": fmt.Sprint("alive-", i), "platform": "ios"}}
	},
	func(p *person, i int) { // answered STOP long ago, which Twilio knows and we do not
		p.line["phone"] = magic(i, "1610")
		p.first[fanfare.SMS] = "failed twilio:21610"
		p.second[fanfare.SMS] = "skipped suppressed"
	},
	func(p *person, i int) { // a number that cannot be sent to from here
		p.line["phone"] = magic(i, "1408")
		p.both(fanfare.SMS, "failed twilio:21408")
	},
	func(p *person, i int) { // a number that nobody has any more
		p.line["phone"] = magic(i, "0005")
		p.first[fanfare.SMS] = "failed twilio:30005"
		p.second[fanfare.SMS] = "skipped suppressed"
	},
	func(p *person, i int) { // a mailbox that is gone
		p.line["email"] = fmt.Sprintf("bounce+%d@mail.example", i)
		p.first[fanfare.Email] = "failed sendgrid:5.1.1"
		p.second[fanfare.Email] = "skipped suppressed"
	},
	func(p *person, i int) { // a reader who calls it spam
		p.line["email"] = fmt.Sprintf("complain+%d@mail.example", i)
		p.second[fanfare.Email] = "skipped suppressed"
	},
}

func (p *person) both(channel fanfare.Channel, end string) {
	p.first[channel], p.second[channel] = end, end
}

// magic is a number that Twilio's stand-in treats as its ending says; i is small.
func magic(i int, ending string) string {
	return fmt.Sprintf("+347%d%03d%s", 1+i/1000%4, i%1000, ending)
}

// reached is how a message ends on each channel where all goes well: email and SMS are
// reported to have arrived, push and the app are not.
var reached = map[fanfare.Channel]string{fanfare.Email: "delivered", fanfare.SMS: "delivered", fanfare.Push: "sent", fanfare.InApp: "sent"}

// population makes n people, and the ends that a publication must have.
func population(n int) []*person {
	people := make([]*person, n)
	for i := range people {
		p := &person{line: map[string]any{
			"id": fmt.Sprint("reader-", i+1), "email": fmt.Sprintf("reader-%d@mail.example", i+1), "phone": fmt.Sprintf("+346%08d", i+1),
			"devices": []map[string]string{{"token": fmt.Sprint("token-", i+1), "platform": "ios"}},
		}, first: maps.Clone(reached), second: maps.Clone(reached)}
		kinds[i%len(kinds)](p, i/len(kinds))
		people[i] = p
	}
	return people
}

// populate imports the people, who then say what they want.
func (st *stack) populate(people []*person) {
	st.t.Helper()
	st.call(http.MethodPut, "/v1/topics/writer-1", map[string]any{"name": "Writer One"}, http.StatusCreated, nil)
	lines := make([]string, len(people))
	for i, p := range people {
		line, err := json.Marshal(p.line)
		require.NoError(st.t, err)
		lines[i] = string(line)
	}
	st.importLines(lines...)
	suppressed := map[fanfare.Channel][]string{}
	for _, p := range people {
		for channel, address := range p.suppress {
			line, err := json.Marshal(map[string]string{"address": address})
			require.NoError(st.t, err)
			suppressed[channel] = append(suppressed[channel], string(line))
		}
	}
	for channel, lines := range suppressed {
		status, body := st.send(http.MethodPost, "/v1/suppressions/import?channel="+string(channel), "application/x-ndjson", []byte(strings.Join(lines, "\n")))
		require.Equal(st.t, http.StatusOK, status, "%s", body)
	}
	saying := make(chan *person)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for p := range saying {
				st.prefers(p.line["id"].(string), p.wants)
			}
		})
	}
	for _, p := range people {
		if p.wants != nil {
			saying <- p
		}
	}
	close(saying)
	clients.Wait()
}

// prefers puts preferences as the subscriber does.
func (st *stack) prefers(id string, wants map[string]any) {
	st.t.Helper()
	var made struct {
		Token string `json:"token"`
	}
	st.call(http.MethodPost, "/v1/subscribers/"+id+"/tokens", map[string]any{}, http.StatusCreated, &made)
	body, err := json.Marshal(wants)
	require.NoError(st.t, err)
	status, answer := st.sendAs(made.Token, http.MethodPut, "/v1/me/preferences", "application/json", body)
	require.Equal(st.t, http.StatusOK, status, "%s", answer)
}

// ends are the deliveries of a publication, counted by channel and end.
func (st *stack) ends(id fanfare.PublicationID) map[string]int {
	st.t.Helper()
	conn, err := pgx.Connect(st.t.Context(), st.database)
	require.NoError(st.t, err)
	defer conn.Close(context.WithoutCancel(st.t.Context()))
	rows, err := conn.Query(st.t.Context(), `
		SELECT trim(format('%s %s %s', channel, state, COALESCE(reason, code))), count(*) FROM deliveries WHERE publication_id = $1 GROUP BY 1`, id)
	require.NoError(st.t, err)
	got := map[string]int{}
	var end string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&end, &n}, func() error {
		got[end] = n
		return nil
	})
	require.NoError(st.t, err)
	return got
}

// TestOnePublicationOverFourChannels predicts what becomes of every delivery of two
// publications: who wants what, who cannot be reached, who refuses, and what the first
// one teaches for the second.
func TestOnePublicationOverFourChannels(t *testing.T) {
	t.Parallel()
	const readers = 50_000
	st := start(t, setup{workers: 2, batchSize: 5000, webhooks: true, channels: true})
	people := population(readers)
	st.populate(people)
	for round, key := range []string{"first", "second"} {
		want := map[string]int{}
		for _, p := range people {
			for channel, end := range []map[fanfare.Channel]string{p.first, p.second}[round] {
				want[fmt.Sprint(channel, " ", end)]++
			}
		}
		id := st.publishWith(map[string]any{"key": key, "topic": "writer-1", "content": content(key), "channels": fourChannels})
		p := st.completes(id)
		require.EqualValues(t, 4*readers, p.Totals.Intended)
		require.Eventually(t, func() bool {
			return st.sandbox.WebhookIdle() && st.count(`SELECT count(*) FROM event_inbox`) == 0
		}, patience, tick, "all reports are applied")
		require.Equal(t, want, st.ends(id))
		require.True(t, st.verify().OK)
	}
	stats := st.sandbox.Stats()
	require.Zero(t, stats.Duplicates)
	for _, channel := range []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push} {
		require.Zero(t, stats.ByChannel[string(channel)].Duplicates, channel)
		require.Positive(t, stats.ByChannel[string(channel)].Messages, channel)
	}
}

// TestOptOutDuringTheFanOut is honoured for everyone who is not claimed yet.
func TestOptOutDuringTheFanOut(t *testing.T) {
	t.Parallel()
	const readers = 4000
	st := start(t, setup{workers: 1, batchSize: readers, channels: true})
	st.reachable(readers)
	st.faults(sandbox.Faults{Pace: 400})
	id := st.publishWith(map[string]any{"key": "article-1", "topic": "writer-1", "content": content("article-1"), "channels": []fanfare.Channel{fanfare.SMS}})
	st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent >= 100 })
	// Numbers are claimed in order: the last ones are far from their turn.
	for i := readers; i > readers-20; i-- {
		st.prefers(fmt.Sprint("reader-", i), map[string]any{"channels": map[string]bool{"sms": false}})
	}
	unclaimed := st.count(`SELECT $2 - claimed_through FROM batches WHERE publication_id = $1`, id, readers)
	require.Greater(t, unclaimed, int64(20), "they are not claimed yet")
	st.faults(sandbox.Faults{})
	p := st.completes(id)
	require.Equal(t, map[string]int64{"opted_out": 20}, p.SkippedByReason)
	require.EqualValues(t, readers-20, p.Totals.Sent+p.Totals.Delivered)
	require.EqualValues(t, readers-20, st.sandbox.Stats().ByChannel["sms"].Messages)
	require.Zero(t, st.count(`SELECT count(*) FROM calls WHERE publication_id = $1 AND first_number > $2`, id, readers-20))
}

// reachable subscribes n people who have an address on every channel.
func (st *stack) reachable(n int) {
	st.t.Helper()
	st.call(http.MethodPut, "/v1/topics/writer-1", map[string]any{"name": "Writer One"}, http.StatusCreated, nil)
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"id":"reader-%d","email":"reader-%d@mail.example","phone":"+346%08d","devices":[{"token":"token-%d","platform":"ios"}]}`, i+1, i+1, i+1, i+1)
	}
	st.importLines(lines...)
}

// TestKilledWithOneMessageToACall kills workers in the middle of SMS and pushes, each
// with the doubt rules of its channel and with what evidence its provider gives.
func TestKilledWithOneMessageToACall(t *testing.T) {
	t.Parallel()
	const readers = 8000
	noReports := sandbox.WebhookFaults{Hold: true}
	noList := sandbox.LogFaults{Mode: sandbox.LogsOff}
	for name, c := range map[string]struct {
		channel fanfare.Channel
		policy  string
		faults  sandbox.Faults
	}{
		"sms, reports":     {fanfare.SMS, "hold", sandbox.Faults{Logs: noList}},
		"sms, the list":    {fanfare.SMS, "resend", sandbox.Faults{Webhooks: noReports}},
		"sms, none, hold":  {fanfare.SMS, "hold", sandbox.Faults{Logs: noList, Webhooks: noReports}},
		"push, none again": {fanfare.Push, "resend", sandbox.Faults{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := start(t, setup{workers: 2, batchSize: 1000, channels: true, env: []string{"FANFARE_DOUBT_SMS=" + c.policy, "FANFARE_DOUBT_PUSH=" + c.policy}})
			st.reachable(readers)
			faults := c.faults
			faults.Pace = 500
			st.faults(faults)
			id := st.publishWith(map[string]any{"key": "article-1", "topic": "writer-1", "content": content("article-1"), "channels": []fanfare.Channel{c.channel}})
			st.killByTurns(id)
			st.faults(c.faults)
			p, v := st.completes(id), st.verify()
			counts := st.sandbox.Stats().ByChannel[string(c.channel)]
			reached := p.Totals.Sent + p.Totals.Delivered
			t.Logf("%d reached, %d dead, %d got it, %d twice, %d sent again by policy", reached, p.Totals.Dead, counts.Distinct, counts.Duplicates, v.Resent)
			require.True(t, v.OK)
			require.EqualValues(t, readers, reached+p.Totals.Dead)
			require.Zero(t, st.count(`SELECT count(*) FROM calls WHERE publication_id = $1 AND size > 1`, id))
			switch name {
			case "sms, none, hold":
				require.Zero(t, counts.Duplicates)
				require.Positive(t, p.Totals.Dead)
				require.Equal(t, p.Totals.Dead, st.count(`SELECT count(*) FROM deliveries WHERE reason = 'doubt_held'`))
				// Only those whose call may have begun: as many as were claimed at once,
				// by each worker that was killed.
				require.LessOrEqual(t, p.Totals.Dead, int64(kills*8*64))
				require.GreaterOrEqual(t, counts.Distinct, reached)
			case "sms, reports":
				require.Zero(t, counts.Duplicates)
				require.Equal(t, counts.Distinct, reached, "who got it is known, who did not is held")
				require.Positive(t, st.count(`SELECT count(*) FROM calls WHERE evidence LIKE 'event %'`))
			case "sms, the list":
				require.Zero(t, counts.Duplicates)
				require.EqualValues(t, readers, counts.Distinct, "nobody is lost")
				require.Positive(t, st.count(`SELECT count(*) FROM calls WHERE evidence LIKE '%of no other call'`))
			case "push, none again":
				require.EqualValues(t, readers, counts.Distinct, "nobody is lost")
				require.Positive(t, v.Resent)
				require.LessOrEqual(t, counts.Duplicates, v.Resent, "as many as the ledger says, at most")
				require.Equal(t, counts.Duplicates, counts.Replaced, "and each replaces the first on the device")
			}
		})
	}
}

// TestFrozenWithOneMessageToACall stops a worker in the middle of SMS and pushes, lets
// another take over, and thaws it: it must not send.
func TestFrozenWithOneMessageToACall(t *testing.T) {
	t.Parallel()
	const readers = 4000
	for _, channel := range []fanfare.Channel{fanfare.SMS, fanfare.Push} {
		t.Run(string(channel), func(t *testing.T) {
			t.Parallel()
			st := start(t, setup{workers: 1, batchSize: 1000, channels: true, env: []string{"FANFARE_DOUBT_PUSH=hold"}})
			st.reachable(readers)
			st.faults(sandbox.Faults{Pace: 300})
			publish := func(key string) fanfare.PublicationID {
				return st.publishWith(map[string]any{"key": key, "topic": "writer-1", "content": content(key), "channels": []fanfare.Channel{channel}})
			}
			id := publish("article-1")
			st.reaches(id, "some are sent", func(p fanfare.Publication) bool { return p.Totals.Sent+p.Totals.Delivered >= 300 })
			frozen := st.workers[0]
			require.NoError(t, frozen.Signal(syscall.SIGSTOP))
			other := st.startWorker(1000)
			st.faults(sandbox.Faults{})
			p := st.completes(id)
			require.EqualValues(t, readers, p.Totals.Sent+p.Totals.Delivered+p.Totals.Dead)
			require.LessOrEqual(t, p.Totals.Dead, int64(8*64))
			before := len(st.callsOf(id))
			require.NoError(t, frozen.Signal(syscall.SIGCONT))

			// The thawed worker is alone now and works again; by the time it has sent
			// another publication it would have sent what it held of this one.
			require.NoError(t, other.Stop(t.Context()))
			st.completes(publish("article-2"))
			require.Len(t, st.callsOf(id), before, "the thawed worker has sent")
			require.Zero(t, st.sandbox.Stats().Duplicates)
			v := st.verify()
			require.True(t, v.OK, "%v", v.Problems)
			require.Zero(t, v.Duplicates)
		})
	}
}
