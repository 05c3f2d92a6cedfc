package activities_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/activities"
)

// virtually runs a test in virtual time.
func virtually(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

func TestSendAWholeBatch(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10_000), &provider{}
		begun := time.Now()
		result, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 10_000, Sent: 10_000}, result.Tally.Totals)
		require.Equal(t, activities.SendResult{Tally: result.Tally, Took: true}, result, "nothing to wait for")
		require.Equal(t, 4, p.most, "calls in flight: as many as allowed and no more")
		require.Equal(t, 300*time.Millisecond, time.Since(begun), "ten calls, four at a time, a tenth of a second each")
		require.Len(t, p.calls, 10)
		require.Len(t, p.numbers(), 10_000)
	})
}

func TestSendTellsTheProviderAllItNeeds(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(2), &provider{}
		p.during = func(ctx context.Context, _ int) {
			lease := fanfare.LeaseFrom(ctx)
			require.Equal(t, fanfare.CallID("call-1"), lease.Call)
			require.NoError(t, lease.MayBegin())
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, lease.Deadline(), deadline)
			require.Equal(t, callWithin, time.Until(deadline))
		}
		_, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		call := p.calls[0]
		require.Equal(t, publicationID, call.Publication)
		require.Equal(t, fanfare.Email, call.Channel)
		require.Equal(t, fanfare.Message{Subject: "Writer One: A title"}, call.Message)
		for i, r := range call.Recipients {
			number := fanfare.SubscriberNumber(i + 1)
			require.Equal(t, number, r.Number)
			require.Equal(t, address(number), r.Address)
			token, found := strings.CutPrefix(r.Unsubscribe, "https://fanfare.example/unsubscribe/")
			require.True(t, found)
			link, err := fanfare.ParseUnsubscribeToken("secret", token)
			require.NoError(t, err)
			require.Equal(t, fanfare.UnsubscribeLink{Topic: 42, Number: number}, link)
			token, found = strings.CutPrefix(r.Preferences, "https://fanfare.example/preferences/")
			require.True(t, found)
			prefers, err := fanfare.ParsePreferencesToken("secret", token)
			require.NoError(t, err)
			require.Equal(t, fanfare.PreferencesLink{Topic: 42, Number: number}, prefers)
		}
		require.Equal(t, []settled{{call: "call-1", size: 2, result: fanfare.Result{Outcome: accepted.Outcome, ProviderID: "m-1"}}}, book.settled)
	})
}

func TestSendBeginsWithWhatIsDue(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(5), &provider{size: 2}
		book.claimed = 2
		book.recipients[1] = &recipient{state: fanfare.Pending, due: time.Now()}
		book.recipients[2] = &recipient{state: fanfare.Pending, due: time.Now().Add(time.Hour)}
		d := newDesk(t, book, p)
		d.CallsInFlight = 1
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, []fanfare.SubscriberNumber{1, 3, 4, 5}, p.numbers())
		require.Equal(t, fanfare.Totals{Intended: 5, Sent: 4, Pending: 1}, result.Tally.Totals, "number 2 waits")
		require.Equal(t, []string{"doubt lapsed", "claim due", "claim due", "claim new"}, book.asked()[:4])
	})
}

func TestAClaimThatTookTooLongIsReleased(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{}
		book.slowClaims = []time.Duration{beginWithin}
		d := newDesk(t, book, p)
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Empty(t, p.calls, "the first claim came too late to call, and was taken back")
		require.Equal(t, time.Second, result.Wait, "it is not tried again at once")
		require.Equal(t, "released: the claim took too long", result.Why)
		result, err = d.send(activities.SendInput{Failures: 1})
		require.NoError(t, err)
		require.Len(t, p.calls, 1)
		require.Equal(t, fanfare.CallID("call-2"), p.calls[0].ID)
		require.Equal(t, fanfare.OutcomeReleased, book.settled[0].result.Outcome.Kind)
		require.Equal(t, fanfare.OutcomeAccepted, book.settled[1].result.Outcome.Kind)
		require.EqualValues(t, 10, result.Tally.Totals.Sent)
	})
}

func TestALeaseCountsFromBeforeTheClaim(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{}
		book.slowClaims = []time.Duration{beginWithin - time.Millisecond}
		p.during = func(ctx context.Context, _ int) {
			deadline, _ := ctx.Deadline()
			require.Equal(t, callWithin-beginWithin+time.Millisecond, time.Until(deadline))
		}
		_, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, p.calls, 1)
	})
}

func TestAChunkOfNobodyIsPassedOver(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10_000), &provider{}
		book.skip = func(n fanfare.SubscriberNumber) bool { return n < 9_990 }
		result, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 10_000, Sent: 11, Skipped: 9_989}, result.Tally.Totals)
		require.Len(t, p.calls, 1)
	})
}

func TestNobodyIsClaimedWhilePaused(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{}
		book.state = fanfare.Paused
		result, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Paused, result.Tally.Publication)
		require.EqualValues(t, 10, result.Tally.Totals.Pending)
		require.Empty(t, p.calls)
		require.Zero(t, book.closes)
	})
}

// One recipient the provider refuses costs the others nothing.
func TestOneBadRecipientIsFoundByHalves(t *testing.T) {
	for _, bad := range []fanfare.SubscriberNumber{1, 500, 501, 777, 1000} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				book, p := newBatchBook(1000), &provider{}
				p.reply = func(call fanfare.Call) fanfare.Reply {
					refused := fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Code: "400"}, Split: true}
					for _, r := range call.Recipients {
						if r.Number == bad && len(call.Recipients) == 1 {
							return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "400"}}
						} else if r.Number == bad {
							return refused
						}
					}
					return accepted
				}
				result, err := newDesk(t, book, p).send(activities.SendInput{})
				require.NoError(t, err)
				require.Equal(t, fanfare.Totals{Intended: 1000, Sent: 999, Failed: 1}, result.Tally.Totals)
				require.Equal(t, fanfare.Failed, book.recipients[bad].state)
				require.LessOrEqual(t, len(p.calls), 1+2*10, "two for each halving of 1,000")
				require.Zero(t, result.Wait, "the provider is there")
				require.Equal(t, 1, p.most, "halves are tried in their call's place")
			})
		})
	}
}

func TestNamedRejectsFailAndTheOthersAreSentTo(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(1000), &provider{}
		p.reply = func(call fanfare.Call) fanfare.Reply {
			reply := fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Code: "400"}, Named: map[int]fanfare.Outcome{}}
			for i, r := range call.Recipients {
				if r.Number%100 == 7 {
					reply.Named[i] = fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "400", Detail: "no such mailbox"}
				}
			}
			if len(reply.Named) == 0 {
				return accepted
			}
			return reply
		}
		result, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 1000, Sent: 990, Failed: 10}, result.Tally.Totals)
		require.Len(t, p.calls, 2)
		require.Equal(t, fanfare.Failed, book.recipients[107].state)
		require.Equal(t, "no such mailbox", book.settled[0].result.Named[107].Detail)
	})
}

func TestAProviderThatIsAwayIsLeftAlone(t *testing.T) {
	for name, test := range map[string]struct {
		outcome  fanfare.Outcome
		failures int
		wait     time.Duration
	}{
		"throttled, and says how long":       {fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: 7 * time.Minute}, 2, 7 * time.Minute},
		"throttled, and does not":            {fanfare.Outcome{Kind: fanfare.OutcomeThrottled}, 0, time.Second},
		"unavailable":                        {fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}, 0, time.Second},
		"unavailable again":                  {fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}, 1, 3 * time.Second},
		"unavailable for long":               {fanfare.Outcome{Kind: fanfare.OutcomeUnavailable}, 99, 10 * time.Second},
		"unavailable, and says for how long": {fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, RetryAfter: time.Minute}, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				book, p := newBatchBook(10_000), &provider{}
				test.outcome.Detail = "come back later"
				p.reply = func(fanfare.Call) fanfare.Reply { return fanfare.Reply{Outcome: test.outcome} }
				result, err := newDesk(t, book, p).send(activities.SendInput{Failures: test.failures})
				require.NoError(t, err)
				require.Equal(t, test.wait, result.Wait)
				require.Equal(t, string(test.outcome.Kind)+": come back later", result.Why)
				require.Len(t, p.calls, 4, "the calls that were under way, and none behind them")
				require.Equal(t, fanfare.Totals{Intended: 10_000, Pending: 10_000}, result.Tally.Totals)
				for _, s := range book.settled {
					require.Equal(t, test.wait, s.result.Outcome.RetryAfter, "so long nobody claims them again")
				}
			})
		})
	}
}

func TestARefusedHalfWaitsWhenTheProviderGoesAway(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(1000), &provider{}
		p.reply = func(call fanfare.Call) fanfare.Reply {
			if len(call.Recipients) > 500 {
				return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased}, Split: true}
			}
			return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeThrottled, RetryAfter: time.Minute}}
		}
		result, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, p.calls, 2, "the whole, and the first half")
		require.Equal(t, time.Minute, result.Wait)
		require.EqualValues(t, 1000, result.Tally.Totals.Pending)
	})
}

func TestAmbiguousIsInDoubtAndNotTriedAgain(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(2000), &provider{}
		p.reply = func(call fanfare.Call) fanfare.Reply {
			if call.Recipients[0].Number == 1 {
				return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Code: "500"}}
			}
			return accepted
		}
		result, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, fanfare.Totals{Intended: 2000, Sent: 1000, InDoubt: 1000}, result.Tally.Totals)
		require.Len(t, p.calls, 2)
	})
}

func TestSettlingIsTriedWhileTheLedgerIsAway(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{}
		back := time.Now().Add(25 * time.Second)
		book.settleErr = func(int) error {
			if time.Now().Before(back) {
				return fmt.Errorf("settle call: PostgreSQL cannot be reached: %w", fanfare.ErrUnavailable)
			}
			return nil
		}
		d := newDesk(t, book, p)
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.EqualValues(t, 10, result.Tally.Totals.Sent)
		require.Len(t, p.calls, 1, "what was sent is not sent again")
		require.Len(t, book.settled, 1)
		require.WithinDuration(t, back, time.Now(), 2*time.Second, "soon after it is back")
		require.Less(t, book.settles, 25, "with growing pauses")
		require.Contains(t, d.logs.String(), "settle failed, trying again")
	})
}

func TestSettlingIsGivenUpWhenTheCallHasLapsed(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10_000), &provider{}
		away := errors.New("settle call: PostgreSQL cannot be reached")
		book.settleErr = func(int) error { return away }
		begun := time.Now()
		_, err := newDesk(t, book, p).send(activities.SendInput{})
		require.ErrorContains(t, err, away.Error())
		require.WithinRange(t, time.Now(), begun.Add(callWithin+9*time.Minute), begun.Add(callWithin+9*time.Minute+3*time.Second))
		require.LessOrEqual(t, len(p.calls), 4, "no call begins that could not be settled")
		require.Empty(t, book.settled)
	})
}

func TestAStoppingWorkerClaimsNothingAndSettles(t *testing.T) {
	// Which of two ready channels is taken first is up to chance: try often.
	for n := range 20 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				book, p := newBatchBook(100_000), &provider{takes: 2 * time.Second}
				d := newDesk(t, book, p)
				p.during = func(_ context.Context, n int) {
					if n == 6 {
						close(d.stop)
					}
				}
				result, err := d.send(activities.SendInput{})
				require.NoError(t, err)
				require.Equal(t, "the worker is stopping", result.Why)
				require.Zero(t, result.Wait, "another worker goes on at once")
				require.LessOrEqual(t, len(p.calls), 8, "those that had been claimed when it stopped")
				require.Zero(t, result.Tally.Totals.Sending, "calls under way are settled")
				require.EqualValues(t, 1000*len(p.calls), result.Tally.Totals.Sent)
			})
		})
	}
}

func TestACancelledActivityCutsNoCall(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(100_000), &provider{takes: 2 * time.Second}
		d := newDesk(t, book, p)
		p.during = func(ctx context.Context, n int) {
			if n == 4 {
				d.cancel()
			}
			<-time.After(time.Second)
			require.NoError(t, ctx.Err(), "a call under way goes on")
		}
		_, err := d.send(activities.SendInput{})
		require.NoError(t, err, "the fake ledger reads without a context")
		require.Len(t, p.calls, 4)
		require.Len(t, book.settled, len(p.calls))
		require.Zero(t, book.tally().Totals.Sending)
	})
}

// A claim that was asked for may have been won, whoever waits for the answer or not: cut, it
// would leave recipients in doubt of a call that never began.
func TestACancelledActivityCutsNoClaim(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10_000), &provider{}
		d := newDesk(t, book, p)
		d.Claimer = &impatient{book, d.cancel}
		_, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Zero(t, book.tally().Totals.Sending)
		require.Len(t, p.calls, 1)
		require.Len(t, book.settled, 1)
	})
}

// impatient plays a ledger whose caller is cancelled while it claims.
type impatient struct {
	*batchBook

	cancel context.CancelFunc
}

func (i *impatient) ClaimNew(ctx context.Context, ref fanfare.BatchRef, wanted fanfare.Wanted) (fanfare.Claim, error) {
	claim, err := i.batchBook.ClaimNew(ctx, ref, wanted)
	i.cancel()
	if ctx.Err() != nil {
		return fanfare.Claim{}, ctx.Err()
	}
	return claim, err
}

func TestAStoppingWorkerPassesNobodyOver(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10_000), &provider{size: 10}
		d := newDesk(t, book, p)
		book.skip = func(n fanfare.SubscriberNumber) bool {
			if n == 25 {
				close(d.stop)
			}
			return true
		}
		result, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.Equal(t, "the worker is stopping", result.Why)
		require.EqualValues(t, 30, result.Tally.Totals.Skipped, "the claim under way is the last")
	})
}

func TestAClaimThatFailsLeavesNoCallUnsettled(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10_000), &provider{}
		p.during = func(_ context.Context, n int) {
			if n == 2 {
				book.mu.Lock()
				defer book.mu.Unlock()
				book.claimErr = fmt.Errorf("claim %s: %w", theBatch.WorkflowID(), fanfare.ErrUnavailable)
			}
		}
		_, err := newDesk(t, book, p).send(activities.SendInput{})
		require.ErrorContains(t, err, fanfare.ErrUnavailable.Error())
		require.Zero(t, book.tally().Totals.Sending)
		require.EqualValues(t, 1000*len(p.calls), book.tally().Totals.Sent)
	})
}

func TestStoppedBatchIsClosed(t *testing.T) {
	for _, state := range []fanfare.PublicationState{fanfare.Cancelled, fanfare.Expired} {
		t.Run(string(state), func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				book, p := newBatchBook(25_000), &provider{}
				book.state, book.closeSteps = state, 3
				result, err := newDesk(t, book, p).send(activities.SendInput{})
				require.NoError(t, err)
				require.Equal(t, 3, book.closes, "until nobody is left")
				require.True(t, result.Tally.Done())
				require.EqualValues(t, 25_000, result.Tally.Totals.Skipped)
				require.Empty(t, p.calls)
			})
		})
	}
}

func TestAMessageThatCannotBeRenderedStopsTheBatch(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{}
		d := newDesk(t, book, p)
		d.Renderer = renderer{err: errors.New("render: no template")}
		_, err := d.send(activities.SendInput{})
		require.ErrorContains(t, err, "no template")
		require.NotContains(t, book.asked(), "claim new")
	})
}

func TestSendShowsThatItLives(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(1000), &provider{takes: 14 * time.Second}
		d := newDesk(t, book, p)
		beats := make(chan struct{}, 100)
		d.beats(beats)
		_, err := d.send(activities.SendInput{})
		require.NoError(t, err)
		require.NotEmpty(t, beats)
	})
}

func TestProblemsAreBounded(t *testing.T) {
	virtually(t, func(t *testing.T) {
		d := newDesk(t, newBatchBook(1), &provider{})
		problems, err := d.Problems(t.Context(), theBatch)
		require.NoError(t, err)
		require.EqualValues(t, 100, problems.Reasons["limit"])
	})
}

// What the provider answered is kept while the ledger is away, far longer than
// the call's lease: thrown away, it would be doubt about nothing.
func TestAKnownResultOutlivesItsLease(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{}
		back := time.Now().Add(5 * time.Minute)
		book.settleErr = func(int) error {
			if time.Now().Before(back) {
				return errors.New("PostgreSQL is away")
			}
			return nil
		}
		_, err := newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, book.settled, 1)

		// So is one that comes when the lease is over already.
		book, p = newBatchBook(1), &provider{takes: 31 * time.Second}
		_, err = newDesk(t, book, p).send(activities.SendInput{})
		require.NoError(t, err)
		require.Len(t, book.settled, 1)
		require.NotEmpty(t, book.settled[0].result.Evidence, "proof for whoever holds its recipients by now")
	})
}

func TestCallsThatAlwaysComeTooLateAreNotTriedAgainAtOnce(t *testing.T) {
	virtually(t, func(t *testing.T) {
		book, p := newBatchBook(10), &provider{takes: 10 * time.Millisecond}
		p.reply = func(fanfare.Call) fanfare.Reply {
			return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "connecting took too long"}}
		}
		result, err := newDesk(t, book, p).send(activities.SendInput{Failures: 2})
		require.NoError(t, err)
		require.Len(t, p.calls, 1)
		require.Equal(t, 10*time.Second, result.Wait)
		require.Equal(t, "released: connecting took too long", result.Why)
	})
}

func TestNoHalfIsTriedOnceTheWorkerStops(t *testing.T) {
	for _, how := range []string{"stopped", "cancelled"} {
		t.Run(how, func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				book, p := newBatchBook(1000), &provider{}
				d := newDesk(t, book, p)
				p.reply = func(fanfare.Call) fanfare.Reply {
					if how == "stopped" {
						close(d.stop)
					} else {
						d.cancel()
					}
					return fanfare.Reply{Split: true, Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased}}
				}
				_, _ = d.send(activities.SendInput{})
				require.Len(t, p.calls, 1)
				require.Len(t, book.settled, 1)
			})
		})
	}
}
