package twilio_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/twilio"
)

const (
	public   = "https://fanfare.example"
	delivery = string(publication) + ".sms.7"
	// reported is where Twilio reports on the message of call().
	reported = "/webhooks/twilio?delivery=" + delivery + "&call=" + string(callID)
	// answered is where Twilio sends what people answer.
	answered = "/webhooks/twilio"
)

var posted = time.Date(2026, 11, 20, 11, 30, 0, 0, time.FixedZone("CET", 3600))

// sign is Twilio's side: HMAC-SHA1 over the address and the sorted form.
func sign(address string, form url.Values, key string) http.Header {
	mac := hmac.New(sha1.New, []byte(key))
	mac.Write([]byte(address))
	for _, name := range slices.Sorted(maps.Keys(form)) {
		mac.Write([]byte(name + form.Get(name)))
	}
	return signature(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func signature(text string) http.Header {
	return http.Header{"X-Twilio-Signature": {text}}
}

func webhook(t testing.TB) *twilio.Webhook {
	t.Helper()
	w, err := twilio.NewWebhook("twilio", token, public)
	require.NoError(t, err)
	return w
}

// read reads a form that is signed.
func read(t testing.TB, uri string, form url.Values) []fanfare.ProviderEvent {
	t.Helper()
	events, err := webhook(t).Events(uri, sign(public+uri, form, token), []byte(form.Encode()), posted)
	require.NoError(t, err)
	return events
}

// form is one of Twilio's with edits, of which an empty one takes a field away.
func form(fields, edits map[string]string) url.Values {
	f := url.Values{}
	for name, value := range fields {
		f.Set(name, value)
	}
	for name, value := range edits {
		if f.Set(name, value); value == "" {
			f.Del(name)
		}
	}
	return f
}

func callback(edits map[string]string) url.Values {
	return form(map[string]string{
		"SmsSid": sid, "SmsStatus": "delivered", "MessageStatus": "delivered", "To": theirs, "MessageSid": sid,
		"AccountSid": account, "From": ours, "ApiVersion": "2010-04-01", "RawDlrDoneDate": "2611201030",
	}, edits)
}

func incoming(edits map[string]string) url.Values {
	return form(map[string]string{
		"ToCountry": "ES", "SmsMessageSid": sid, "NumMedia": "0", "SmsSid": sid, "SmsStatus": "received", "FromCountry": "ES",
		"Body": "STOP", "To": ours, "NumSegments": "1", "MessageSid": sid, "AccountSid": account, "From": theirs, "ApiVersion": "2010-04-01",
	}, edits)
}

func TestEventsOfStatuses(t *testing.T) {
	t.Parallel()
	id := fanfare.DeliveryID{Publication: publication, Channel: fanfare.SMS, Number: 7}
	for status, want := range map[string]fanfare.EventType{
		"accepted": fanfare.EventProcessed, "queued": fanfare.EventProcessed, "sending": fanfare.EventProcessed, "sent": fanfare.EventProcessed,
		"delivered": fanfare.EventDelivered, "read": fanfare.EventDelivered, "undelivered": fanfare.EventBounced, "failed": fanfare.EventBounced,
	} {
		events := read(t, reported, callback(map[string]string{"MessageStatus": status}))
		require.Len(t, events, 1, status)
		require.NotZero(t, events[0].Digest)
		events[0].Digest = [32]byte{}
		number := theirs
		if want == fanfare.EventBounced { // without a code that says something of it
			number = ""
		}
		require.Equal(t, fanfare.ProviderEvent{
			Provider: "twilio", Type: want, At: posted.UTC(), Delivery: id, Call: callID, ProviderID: sid, Address: number,
		}, events[0], status)
		require.True(t, want.Proves())
	}
	for _, status := range []string{"scheduled", "canceled", "partially_delivered", "receiving", "received", "Delivered", "moon"} {
		require.Empty(t, read(t, reported, callback(map[string]string{"MessageStatus": status})), status)
	}
}

// Only a code that says that the number is bad is about the number.
func TestEventsOfFailures(t *testing.T) {
	t.Parallel()
	for code, permanent := range map[string]bool{
		"30001": false, "30002": false, "30003": false, "30004": false, "30005": true, "30006": true, "30007": false, "30008": false, "30034": false,
		"30450": false, "21211": true, "21614": true, "21408": false, "29999": false,
	} {
		for _, status := range []string{"undelivered", "failed"} {
			events := read(t, reported, callback(map[string]string{"MessageStatus": status, "ErrorCode": code, "ErrorMessage": "to " + theirs}))
			require.Len(t, events, 1, code)
			require.Equal(t, fanfare.EventBounced, events[0].Type)
			require.Equal(t, code, events[0].Code)
			require.Equal(t, permanent, events[0].Permanent, code)
		}
		events := read(t, reported, callback(map[string]string{"ErrorCode": code}))
		require.Empty(t, events[0].Code, "only who failed has a code")
		require.False(t, events[0].Permanent)
	}
	for _, odd := range []string{"", "0", "3000", "300055", " 30005", "-3000", theirs, "thirty"} {
		events := read(t, reported, callback(map[string]string{"MessageStatus": "failed", "ErrorCode": odd}))
		require.Len(t, events, 1, odd)
		require.Empty(t, events[0].Code, odd)
		require.False(t, events[0].Permanent, odd)
	}
}

// What is ours, the carrier's judgement of us, or not known here is not held against the
// number: three of it would suppress everybody who was written to while an account was
// suspended, or in a country that wants senders to be registered from now on.
func TestEventsOfOurOwnFaultsNameNoNumber(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"30001": "", "30002": "", "30007": "", "30034": "", "30450": "", "30610": "", "20003": "", "21617": "",
		"30017": "", "30023": "", "30032": "", "30036": "", "29999": "", "": "", "thirty": "",
		"30003": theirs, "30004": theirs, "30005": theirs, "30006": theirs, "30008": theirs, "21211": theirs,
	} {
		events := read(t, reported, callback(map[string]string{"MessageStatus": "undelivered", "ErrorCode": code}))
		require.Len(t, events, 1, code)
		require.Equal(t, want, events[0].Address, code)
	}
}

// Who has stopped may start again. A bounce for good could not be taken back so.
func TestEventsOfWhoHadStopped(t *testing.T) {
	t.Parallel()
	stopped := map[string]string{"MessageStatus": "failed", "ErrorCode": "21610"}
	events := read(t, reported, callback(stopped))
	require.Len(t, events, 2)
	require.Equal(t, fanfare.EventBounced, events[0].Type)
	require.False(t, events[0].Permanent)
	require.Empty(t, events[0].Address)
	require.Equal(t, "21610", events[0].Code)
	require.Equal(t, callID, events[0].Call)
	require.NotEqual(t, events[0].Digest, events[1].Digest)
	events[1].Digest = [32]byte{}
	require.Equal(t, fanfare.ProviderEvent{Provider: "twilio", Type: fanfare.EventUnsubscribed, At: posted.UTC(), Address: theirs, Channel: fanfare.SMS}, events[1])
	stopped["To"] = "whatsapp:" + theirs
	require.Len(t, read(t, reported, callback(stopped)), 1)
}

func TestEventsOfAnswers(t *testing.T) {
	t.Parallel()
	stop, start := fanfare.EventUnsubscribed, fanfare.EventResubscribed
	for word, want := range map[string]fanfare.EventType{
		"STOP": stop, "stop": stop, " Stop\r\n": stop, "STOPALL": stop, "UNSUBSCRIBE": stop, "CANCEL": stop, "END": stop, "QUIT": stop, "REVOKE": stop, "OPTOUT": stop,
		"START": start, "Yes": start, "UNSTOP": start,
		"HELP": "", "INFO": "", "": "", "STOP it": "", "please stop": "", "STOP.": "", "NO": "", "stopp": "",
	} {
		events := read(t, answered, incoming(map[string]string{"Body": word}))
		if want == "" {
			require.Empty(t, events, "%q", word)
			continue
		}
		require.Len(t, events, 1, "%q", word)
		require.NotZero(t, events[0].Digest)
		events[0].Digest = [32]byte{}
		require.Equal(t, fanfare.ProviderEvent{Provider: "twilio", Type: want, At: posted.UTC(), Address: theirs, Channel: fanfare.SMS}, events[0], "%q", word)
		require.False(t, want.Proves())
	}
	// What Twilio makes of it counts, in whatever language it was said.
	for _, word := range []string{"BAJA", "START", "STOP"} {
		for what, want := range map[string]fanfare.EventType{"STOP": stop, "START": start, "HELP": "", "moon": ""} {
			events := read(t, answered, incoming(map[string]string{"Body": word, "OptOutType": what}))
			if want == "" {
				require.Empty(t, events, what)
				continue
			}
			require.Equal(t, want, events[0].Type, what)
		}
	}
}

// A field that is there and says nothing keeps nobody from leaving.
func TestEventsOfAnswersThatTwilioMakesNothingOf(t *testing.T) {
	t.Parallel()
	f := incoming(nil)
	f.Set("OptOutType", "")
	events := read(t, answered, f)
	require.Len(t, events, 1)
	require.Equal(t, fanfare.EventUnsubscribed, events[0].Type)
}

// An answer is about a number and no message of ours, wherever it is sent to.
func TestEventsOfAnswersNameNoDelivery(t *testing.T) {
	t.Parallel()
	events := read(t, reported, incoming(nil))
	require.Len(t, events, 1)
	require.Zero(t, events[0].Delivery)
	require.Empty(t, events[0].Call)
}

func TestEventsThatMeanNothing(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]url.Values{
		"nothing":             {},
		"another form":        {"CallSid": {"CA1"}, "CallStatus": {"completed"}},
		"status of none":      callback(map[string]string{"MessageSid": ""}),
		"status of an odd id": callback(map[string]string{"MessageSid": theirs}),
		"no status":           {"MessageSid": {sid}, "MessageStatus": {""}},
		"answer of none":      incoming(map[string]string{"MessageSid": ""}),
		"answer of nobody":    incoming(map[string]string{"From": ""}),
		"answer of elsewhere": incoming(map[string]string{"From": "whatsapp:" + theirs}),
	} {
		require.Empty(t, read(t, reported, f), name)
	}
}

func TestEventIdsThatAreNotOurs(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{
		"/webhooks/twilio", "/webhooks/twilio?", "/webhooks/twilio?delivery=&call=", "/webhooks/twilio?delivery=order-4711&call=7",
		"/webhooks/twilio?delivery=" + strings.ToUpper(delivery) + "&call=" + strings.ToUpper(string(callID)),
		"/webhooks/twilio?delivery=" + string(publication) + ".fax.1&call=" + string(callID) + "0",
		"/webhooks/twilio?Delivery=" + delivery + "&Call=" + string(callID), "/webhooks/twilio?delivery=" + delivery + ";call=" + string(callID),
	} {
		events := read(t, uri, callback(map[string]string{"To": "whatsapp:" + theirs}))
		require.Len(t, events, 1, uri)
		require.NotZero(t, events[0].Digest)
		events[0].Digest = [32]byte{}
		require.Equal(t, fanfare.ProviderEvent{Provider: "twilio", Type: fanfare.EventDelivered, At: posted.UTC(), ProviderID: sid}, events[0], uri)
	}
}

// An event that comes again is known by its message and its state, whatever else it
// says and wherever it is sent.
func TestEventDigest(t *testing.T) {
	t.Parallel()
	digest := func(uri string, f url.Values) [32]byte {
		events := read(t, uri, f)
		require.Len(t, events, 1)
		return events[0].Digest
	}
	failed := map[string]string{"MessageStatus": "failed", "ErrorCode": "30003"}
	require.Equal(t, digest(reported, callback(nil)), digest(answered, callback(map[string]string{"RawDlrDoneDate": "2611201031", "SmsStatus": "sent", "To": ""})))
	require.Equal(t, digest(reported, callback(failed)), digest(reported, callback(map[string]string{"MessageStatus": "failed", "ErrorCode": "30003", "ErrorMessage": "x"})))
	require.Equal(t, digest(answered, incoming(nil)), digest(answered, incoming(map[string]string{"Body": "stop ", "OptOutType": "STOP"})))
	seen := map[[32]byte]bool{}
	for _, f := range []url.Values{
		callback(nil), callback(failed), callback(map[string]string{"MessageStatus": "failed", "ErrorCode": "30005"}), callback(map[string]string{"MessageStatus": "sent"}),
		callback(map[string]string{"MessageSid": sid + "0"}), incoming(nil), incoming(map[string]string{"Body": "START"}), incoming(map[string]string{"MessageSid": sid + "0"}),
	} {
		d := digest(reported, f)
		require.False(t, seen[d], f.Encode())
		seen[d] = true
	}
}

// A signature that Twilio's own libraries are tested with.
func TestEventsSignedByTwilio(t *testing.T) {
	t.Parallel()
	const (
		uri  = "/myapp.php?foo=1&bar=2"
		body = "Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309&ReasonConferenceEnded=test&Reason=Participant"
	)
	good := signature("vOEb5UThFn24KEfnOFLQY2AE5FY=")
	w, err := twilio.NewWebhook("twilio", "12345", "https://mycompany.com/")
	require.NoError(t, err)
	events, err := w.Events(uri, good, []byte(body), posted)
	require.NoError(t, err)
	require.Empty(t, events, "it is about a call")
	for _, changed := range []struct{ uri, body string }{
		{uri + "&", body},
		{"/myapp.php?bar=2&foo=1", body},
		{"/myapp.php", body},
		{"", body},
		{uri, body + "&x=1"},
		{uri, strings.Replace(body, "1234", "1235", 1)},
		{uri, ""},
		{uri, "%"},
	} {
		_, err := w.Events(changed.uri, good, []byte(changed.body), posted)
		require.ErrorIs(t, err, fanfare.ErrBadSignature, changed)
	}
	for _, elsewhere := range []string{"http://mycompany.com", "https://mycompany.example", "https://mycompany.com/myapp.php"} {
		w, err := twilio.NewWebhook("twilio", "12345", elsewhere)
		require.NoError(t, err)
		_, err = w.Events(uri, good, []byte(body), posted)
		require.ErrorIs(t, err, fanfare.ErrBadSignature, elsewhere)
	}
}

func TestEventsThatAreNotSigned(t *testing.T) {
	t.Parallel()
	f := callback(nil)
	good := sign(public+reported, f, token)
	for name, tc := range map[string]struct {
		uri    string
		header http.Header
		form   url.Values
	}{
		"nothing":          {reported, http.Header{}, f},
		"empty":            {reported, signature(""), f},
		"another token":    {reported, sign(public+reported, f, token+"0"), f},
		"without a token":  {reported, sign(public+reported, f, ""), f},
		"another form":     {reported, good, callback(map[string]string{"MessageStatus": "failed"})},
		"another delivery": {strings.Replace(reported, ".sms.7", ".sms.8", 1), good, f},
		"another account":  {strings.Replace(reported, "/twilio?", "/twilio-2?", 1), good, f},
		"no query":         {answered, good, f},
		"not base64":       {reported, signature("!"), f},
	} {
		events, err := webhook(t).Events(tc.uri, tc.header, []byte(tc.form.Encode()), posted)
		require.ErrorIs(t, err, fanfare.ErrBadSignature, name)
		require.ErrorContains(t, err, "twilio", name)
		impersonal(t, err.Error())
		require.Empty(t, events, name)
	}
}

// A proxy may listen at another port than the one that Twilio is told.
func TestEventsKnowThePathBeforeAProxy(t *testing.T) {
	t.Parallel()
	w, err := twilio.NewWebhook("twilio-2", token, "https://proxy.example:8443/fanfare/")
	require.NoError(t, err)
	f := callback(nil)
	for _, at := range []string{"https://proxy.example:8443/fanfare", "https://proxy.example/fanfare"} {
		events, err := w.Events(reported, sign(at+reported, f, token), []byte(f.Encode()), posted)
		require.NoError(t, err, at)
		require.Equal(t, "twilio-2", events[0].Provider)
	}
}

func TestNewWebhookNamesEveryBadSetting(t *testing.T) {
	t.Parallel()
	_, err := twilio.NewWebhook("twilio-2", "secret token", "fanfare.example")
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Len(t, invalid.Violations, 2)
	require.ErrorContains(t, err, "TWILIO_2_AUTH_TOKEN")
	require.ErrorContains(t, err, "FANFARE_PUBLIC_URL")
	require.NotContains(t, err.Error(), "secret")
	w := webhook(t)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", w, *w, *w), token)
}

// What nobody signed is refused, and nothing about it panics.
func FuzzSignatures(f *testing.F) {
	w := webhook(f)
	f.Add(reported, "", []byte(callback(nil).Encode()))
	f.Add("?bodySHA256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "x", []byte{})
	f.Add("://%zz:", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=", []byte("=&==&%"))
	f.Fuzz(func(t *testing.T, uri, text string, body []byte) {
		_, err := w.Events(uri, signature(text), body, posted)
		require.ErrorIs(t, err, fanfare.ErrBadSignature)
	})
}
