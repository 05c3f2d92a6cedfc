package bench

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/fcm"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
	"github.com/fanfare-dev/fanfare/providers/twilio"
)

type sender interface {
	Send(ctx context.Context, call fanfare.Call) fanfare.Reply
}

func TestSinkCountsWhoeverIsSentToTwice(t *testing.T) {
	t.Parallel()
	for channel, dial := range map[fanfare.Channel]func(at string) (sender, error){
		fanfare.Email: func(at string) (sender, error) {
			return sendgrid.New(sendgrid.Config{APIKey: "SG.bench", From: "bench@fanfare.example", BaseURL: at}, http.DefaultClient)
		},
		fanfare.SMS: func(at string) (sender, error) {
			return twilio.New(twilio.Config{AccountSID: twilioAccount, AuthToken: "bench", From: twilioFrom, BaseURL: at, PublicURL: "https://blog.example"}, http.DefaultClient)
		},
		fanfare.Push: func(at string) (sender, error) {
			return fcm.New(context.Background(), fcm.Config{ProjectID: "bench-project", BaseURL: at}, http.DefaultClient)
		},
	} {
		t.Run(string(channel), func(t *testing.T) {
			t.Parallel()
			const highest = 130
			s, err := newSink(highest)
			require.NoError(t, err)
			t.Cleanup(s.close)
			to, err := dial(s.URL)
			require.NoError(t, err)
			for _, number := range []fanfare.SubscriberNumber{1, 2, 64, 2, highest, 65, highest} {
				reply := to.Send(t.Context(), callTo(channel, number))
				require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
			}
			require.EqualValues(t, 7, s.recipients.Load())
			require.EqualValues(t, 2, s.twice.Load())
			require.Positive(t, s.first.Load())
		})
	}
}

func callTo(channel fanfare.Channel, number fanfare.SubscriberNumber) fanfare.Call {
	return fanfare.Call{
		ID: "0190b5a3-0000-7000-8000-00000000000a", Publication: "0190b5a3-0000-7000-8000-000000000001", Channel: channel,
		Message: fanfare.Message{Subject: "A measured article", Text: "What it is about.", HTML: "<p>What it is about.</p>", URL: "https://blog.example/a"},
		Recipients: []fanfare.Recipient{{
			Number: number, Address: map[fanfare.Channel]string{fanfare.Email: "reader@mail.example", fanfare.SMS: "+34612345678"}[channel],
			Unsubscribe: "https://blog.example/unsubscribe/a", Preferences: "https://blog.example/preferences/a",
			Devices: []fanfare.Device{{Token: strings.Repeat("0", 160), Platform: "android"}},
		}},
	}
}
