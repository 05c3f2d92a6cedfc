package sendgrid

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sendgrid/sendgrid-go/helpers/mail"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
)

func benchSender(tb testing.TB) *Sender {
	tb.Helper()
	s, err := New(Config{APIKey: "SG.key", From: "The Slow Coast <news@blog.example>"}, &http.Client{})
	require.NoError(tb, err)
	return s
}

func callOf(n int) fanfare.Call {
	call := fanfare.Call{
		ID:          "0198c5a0-9a51-7cc3-98c4-1c0c0c0739aa",
		Publication: "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f",
		Channel:     fanfare.Email,
		Message: fanfare.Message{
			Subject: "Why the tide tables were wrong",
			HTML:    strings.Repeat("<p>Nobody noticed.</p>", 150) + `<a href="` + fanfare.UnsubscribeTag + `">Unsubscribe</a><a href="` + fanfare.PreferencesTag + `">Preferences</a>`,
			Text:    strings.Repeat("Nobody noticed.\n", 60) + fanfare.UnsubscribeTag + "\n" + fanfare.PreferencesTag,
		},
	}
	for i := range n {
		call.Recipients = append(call.Recipients, fanfare.Recipient{
			Number:      fanfare.SubscriberNumber(i + 1),
			Address:     fmt.Sprintf("reader-%06d@readers.example", i),
			Unsubscribe: fmt.Sprintf("https://blog.example/unsubscribe/AQID4mT0kq1cVbX9Jz2wQw%06d", i),
			Preferences: fmt.Sprintf("https://blog.example/preferences/AQIDw0kq1cVbX4mT9Jz2wQ%06d", i),
		})
	}
	return call
}

// viaSDK is encode as the SDK has it done. It is the yardstick of both the result
// and the speed.
func (s *Sender) viaSDK(call fanfare.Call) ([]byte, error) {
	m := s.shared(call)
	for _, to := range call.Recipients {
		p := mail.NewPersonalization()
		p.AddTos(mail.NewEmail("", to.Address))
		p.SetHeader("List-Unsubscribe", "<"+to.Unsubscribe+">")
		p.SetHeader("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
		p.SetSubstitution(fanfare.UnsubscribeTag, to.Unsubscribe)
		p.SetSubstitution(fanfare.PreferencesTag, to.Preferences)
		p.SetCustomArg("call", string(call.ID))
		p.SetCustomArg("delivery", fanfare.DeliveryID{Publication: call.Publication, Channel: call.Channel, Number: to.Number}.String())
		m.AddPersonalizations(p)
	}
	return json.Marshal(m)
}

func TestEncodeAsTheSDKDoes(t *testing.T) {
	t.Parallel()
	call := callOf(8)
	for i, address := range []string{`"quoted \ part"@x.example`, "ñandú@x.example", "<a&b>@x.example", "tab\t\r\n\x00@x.example", "bad\xffutf8@x.example", "", "\u2028@x.example", "~}|{@x.example"} {
		call.Recipients[i].Address = address
	}
	call.Message.Subject = "\"quotes\", <tags> & \u2028 emoji 🌊"
	s := benchSender(t)
	ours, err := s.encode(call)
	require.NoError(t, err)
	theirs, err := s.viaSDK(call)
	require.NoError(t, err)
	var a, b any
	require.NoError(t, json.Unmarshal(ours, &a))
	require.NoError(t, json.Unmarshal(theirs, &b))
	// An empty address is there and empty, where the SDK leaves it out: then
	// SendGrid names it.
	b.(map[string]any)["personalizations"].([]any)[5].(map[string]any)["to"] = []any{map[string]any{"email": ""}}
	require.Empty(t, cmp.Diff(b, a))
}

// A message in which no preferences link stands carries none, and needs none.
func TestEncodeWithoutAPreferencesLink(t *testing.T) {
	t.Parallel()
	call := callOf(2)
	s := benchSender(t)
	call.Recipients[1].Preferences = "javascript:alert(1)"
	_, err := s.encode(call)
	require.ErrorIs(t, err, errLink)

	call.Message.HTML = strings.ReplaceAll(call.Message.HTML, fanfare.PreferencesTag, "")
	_, err = s.encode(call)
	require.ErrorIs(t, err, errLink, "it stands in the text")
	call.Message.Text = strings.ReplaceAll(call.Message.Text, fanfare.PreferencesTag, "")
	body, err := s.encode(call)
	require.NoError(t, err)
	require.NotContains(t, string(body), "preferences")
	require.Contains(t, string(body), `"substitutions":{"[%fanfare_unsubscribe%]":"https://blog.example/unsubscribe/AQID4mT0kq1cVbX9Jz2wQw000001"}`)
}

func BenchmarkEncode(b *testing.B) {
	s, call := benchSender(b), callOf(maxRecipients)
	for name, encode := range map[string]func(fanfare.Call) ([]byte, error){"ours": s.encode, "sdk": s.viaSDK} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var size int
			for b.Loop() {
				body, err := encode(call)
				if err != nil {
					b.Fatal(err)
				}
				size = len(body)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*maxRecipients), "ns/recipient")
			b.ReportMetric(float64(size)/maxRecipients, "B/recipient")
		})
	}
}
