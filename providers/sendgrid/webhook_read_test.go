package sendgrid

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

// Whatever is signed: nothing panics, one bad entry is one entry, and nothing that
// could be personal is anywhere but in the address. It begins behind the signature,
// whose check takes four times as long as reading an event. To look for more, add
// -fuzzminimizetime=1x: maps have no order, so coverage differs from run to run, and
// without it the first input is minimised until the time is up.
func FuzzEvents(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("testdata", "events.json"))
	require.NoError(f, err)
	f.Add(golden)
	for line := range strings.Lines(string(golden)) {
		f.Add([]byte("[" + strings.Trim(line, "[],\r\n") + "]"))
	}
	f.Add([]byte(`[null,1,[],{"event":"dropped","timestamp":1,"reason":"invalid","\ud800":{"a":[1e400]},"email":"\ud83d"}]`))
	f.Add([]byte(strings.Repeat("[", 100) + "\xff"))
	types := []fanfare.EventType{
		fanfare.EventProcessed, fanfare.EventDeferred, fanfare.EventDelivered, fanfare.EventBounced, fanfare.EventDropped,
		fanfare.EventOpened, fanfare.EventClicked, fanfare.EventComplained, fanfare.EventUnsubscribed, fanfare.EventResubscribed,
	}
	code, id := regexp.MustCompile(`^([a-z_]*|[245](\.\d{1,3}){2})$`), regexp.MustCompile(`^[A-Za-z0-9_=-]{0,100}$`)
	w := &Webhook{name: "sendgrid"}
	f.Fuzz(func(t *testing.T, body []byte) {
		events, err := w.read(body)
		if err != nil {
			require.ErrorIs(t, err, fanfare.ErrInvalid)
			require.Equal(t, "read a post of sendgrid: the body is not a JSON array: invalid", err.Error())
			return
		}
		var entries []json.RawMessage
		require.NoError(t, json.Unmarshal(body, &entries))
		require.LessOrEqual(t, len(events), len(entries))
		for _, e := range events {
			require.Equal(t, "sendgrid", e.Provider)
			require.True(t, slices.Contains(types, e.Type))
			require.True(t, e.At.After(time.Unix(0, 0)) && e.At.Year() < 10000)
			require.True(t, e.Delivery == fanfare.DeliveryID{} || fanfare.ValidPublicationID(string(e.Delivery.Publication)) && e.Delivery.Channel.Valid() && e.Delivery.Number > 0)
			require.True(t, e.Call == "" || fanfare.ValidCallID(string(e.Call)))
			require.Regexp(t, code, e.Code)
			require.Regexp(t, id, e.ProviderID)
			require.NotZero(t, e.Digest)
		}
		again, err := w.read(body)
		require.NoError(t, err)
		require.Equal(t, events, again)
	})
}
