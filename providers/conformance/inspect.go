package conformance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

const (
	// maxDetail and maxCode bound what is kept of a call, in bytes: a sentence and a word.
	maxDetail = 300
	maxCode   = 64
	// maxWait is the longest that anybody may be asked to wait: a publication's day.
	maxWait = 24 * time.Hour
	// quoted is how many bytes of a message in a row are no accident any more.
	quoted = 20
)

// inspect holds a reply to what is true of every reply.
func (s Subject) inspect(tb testing.TB, call fanfare.Call, reply fanfare.Reply) {
	tb.Helper()
	whole := reply.Outcome
	inspectOutcome(tb, whole)
	require.Contains(tb, []fanfare.OutcomeKind{
		fanfare.OutcomeAccepted, fanfare.OutcomeRejected, fanfare.OutcomeThrottled,
		fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous, fanfare.OutcomeReleased,
	}, whole.Kind)
	if reply.Split {
		require.Equal(tb, fanfare.OutcomeReleased, whole.Kind, "only a refused call can be tried by halves")
		require.Greater(tb, len(call.Recipients), 1, "one recipient has no halves")
		require.Empty(tb, reply.Named, "halves are for those who are not named")
	}
	for place, own := range reply.Named {
		require.True(tb, 0 <= place && place < len(call.Recipients), "place %d of %d is named", place, len(call.Recipients))
		require.Contains(tb, []fanfare.OutcomeKind{fanfare.OutcomeRejected, fanfare.OutcomeThrottled}, own.Kind)
		require.False(tb, own.Account, "an account's fault is nobody's own")
		inspectOutcome(tb, own)
	}
	if whole.Kind != fanfare.OutcomeAccepted {
		require.Empty(tb, reply.ProviderID, "what was not accepted has no id")
	}
	for _, refused := range reply.Suppress {
		place := slices.IndexFunc(call.Recipients, func(to fanfare.Recipient) bool { return slices.Contains(addresses(to), refused.Address) })
		require.GreaterOrEqual(tb, place, 0, "an address is to be suppressed that is not in the call")
		require.NotEmpty(tb, refused.Reason)
		require.NotContains(tb, []fanfare.OutcomeKind{fanfare.OutcomeAccepted, fanfare.OutcomeThrottled}, of(reply, place).Kind, "an address is to be suppressed that may yet be good")
	}
	for i := range reply.Devices {
		require.Regexp(tb, `^[0-9a-f]{12}$`, reply.Devices[i].Device, "a device is told by a piece of its token's hash")
	}
	reply.Suppress = nil // is of addresses; the ledger hashes them
	s.keepsQuiet(tb, call, fmt.Sprintf("%+v", reply))
}

func inspectOutcome(tb testing.TB, o fanfare.Outcome) {
	tb.Helper()
	accepted := o.Kind == fanfare.OutcomeAccepted
	require.Equal(tb, accepted, o.Detail == "", "whatever is not accepted says why: %q", o.Detail)
	require.LessOrEqual(tb, len(o.Detail), maxDetail)
	require.LessOrEqual(tb, len(o.Code), maxCode)
	require.NotRegexp(tb, `[\x00-\x1f]`, o.Detail+o.Code, "more than one line")
	if o.Account {
		require.Equal(tb, fanfare.OutcomeUnavailable, o.Kind, "an account's fault costs nobody an attempt")
	}
	require.True(tb, 0 <= o.RetryAfter && o.RetryAfter <= maxWait, "to be tried again after %s", o.RetryAfter)
	if o.Kind != fanfare.OutcomeThrottled && o.Kind != fanfare.OutcomeUnavailable {
		require.Zero(tb, o.RetryAfter, "only what is throttled or not available has a time")
	}
}

// keepsQuiet asserts that a text holds nothing of whom a call was for and what it
// said.
func (s Subject) keepsQuiet(tb testing.TB, call fanfare.Call, text string) {
	tb.Helper()
	lower := strings.ToLower(text)
	for _, to := range call.Recipients {
		for _, personal := range append(addresses(to), to.Unsubscribe, to.Preferences) {
			require.False(tb, personal != "" && strings.Contains(lower, strings.ToLower(personal)), "the address, a token or a link of recipient %d is told", to.Number)
		}
	}
	for _, secret := range s.Secrets {
		require.NotContains(tb, text, secret, "a secret is told")
	}
	for _, content := range []string{call.Message.Subject, call.Message.Text, call.Message.HTML} {
		require.False(tb, content != "" && strings.Contains(text, content), "the message is told")
		for i := 0; i+quoted <= len(text); i++ {
			require.NotContains(tb, content, text[i:i+quoted], "a part of the message is told")
		}
	}
}

// gossip is what a provider may say of a call: to whom it went and what it held, whole
// and in part.
func gossip(call fanfare.Call) string {
	to := call.Recipients[0]
	said := append(addresses(to), strings.ToUpper(addresses(to)[0]), to.Unsubscribe, call.Message.Subject, part(call.Message.Text))
	return strings.Join(slices.DeleteFunc(said, func(s string) bool { return s == "" }), " and ")
}

// part is from the middle of a line that means the same in every format.
func part(text string) string {
	for line := range strings.Lines(text) {
		if len(line) > 2*quoted && !strings.ContainsAny(line, "\"\\<>&%") {
			return line[5 : 5+quoted+5]
		}
	}
	return ""
}
