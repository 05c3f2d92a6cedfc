package ledger_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/ledger"
)

// storm is everything that happens to people and publications on every channel at once.
type storm struct {
	*world
	refs []fanfare.BatchRef
	mu   sync.Mutex
	open map[fanfare.BatchRef][]fanfare.ClaimedCall
}

const stormed = 60 // people

// TestNothingDeadlocksOnAnyChannel: whatever comes of it, nothing deadlocks and the books
// balance.
func TestNothingDeadlocksOnAnyChannel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, every, func(cfg *ledger.Config) { cfg.DoubtDeadline = 0 })
	w.topic("writer-1")
	s := &storm{world: w, open: map[fanfare.BatchRef][]fanfare.ClaimedCall{}}
	random := rand.New(rand.NewPCG(1, 2))
	for i := 1; i <= stormed; i++ {
		w.put(s.somebody(random, i))
		w.subscribe(i)
	}
	for n := range 3 {
		ref := w.runningOn(fanfare.Email, fmt.Sprint("article-", n), fanfare.Bulk)
		for _, ref.Channel = range []fanfare.Channel{fanfare.Email, fanfare.SMS, fanfare.Push, fanfare.InApp} {
			s.refs = append(s.refs, ref)
		}
	}
	atOnce(t, 14, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 7))
		for range 120 {
			if err := s.happens(random); err != nil && !errors.Is(err, fanfare.ErrWrongState) && !errors.Is(err, fanfare.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	w.balanced()
}

// somebody is person i with addresses and devices that others have too.
func (s *storm) somebody(random *rand.Rand, i int) fanfare.Subscriber {
	return fanfare.Subscriber{
		ID: reader(i), Email: s.email(random), Phone: s.phone(random),
		Devices: []fanfare.Device{{Token: fmt.Sprint("token-", random.IntN(40))}, {Token: fmt.Sprint("token-", random.IntN(40))}},
	}
}

func (s *storm) email(random *rand.Rand) string {
	return fmt.Sprintf("family-%d@mail.example", random.IntN(30))
}

func (s *storm) phone(random *rand.Rand) string {
	return fmt.Sprintf("+346000000%02d", random.IntN(30))
}

func (s *storm) happens(random *rand.Rand) error {
	ref := s.refs[random.IntN(len(s.refs))]
	ctx, i := s.t.Context(), 1+random.IntN(stormed)
	switch n := random.IntN(40); {
	case n < 14:
		return s.claimed(random, ref)
	case n < 22:
		return s.settled(random, ref)
	case n < 26:
		return s.reported(random)
	case n < 29:
		_, err := s.ApplyEvents(ctx, 1+random.IntN(20))
		return err
	case n < 33:
		return s.person(random, i)
	case n < 34:
		_, err := s.Suppress(ctx, fanfare.Email, []fanfare.Refused{{Address: s.email(random), Reason: fanfare.SuppressedManual}, {Address: s.email(random), Reason: fanfare.SuppressedManual}})
		return err
	case n < 35:
		_, err := s.LiftSuppression(ctx, fanfare.Email, s.email(random))
		return err
	case n < 37:
		return s.replayed(random, ref)
	case n < 38:
		_, _, err := s.MarkInboxItem(ctx, fanfare.SubscriberNumber(i), fanfare.InboxItemID(1+random.IntN(3)), fanfare.MarkRead)
		return err
	}
	return s.doubted(random, ref)
}

func (s *storm) claimed(random *rand.Rand, ref fanfare.BatchRef) error {
	wanted := fanfare.Wanted{Provider: "p-" + string(ref.Channel), Limit: 1 + random.IntN(12), Single: ref.Channel != fanfare.Email}
	if ref.Channel == fanfare.InApp {
		_, _, err := s.Post(s.t.Context(), ref, wanted, saying("Tides"))
		return err
	}
	var c fanfare.Claim
	var err error
	if random.IntN(2) == 0 {
		c, err = s.ClaimNew(s.t.Context(), ref, wanted)
	} else {
		c, err = s.ClaimDue(s.t.Context(), ref, wanted, everyone)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[ref] = append(s.open[ref], c.Calls...)
	return err
}

func (s *storm) some(random *rand.Rand, ref fanfare.BatchRef, most int) (list []fanfare.ClaimedCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.open[ref]
	for _, n := range random.Perm(len(all))[:min(len(all), most)] {
		list = append(list, all[n])
	}
	return list
}

func (s *storm) settled(random *rand.Rand, ref fanfare.BatchRef) error {
	var all []fanfare.Settlement
	for _, call := range s.some(random, ref, 8) {
		r := result([]fanfare.OutcomeKind{
			fanfare.OutcomeAccepted, fanfare.OutcomeAccepted, fanfare.OutcomeRejected, fanfare.OutcomeThrottled, fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeReleased,
		}[random.IntN(7)])
		to := call.Recipients[random.IntN(len(call.Recipients))]
		switch {
		case r.Outcome.Kind == fanfare.OutcomeAccepted && random.IntN(2) == 0:
			r.Evidence = "late"
		case random.IntN(2) == 0 && to.Address != "":
			r.Suppress = []fanfare.Refused{{Address: to.Address, Reason: fanfare.SuppressedInvalid}}
		}
		for _, d := range to.Devices {
			if random.IntN(3) == 0 {
				r.Suppress = append(r.Suppress, fanfare.Refused{Address: d.Token, Reason: fanfare.SuppressedDeadToken})
			}
		}
		all = append(all, fanfare.Settlement{Call: call.ID, Result: r})
	}
	return s.SettleAll(s.t.Context(), ref, all)
}

func (s *storm) reported(random *rand.Rand) error {
	var all []fanfare.ProviderEvent
	for range 12 {
		ref := s.refs[random.IntN(len(s.refs))]
		at := anHourAgo.Add(time.Duration(random.IntN(1000)) * time.Second)
		if random.IntN(4) == 0 {
			kind := []fanfare.EventType{fanfare.EventUnsubscribed, fanfare.EventResubscribed}[random.IntN(2)]
			all = append(all, about(kind, fanfare.SMS, s.phone(random), at))
			continue
		}
		for _, call := range s.some(random, ref, 1) {
			kind := []fanfare.EventType{fanfare.EventProcessed, fanfare.EventDelivered, fanfare.EventBounced, fanfare.EventBounced, fanfare.EventUnsubscribed, fanfare.EventComplained}[random.IntN(6)]
			e := event(kind, ref, int(call.Recipients[0].Number), call.ID)
			e.At, e.Permanent, e.Address = at, random.IntN(3) == 0, s.email(random)
			all = append(all, digested(e))
		}
	}
	return s.TakeEvents(s.t.Context(), all)
}

func (s *storm) person(random *rand.Rand, i int) error {
	ctx := s.t.Context()
	switch random.IntN(6) {
	case 0:
		return s.Unsubscribe(ctx, "writer-1", reader(i))
	case 1:
		_, err := s.Subscribe(ctx, "writer-1", reader(i))
		return err
	case 2:
		_, err := s.PutPreferences(ctx, fanfare.SubscriberNumber(i), fanfare.Preferences{Channels: byChannel{fanfare.SMS: random.IntN(2) == 0}})
		return err
	case 3:
		if random.IntN(3) == 0 {
			return s.EraseSubscriber(ctx, reader(i))
		}
		_, err := s.Import(ctx, "writer-1", chunks(i, i+5, 3, func(n int) fanfare.Subscriber { return s.somebody(random, n) }))
		return err
	}
	_, err := s.PutSubscriber(ctx, s.somebody(random, i))
	return err
}

func (s *storm) replayed(random *rand.Rand, ref fanfare.BatchRef) error {
	ctx := s.t.Context()
	if random.IntN(2) == 0 {
		_, _, err := s.Reopen(ctx, ref, fmt.Sprint("run-", random.IntN(1000)))
		return err
	}
	r, err := s.AcceptReplay(ctx, fanfare.ReplayFilter{Reason: []string{"", fanfare.ReasonDoubtHeld}[random.IntN(2)]}, "")
	if err != nil {
		return err
	}
	if random.IntN(4) == 0 {
		_, err = s.CancelReplay(ctx, r.ID)
		return err
	}
	for _, each := range s.refs {
		if _, err := s.ReopenForReplay(ctx, r.ID, each); err != nil {
			return err
		}
	}
	return nil
}

func (s *storm) doubted(random *rand.Rand, ref fanfare.BatchRef) error {
	ctx := s.t.Context()
	if _, err := s.DoubtLapsed(ctx, ref); err != nil {
		return err
	}
	due, _, err := s.Doubts(ctx, ref.Publication, ref.Channel, 10)
	for _, d := range due {
		err = errors.Join(err, s.ApplyPolicy(ctx, d))
	}
	if err == nil {
		_, err = s.Finish(ctx, ref.Publication)
	}
	if err == nil && random.IntN(10) == 0 {
		_, err = s.Pause(ctx, ref.Publication)
	}
	if err == nil && random.IntN(2) == 0 {
		_, err = s.Resume(ctx, ref.Publication)
	}
	return err
}
