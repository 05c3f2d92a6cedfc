package ledger_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

func TestVerifyFindsEveryKindOfDamage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, damage, sentence string
	}{
		{"nothing", `SELECT 1`, ""},
		{"a lost row", `DELETE FROM deliveries WHERE subscriber_number = 2 AND channel = 'email'`, "1 recipients were passed over"},
		{"lost rows at the ends of a batch", `DELETE FROM deliveries WHERE subscriber_number IN (1, 10) AND channel = 'email'`, "2 recipients were passed over"},
		{"a stranger", `INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, reason) SELECT publication_id, 99, 'email', 1, 'skipped', 'x' FROM publications`, "1 deliveries belong to nobody in the audience"},
		{"a row on a channel that was not asked for", `INSERT INTO deliveries (publication_id, subscriber_number, channel, batch, state, reason) SELECT publication_id, 1, 'sms', 1, 'skipped', 'x' FROM publications`, "sms: 1 deliveries belong to nobody in the audience"},
		{"unequal totals", `UPDATE batches SET sent = sent - 1, skipped = skipped + 1 WHERE n = 1 AND channel = 'email'`, "1 batches have totals that differ from their rows"},
		{"totals of a batch without rows", `UPDATE batches SET dead = 1 WHERE n = 3 AND channel = 'email'`, "1 batches have totals that differ from their rows"},
		{"a row of no batch", `UPDATE deliveries SET batch = 9 WHERE subscriber_number = 1 AND channel = 'email'`, "2 batches have totals that differ from their rows"},
		{"a changed state", `UPDATE deliveries SET state = 'delivered' WHERE subscriber_number = 1 AND channel = 'email'`, "1 batches have totals that differ from their rows"},
		{"no attention", `DELETE FROM attention WHERE state = 'failed' AND channel = 'email'`, "1 deliveries that wait or went wrong are missing"},
		{"attention in the wrong state", `UPDATE attention SET state = 'dead' WHERE state = 'failed' AND channel = 'email'`, "deliveries that wait or went wrong are missing"},
		{"attention for one who needs none", `INSERT INTO attention (publication_id, channel, state, subscriber_number, batch) SELECT publication_id, 'email', 'dead', 1, 1 FROM publications`, "1 deliveries that wait or went wrong are missing"},
		{"finished too early", `UPDATE publications SET state = 'completed', finished_at = now()`, "it is finished, but 15 recipients have not come to an end"},
		{"a wrong audience", `UPDATE publications SET audience = audience + 1`, "26 recipients were intended, but the subscriptions at the cut number 25"},
		{"a subscription that was changed", `UPDATE subscriptions SET ended_cut = 26, ended_at = now() WHERE subscriber_number = 25`, "25 recipients were intended, but the subscriptions at the cut number 24"},
		{"batches for too many", `UPDATE batches SET intended = intended + 1 WHERE n = 3 AND channel = 'email'`, "the batches hold 26 recipients, more than the 25 intended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(cfg *ledger.Config) { cfg.Channels = []fanfare.Channel{fanfare.Email, fanfare.InApp} })
			w.subscribed(25)
			w.exec(`SELECT setval('cuts', 25)`)
			ref := w.running("article-1", 10) // the cut is 26
			r := result(fanfare.OutcomeAccepted)
			r.Named = map[fanfare.SubscriberNumber]fanfare.Outcome{9: {Kind: fanfare.OutcomeRejected, Code: "550"}}
			w.settleWith(ref, w.claimNew(ref, 10).Call, r)
			ref.N = 2
			w.settle(ref, w.claimNew(ref, 2).Call, fanfare.OutcomeReleased)
			ref.Channel = fanfare.InApp
			w.claimNew(ref, 10)
			w.balanced()

			w.exec(`SET session_replication_role = replica`) // no triggers: as if the disk had done it
			w.exec(c.damage)
			v, err := w.Verify(t.Context(), ref.Publication, nil)
			require.NoError(t, err)
			require.Equal(t, c.sentence == "", v.OK)
			sentences := ""
			for _, p := range v.Problems {
				require.Equal(t, ref.Publication, p.Publication)
				sentences += string(p.Channel) + ": " + p.Sentence + "\n"
			}
			if c.sentence == "" {
				require.Empty(t, sentences)
				return
			}
			require.Contains(t, sentences, c.sentence)
		})
	}
}

func TestVerifyGoesThroughAllPublicationsOrOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := w.balanced()
	require.Zero(t, v.Checked)
	require.NotNil(t, v.Problems, "an empty list, not null")

	w.subscribed(5)
	id := w.running("article-1", 10).Publication
	w.running("article-2", 10)
	w.accept("article-3")
	var progress []int
	v, err := w.Verify(t.Context(), "", func(done, all int) { progress = append(progress, done, all) })
	require.NoError(t, err)
	require.Equal(t, 3, v.Checked)
	require.Equal(t, []int{1, 3, 2, 3, 3, 3}, progress)
	v, err = w.Verify(t.Context(), id, nil)
	require.NoError(t, err)
	require.Equal(t, 1, v.Checked)
	_, err = w.Verify(t.Context(), "018cc251-f400-7000-8000-000000000000", nil)
	require.ErrorIs(t, err, fanfare.ErrNotFound)
}

func TestVerifyAgreesWhileAPublicationIsUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribed(400)
	ref := w.running("article-1", 40)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.sendAll(ref, 5)
	}()
	for checks := 0; ; checks++ {
		w.balanced()
		select {
		case <-done:
			require.Positive(t, checks)
			require.EqualValues(t, 400, w.publication(ref.Publication).Totals.Sent)
			return
		default:
		}
	}
}
