package fcm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"firebase.google.com/go/v4/messaging"

	"github.com/fanfare-dev/fanfare"
)

// Send makes one request for each device of the call's recipient, all at once and each
// once, and says what they came to. ctx carries the lease of the call
// (fanfare.WithLease) and ends with it.
func (s *Sender) Send(ctx context.Context, call fanfare.Call) fanfare.Reply {
	if len(call.Recipients) != 1 {
		return fanfare.Reply{Split: true, Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "more recipients than FCM takes in one request"}}
	}
	devices := call.Recipients[0].Devices
	if len(devices) == 0 {
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "no_device", Detail: "the recipient has no device"}}
	}
	now := time.Now()
	expires := call.Expires
	if expires.IsZero() {
		expires = now.Add(maxTTL)
	}
	if !expires.After(now) {
		return fanfare.Reply{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeReleased, Detail: "the message has expired"}}
	}
	message := compose(call, now, expires)
	ends := make([]end, len(devices))
	if size := payloadSize(message); size > maxPayload {
		tooLarge := end{Outcome: fanfare.Outcome{
			Kind: fanfare.OutcomeRejected, Code: "payload_too_large",
			Detail: fmt.Sprintf("title, text and link are %d bytes, and FCM carries %d: shorten the text", size, maxPayload),
		}}
		ends = slices.Repeat([]end{tooLarge}, len(devices))
		return together(devices, ends)
	}
	var requests sync.WaitGroup
	for i, device := range devices {
		requests.Go(func() { ends[i] = s.sendTo(ctx, device.Token, *message) })
	}
	requests.Wait()
	return together(devices, ends)
}

// sendTo makes one request. Each has a lease of its own: another's must not put this one
// in doubt.
func (s *Sender) sendTo(ctx context.Context, token string, message messaging.Message) end {
	lease := fanfare.LeaseFrom(ctx)
	if lease != nil {
		lease = lease.Part()
		ctx = fanfare.WithLease(ctx, lease)
	}
	message.Token = token
	got := &answer{}
	var signIn signInError
	id, err := s.client.Send(noting(ctx, got), &message)
	switch {
	case !got.asked:
		// Its words may quote the message. It will say the same again.
		return end{Outcome: fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "invalid_message", Detail: "FCM's SDK does not take the message"}}
	case errors.As(got.err, &signIn):
		return end{Outcome: signIn.outcome()}
	case got.err != nil:
		return end{Outcome: fanfare.Unanswered(lease, "FCM", got.err)}
	}
	return s.judge(got, id, err)
}

// together makes one reply of what became of each device.
func together(devices []fanfare.Device, ends []end) fanfare.Reply {
	reply := fanfare.Reply{Devices: make([]fanfare.DeviceResult, len(devices))}
	var decisive end
	for i, e := range ends {
		hash := sha256.Sum256([]byte(devices[i].Token))
		reply.Devices[i] = fanfare.DeviceResult{
			Device: hex.EncodeToString(hash[:6]), Platform: devices[i].Platform,
			Outcome: e.Kind, Code: e.Code, ProviderID: e.id,
		}
		if e.dead {
			reply.Suppress = append(reply.Suppress, fanfare.Refused{Address: devices[i].Token, Reason: fanfare.SuppressedDeadToken})
		}
		if i == 0 || e.decides(decisive) {
			decisive = e
		}
	}
	reply.Outcome, reply.ProviderID, reply.Wait = decisive.Outcome, decisive.id, decisive.wait
	if decisive.own {
		reply.Named = map[int]fanfare.Outcome{0: decisive.Outcome}
		reply.Outcome.Kind, reply.Outcome.RetryAfter = fanfare.OutcomeReleased, 0
	}
	return reply
}

// weight is how much one device's end says about the whole call.
var weight = map[fanfare.OutcomeKind]int{
	fanfare.OutcomeAccepted:    4, // the recipient has it
	fanfare.OutcomeAmbiguous:   3, // or may have it
	fanfare.OutcomeThrottled:   2, // or can have it later
	fanfare.OutcomeUnavailable: 2,
	fanfare.OutcomeReleased:    1, // or was not asked for
	fanfare.OutcomeRejected:    0,
}

// decides says whether this end counts for more than those before it came to. Among
// waits it is the longest of those that are for everyone; an account's fault goes before,
// since a person has to see it.
func (e end) decides(sofar end) bool {
	if a, b := weight[e.Kind], weight[sofar.Kind]; a != b {
		return a > b
	}
	if e.own != sofar.own {
		return sofar.own
	}
	if e.Account != sofar.Account {
		return e.Account
	}
	return e.RetryAfter > sofar.RetryAfter
}
