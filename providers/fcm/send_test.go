package fcm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/fcm"
)

const (
	project                           = "slow-coast-1a2b3"
	callID      fanfare.CallID        = "0198c5a0-9a51-7cc3-98c4-1c0c0c0739aa"
	publication fanfare.PublicationID = "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f"
)

// token is one device's, in the form of FCM's.
func token(i int) string {
	return fmt.Sprintf("fWq1device%03d:APA91bHPRgkF3JUikC4ENAHEeMrd41Zxv3hVZjC9KtT8OvPVGJ", i)
}

// call goes to as many devices as there are platforms.
func call(platforms ...string) fanfare.Call {
	c := fanfare.Call{
		ID: callID, Publication: publication, Channel: fanfare.Push,
		Message: fanfare.Message{
			Subject: "Why the tide tables were wrong",
			Text:    "The Slow Coast & <you>\nTwo harbours had one clock and a minute that nobody had counted",
			URL:     "https://blog.example/tides?a=1&b=2",
		},
		Recipients: []fanfare.Recipient{{Number: 42}},
		Expires:    time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), // FCM keeps nothing so long
	}
	for i, platform := range platforms {
		c.Recipients[0].Devices = append(c.Recipients[0].Devices, fanfare.Device{Token: token(i), Platform: platform})
	}
	return c
}

// taken is FCM's answer to a message it takes, refusal that to one it does not. code is
// that of FCM itself, which errors of Google's front do not have.
func taken(id string) string {
	return fmt.Sprintf(`{"name": "projects/%s/messages/0:%s"}`, project, id)
}

func refusal(status int, state, code, message string, fields ...string) string {
	details := []any{}
	if len(fields) > 0 {
		violations := []any{}
		for _, field := range fields {
			violations = append(violations, map[string]any{"field": field, "description": message})
		}
		details = append(details, map[string]any{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations})
	}
	if code != "" {
		details = append(details, map[string]any{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
	}
	body, err := json.Marshal(map[string]any{"error": map[string]any{"code": status, "message": message, "status": state, "details": details}})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// request is the part of a request that a stand-in looks at.
type request struct {
	Message struct {
		Token string `json:"token"`
	} `json:"message"`
}

// provider is an FCM that counts, and answers by the device that a message is for.
func provider(t *testing.T, answer func(w http.ResponseWriter, device string)) (*fcm.Sender, *atomic.Int64) {
	t.Helper()
	requests := &atomic.Int64{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		var got request
		if json.NewDecoder(r.Body).Decode(&got) != nil {
			panic(http.ErrAbortHandler)
		}
		answer(w, got.Message.Token)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.Start()
	t.Cleanup(server.Close)
	return sender(t, server.URL), requests
}

func sender(t *testing.T, base string) *fcm.Sender {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	s, err := fcm.New(t.Context(), fcm.Config{ProjectID: project, BaseURL: base}, &http.Client{Transport: fanfare.GatedTransport{Base: transport}})
	require.NoError(t, err)
	return s
}

func leased(t *testing.T) (context.Context, *fanfare.Lease) {
	t.Helper()
	lease := fanfare.NewLease(callID, time.Now(), time.Hour, time.Hour)
	return fanfare.WithLease(t.Context(), lease), lease
}

func say(status int, body string) func(http.ResponseWriter, string) {
	return func(w http.ResponseWriter, _ string) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestNewNamesEveryBadSetting(t *testing.T) {
	t.Parallel()
	_, err := fcm.New(t.Context(), fcm.Config{BaseURL: "https://fcm.googleapis.com?x=1"}, http.DefaultClient)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	for _, setting := range []string{"FCM_PROJECT_ID", "FCM_BASE_URL", "GOOGLE_APPLICATION_CREDENTIALS"} {
		require.ErrorContains(t, err, setting)
	}
	for name, bad := range map[string]fcm.Config{
		"a path for a project":   {ProjectID: "a/b", BaseURL: "http://127.0.0.1:8025"},
		"a number for a project": {ProjectID: "", BaseURL: "http://127.0.0.1:8025"},
		"a space":                {ProjectID: "my blog", BaseURL: "http://127.0.0.1:8025"},
		"a host for a base":      {ProjectID: project, BaseURL: "127.0.0.1:8025"},
		"another scheme":         {ProjectID: project, BaseURL: "ftp://127.0.0.1"},
		"nobody at Google":       {ProjectID: project},
		"nobody at Google's own": {ProjectID: project, BaseURL: "https://fcm.googleapis.com/"},
		"no file":                {ProjectID: project, CredentialsFile: t.TempDir() + "/none.json"},
		"no JSON":                {ProjectID: project, CredentialsFile: written(t, "secret")},
		"no key":                 {ProjectID: project, CredentialsFile: written(t, `{"private_key": "secret"}`)},
		"an unknown key":         {ProjectID: project, CredentialsFile: written(t, `{"type": "secret"}`)},
	} {
		_, err := fcm.New(t.Context(), bad, http.DefaultClient)
		var invalid *fanfare.InvalidError
		require.ErrorAs(t, err, &invalid, name)
		require.Len(t, invalid.Violations, 1, name)
		require.NotContains(t, err.Error(), "secret", name)
	}
	_, err = fcm.New(t.Context(), fcm.Config{Name: "fcm-2"}, http.DefaultClient)
	require.ErrorContains(t, err, "FCM_2_PROJECT_ID")
	s, err := fcm.New(t.Context(), fcm.Config{Name: "fcm-2", ProjectID: "example.com:blog", BaseURL: "http://127.0.0.1:8025/fcm/"}, http.DefaultClient)
	require.NoError(t, err)
	require.Equal(t, "fcm-2", s.Name())
	require.Equal(t, 1, s.MaxRecipients())
}

// What an answer means for one device. Whatever it is, there is one request: the SDK
// would make five of many of these.
func TestSendAnswers(t *testing.T) {
	t.Parallel()
	const date = "Fri, 20 Nov 2026 10:00:00 GMT"
	invalid := func(code string, fields ...string) string {
		return refusal(400, "INVALID_ARGUMENT", code, "Request contains an invalid argument "+token(0), fields...)
	}
	for name, tc := range map[string]struct {
		status  int
		header  map[string]string
		body    string
		want    fanfare.OutcomeKind
		code    string
		wait    time.Duration // for everyone
		own     time.Duration // for this message alone
		account bool
		dead    bool
		says    string
	}{
		"accepted":                   {status: 200, body: taken("1"), want: fanfare.OutcomeAccepted},
		"accepted, without a name":   {status: 200, body: `{}`, want: fanfare.OutcomeAmbiguous},
		"accepted, not JSON":         {status: 200, body: "<html>", want: fanfare.OutcomeAmbiguous},
		"accepted, nothing":          {status: 204, want: fanfare.OutcomeAmbiguous},
		"accepted, beyond all sense": {status: 200, body: `{"name": "` + strings.Repeat("x", 1<<20) + `"}`, want: fanfare.OutcomeAmbiguous},

		"unregistered":              {status: 404, body: refusal(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found."), want: fanfare.OutcomeRejected, code: "UNREGISTERED", dead: true, says: "not registered"},
		"no such token":             {status: 400, body: refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"), want: fanfare.OutcomeRejected, code: "INVALID_ARGUMENT", dead: true, says: "token"},
		"no such token, by field":   {status: 400, body: invalid("INVALID_ARGUMENT", "message.token"), want: fanfare.OutcomeRejected, code: "INVALID_ARGUMENT", dead: true, says: "token"},
		"no such token, by front":   {status: 400, body: invalid("", "message.token"), want: fanfare.OutcomeRejected, dead: true},
		"too big, says FCM":         {status: 400, body: refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Android message is too big"), want: fanfare.OutcomeRejected, code: "INVALID_ARGUMENT"},
		"another field":             {status: 400, body: invalid("INVALID_ARGUMENT", "message.android.ttl"), want: fanfare.OutcomeRejected, code: "INVALID_ARGUMENT", says: "for message.android.ttl"},
		"our payload":               {status: 400, body: invalid("", "message.data[0].value", "message.webpush.fcm_options.link"), want: fanfare.OutcomeRejected, says: "for message.data[0].value, message.webpush.fcm_options.link"},
		"our payload and the token": {status: 400, body: invalid("INVALID_ARGUMENT", "message.token", "message.data[0].value"), want: fanfare.OutcomeRejected, code: "INVALID_ARGUMENT"},
		"content for a field":       {status: 400, body: invalid("", "message. "+token(0)), want: fanfare.OutcomeRejected, says: "refuses the message"},
		"a page for a refusal":      {status: 400, body: "<html>" + token(0), want: fanfare.OutcomeRejected},
		"a token, says a front":     {status: 400, body: refusal(400, "INVALID_ARGUMENT", "", "The registration token is odd"), want: fanfare.OutcomeRejected},
		"another 4xx":               {status: 413, want: fanfare.OutcomeRejected},
		"another project's token":   {status: 403, body: refusal(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"), want: fanfare.OutcomeRejected, code: "SENDER_ID_MISMATCH", says: "FCM_PROJECT_ID"},

		"sign-in":              {status: 401, body: refusal(401, "UNAUTHENTICATED", "", "x"), want: fanfare.OutcomeUnavailable, account: true, says: "GOOGLE_APPLICATION_CREDENTIALS"},
		"permission":           {status: 403, body: refusal(403, "PERMISSION_DENIED", "", "x"), want: fanfare.OutcomeUnavailable, account: true, says: "role"},
		"no such project":      {status: 404, body: refusal(404, "NOT_FOUND", "", "x"), want: fanfare.OutcomeUnavailable, account: true, says: "FCM_PROJECT_ID"},
		"not FCM":              {status: 404, body: "404 page not found", want: fanfare.OutcomeUnavailable, account: true, says: "FCM_BASE_URL"},
		"another method":       {status: 405, want: fanfare.OutcomeUnavailable, account: true},
		"moved":                {status: 307, header: map[string]string{"Location": "/v1"}, want: fanfare.OutcomeUnavailable, account: true, says: "FCM_BASE_URL"},
		"moved, and nonsense":  {status: 302, header: map[string]string{"Location": "http://[::1"}, want: fanfare.OutcomeUnavailable, account: true},
		"moved, and no place":  {status: 301, want: fanfare.OutcomeUnavailable, account: true},
		"not changed":          {status: 304, want: fanfare.OutcomeUnavailable, account: true},
		"throttled":            {status: 429, body: refusal(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "x"), want: fanfare.OutcomeThrottled, code: "QUOTA_EXCEEDED", wait: time.Minute},
		"throttled by a front": {status: 429, header: map[string]string{"Retry-After": "7"}, want: fanfare.OutcomeThrottled, wait: 7 * time.Second},
		"throttled, at once":   {status: 429, header: map[string]string{"Retry-After": "0"}, want: fanfare.OutcomeThrottled, wait: time.Second},
		"throttled, a date":    {status: 429, header: map[string]string{"Date": date, "Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT"}, want: fanfare.OutcomeThrottled, wait: 30 * time.Second},
		"throttled, for ever":  {status: 429, header: map[string]string{"Retry-After": "4294967295"}, want: fanfare.OutcomeThrottled, wait: 24 * time.Hour},
		"throttled, nonsense":  {status: 429, header: map[string]string{"Retry-After": "soon"}, want: fanfare.OutcomeThrottled, wait: time.Minute},
		"away":                 {status: 503, body: refusal(503, "UNAVAILABLE", "UNAVAILABLE", "x"), want: fanfare.OutcomeUnavailable, code: "UNAVAILABLE", own: 10 * time.Second},
		"away for a time":      {status: 503, header: map[string]string{"Retry-After": "0"}, want: fanfare.OutcomeUnavailable, wait: time.Second},
		"away for long":        {status: 503, header: map[string]string{"Retry-After": "300"}, want: fanfare.OutcomeUnavailable, wait: 5 * time.Minute},
		"failed":               {status: 500, body: refusal(500, "INTERNAL", "INTERNAL", "x"), want: fanfare.OutcomeAmbiguous, code: "INTERNAL"},
		"failed, says away":    {status: 500, body: refusal(500, "UNAVAILABLE", "UNAVAILABLE", "x"), want: fanfare.OutcomeAmbiguous, code: "UNAVAILABLE"},
		"bad gateway":          {status: 502, body: "<html>", want: fanfare.OutcomeAmbiguous},
		"gateway time-out":     {status: 504, want: fanfare.OutcomeAmbiguous},
		"request time-out":     {status: 408, want: fanfare.OutcomeAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, requests := provider(t, func(w http.ResponseWriter, _ string) {
				for name, value := range tc.header {
					w.Header().Set(name, value)
				}
				say(tc.status, tc.body)(w, "")
			})
			ctx, _ := leased(t)
			reply := s.Send(ctx, call("android"))
			require.EqualValues(t, 1, requests.Load())
			out := reply.Outcome
			require.Equal(t, tc.want, out.Kind, out.Detail)
			if tc.code == "" {
				tc.code = fmt.Sprint(tc.status)
			}
			require.Equal(t, tc.code, out.Code)
			require.Equal(t, tc.wait, out.RetryAfter)
			if out.RetryAfter == 0 {
				require.Equal(t, tc.own, reply.Wait)
			}
			require.Equal(t, tc.account, out.Account)
			require.Contains(t, out.Detail, tc.says)
			require.NotContains(t, out.Detail+out.Code, token(0))
			require.Less(t, len(out.Detail), 256)
			var suppress []fanfare.Refused
			if tc.dead {
				suppress = []fanfare.Refused{{Address: token(0), Reason: fanfare.SuppressedDeadToken}}
			}
			require.Equal(t, suppress, reply.Suppress)
			require.Equal(t, []fanfare.DeviceResult{{Device: piece(0), Platform: "android", Outcome: tc.want, Code: tc.code, ProviderID: reply.ProviderID}}, reply.Devices)
		})
	}
}

// piece is what a device is called in records.
func piece(i int) string {
	return []string{"fab648fd675d", "aea62ca640d2", "3cc71f24fc46", "849c650435c3"}[i]
}

// A refusal that breaks off is a refusal, but nobody is given up for it; an acceptance
// that does is none.
func TestSendAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]fanfare.OutcomeKind{
		200: fanfare.OutcomeAmbiguous, 400: fanfare.OutcomeUnavailable, 404: fanfare.OutcomeUnavailable, 401: fanfare.OutcomeUnavailable,
		429: fanfare.OutcomeThrottled, 503: fanfare.OutcomeUnavailable, 500: fanfare.OutcomeAmbiguous,
	} {
		s, requests := provider(t, func(w http.ResponseWriter, _ string) {
			w.Header().Set("Content-Length", "100")
			say(status, `{"name": "projects/`)(w, "")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		ctx, _ := leased(t)
		reply := s.Send(ctx, call("android"))
		require.Equal(t, want, reply.Outcome.Kind, status)
		require.False(t, reply.Outcome.Account, status)
		require.Empty(t, reply.Suppress, status)
		require.EqualValues(t, 1, requests.Load(), status)
	}
}

// The request as FCM sees it is in testdata/request.txt, which the conformance suite
// keeps. Here is what changes with the call.
func TestSendRequest(t *testing.T) {
	t.Parallel()
	type message struct {
		Message struct {
			Data    map[string]string `json:"data"`
			Android struct {
				TTL         string `json:"ttl"`
				CollapseKey string `json:"collapse_key"`
			} `json:"android"`
			APNS struct {
				Headers map[string]string `json:"headers"`
			} `json:"apns"`
			Webpush struct {
				Headers map[string]string `json:"headers"`
				Options struct {
					Link string `json:"link"`
				} `json:"fcm_options"`
			} `json:"webpush"`
		} `json:"message"`
	}
	sent := func(t *testing.T, c fanfare.Call) message {
		t.Helper()
		got := make(chan message, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var m message
			if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
				t.Error(err)
			}
			got <- m
			_, _ = io.WriteString(w, taken("1"))
		}))
		t.Cleanup(server.Close)
		ctx, lease := leased(t)
		reply := sender(t, server.URL).Send(ctx, c)
		require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, reply.Outcome.Detail)
		require.Equal(t, "0:1", reply.ProviderID)
		require.True(t, lease.Written())
		return <-got
	}
	t.Run("links", func(t *testing.T) {
		t.Parallel()
		for link, web := range map[string]string{
			"https://blog.example/1": "https://blog.example/1", "http://blog.example/1": "", "https:///1": "", "blog://open/1": "", "not a link": "", "": "",
		} {
			c := call("web")
			c.Message.URL = link
			m := sent(t, c)
			require.Equal(t, link, m.Message.Data["url"])
			require.Equal(t, web, m.Message.Webpush.Options.Link)
		}
	})
	t.Run("time", func(t *testing.T) {
		t.Parallel()
		for _, left := range []time.Duration{time.Hour, 27 * 24 * time.Hour} {
			c := call("android")
			c.Expires = time.Now().Add(left)
			m := sent(t, c)
			ttl, err := time.ParseDuration(m.Message.Android.TTL)
			require.NoError(t, err)
			require.InDelta(t, left.Seconds(), ttl.Seconds(), 30)
			require.Equal(t, fmt.Sprint(int64(ttl.Seconds())), m.Message.Webpush.Headers["TTL"])
			require.Equal(t, fmt.Sprint(c.Expires.Unix()), m.Message.APNS.Headers["apns-expiration"])
		}
		c := call("android")
		c.Expires = time.Now().Add(900 * time.Millisecond)
		require.Equal(t, "0s", sent(t, c).Message.Android.TTL, "now or never")
		c.Expires = time.Time{}
		require.Equal(t, "2419200s", sent(t, c).Message.Android.TTL)
	})
	t.Run("the longest id", func(t *testing.T) {
		t.Parallel()
		c := call("ios")
		c.Recipients[0].Number = 1<<63 - 1
		m := sent(t, c)
		id := m.Message.APNS.Headers["apns-collapse-id"]
		require.Equal(t, string(publication)+".push.9223372036854775807", id)
		require.LessOrEqual(t, len(id), 64, "Apple takes no more")
		require.Equal(t, id, m.Message.Android.CollapseKey)
	})
}

func TestSendNothing(t *testing.T) {
	t.Parallel()
	expired, nobody, long := call("android"), call(), call("android", "ios")
	expired.Expires = time.Now().Add(-time.Second)
	long.Message.Text = strings.Repeat("ñ", 2048)
	for name, tc := range map[string]struct {
		call fanfare.Call
		want fanfare.OutcomeKind
		code string
		says string
	}{
		"expired":  {expired, fanfare.OutcomeReleased, "", "expired"},
		"nobody":   {nobody, fanfare.OutcomeRejected, "no_device", "device"},
		"too long": {long, fanfare.OutcomeRejected, "payload_too_large", "FCM carries 4096"},
	} {
		s, requests := provider(t, say(200, taken("1")))
		ctx, lease := leased(t)
		reply := s.Send(ctx, tc.call)
		require.Equal(t, tc.want, reply.Outcome.Kind, name)
		require.Equal(t, tc.code, reply.Outcome.Code, name)
		require.Contains(t, reply.Outcome.Detail, tc.says, name)
		require.Empty(t, reply.Suppress, name)
		require.Zero(t, requests.Load(), name)
		require.False(t, lease.Written(), name)
		if name == "too long" {
			require.Len(t, reply.Devices, 2)
			require.Equal(t, "payload_too_large", reply.Devices[1].Code)
		}
	}
}

// What fits exactly is sent, and the escapes of JSON are not counted.
func TestSendThePayloadThatFits(t *testing.T) {
	t.Parallel()
	s, requests := provider(t, alive)
	c := call("android")
	c.Message.URL = ""
	payload, err := json.Marshal(map[string]any{
		"notification": map[string]string{"title": c.Message.Subject, "body": ""},
		"data":         map[string]string{"call": string(callID), "delivery": string(publication) + ".push.42"},
	})
	require.NoError(t, err)
	c.Message.Text = strings.Repeat("&", 4096-len(payload))
	ctx, _ := leased(t)
	require.Equal(t, fanfare.OutcomeAccepted, s.Send(ctx, c).Outcome.Kind)
	c.Message.Text += "&"
	require.Equal(t, "payload_too_large", s.Send(ctx, c).Outcome.Code)
	require.EqualValues(t, 1, requests.Load())
}

func awayFor90(w http.ResponseWriter, device string) {
	w.Header().Set("Retry-After", "90")
	away(w, device)
}

// devices answers each device in its own way.
func devices(answers ...func(http.ResponseWriter, string)) func(http.ResponseWriter, string) {
	return func(w http.ResponseWriter, device string) {
		for i, answer := range answers {
			if device == token(i) {
				answer(w, device)
				return
			}
		}
		panic("a device of nobody")
	}
}

var (
	alive     = say(200, taken("1"))
	alive2    = say(200, taken("2"))
	gone      = say(404, refusal(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found."))
	stranger  = say(403, refusal(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"))
	busy      = say(429, refusal(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded"))
	away      = say(503, refusal(503, "UNAVAILABLE", "UNAVAILABLE", "Try again"))
	failed    = say(500, refusal(500, "INTERNAL", "INTERNAL", "Internal error"))
	forbidden = say(403, refusal(403, "PERMISSION_DENIED", "", "x"))
	appleOnly = say(401, refusal(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", "Auth error from APNS"))
)

func TestSendToSeveralDevices(t *testing.T) {
	t.Parallel()
	type answer = func(http.ResponseWriter, string)
	for name, tc := range map[string]struct {
		answers []answer
		want    fanfare.Outcome // without its detail
		id      string
		dead    []int
	}{
		"one dead, one alive":                  {[]answer{gone, alive}, fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "200"}, "0:1", []int{0}},
		"all alive":                            {[]answer{alive2, alive, alive}, fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "200"}, "0:2", nil},
		"all dead":                             {[]answer{gone, gone, gone}, fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "UNREGISTERED"}, "", []int{0, 1, 2}},
		"dead, and another project's":          {[]answer{stranger, gone}, fanfare.Outcome{Kind: fanfare.OutcomeRejected, Code: "SENDER_ID_MISMATCH"}, "", []int{1}},
		"one took it, one in doubt":            {[]answer{failed, alive}, fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "200"}, "0:1", nil},
		"one took it, one at Apple":            {[]answer{appleOnly, alive}, fanfare.Outcome{Kind: fanfare.OutcomeAccepted, Code: "200"}, "0:1", nil},
		"in doubt, whatever the others":        {[]answer{busy, failed, gone, away}, fanfare.Outcome{Kind: fanfare.OutcomeAmbiguous, Code: "INTERNAL"}, "", []int{2}},
		"the longest wait, of throttling":      {[]answer{away, gone, busy}, fanfare.Outcome{Kind: fanfare.OutcomeThrottled, Code: "QUOTA_EXCEEDED", RetryAfter: time.Minute}, "", []int{1}},
		"the longest wait, of absence":         {[]answer{busy, awayFor90}, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "UNAVAILABLE", RetryAfter: 90 * time.Second}, "", nil},
		"an account's fault before a wait":     {[]answer{busy, forbidden}, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "403", Account: true}, "", nil},
		"a wait for everyone before one's own": {[]answer{appleOnly, away}, fanfare.Outcome{Kind: fanfare.OutcomeUnavailable, Code: "UNAVAILABLE"}, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, requests := provider(t, devices(tc.answers...))
			ctx, _ := leased(t)
			reply := s.Send(ctx, call([]string{"android", "ios", "web", "android"}[:len(tc.answers)]...))
			require.EqualValues(t, len(tc.answers), requests.Load(), "one for each device")
			require.Equal(t, tc.want.Kind != fanfare.OutcomeAccepted, reply.Outcome.Detail != "")
			reply.Outcome.Detail = ""
			require.Equal(t, tc.want, reply.Outcome)
			require.Equal(t, tc.id, reply.ProviderID)
			var suppress []fanfare.Refused
			for _, i := range tc.dead {
				suppress = append(suppress, fanfare.Refused{Address: token(i), Reason: fanfare.SuppressedDeadToken})
			}
			require.Equal(t, suppress, reply.Suppress)
			require.Len(t, reply.Devices, len(tc.answers))
			require.NotContains(t, fmt.Sprintf("%+v", reply.Devices), "APA91b")
		})
	}
}

// A project without Apple's key, or with one that has run out, is no fault that Android
// phones should wait for: the recipient waits alone, as for a full mailbox.
func TestSendKeepsAppleKeyToThoseWhoNeedIt(t *testing.T) {
	t.Parallel()
	for _, answers := range [][]func(http.ResponseWriter, string){{appleOnly}, {appleOnly, appleOnly}, {gone, appleOnly}} {
		s, requests := provider(t, devices(answers...))
		ctx, _ := leased(t)
		reply := s.Send(ctx, call([]string{"ios", "ios"}[:len(answers)]...))
		require.EqualValues(t, len(answers), requests.Load())
		require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind, "nobody else is to wait")
		require.False(t, reply.Outcome.Account)
		require.Len(t, reply.Named, 1)
		own := reply.Named[0]
		require.Contains(t, own.Detail, "upload a valid one")
		own.Detail = ""
		require.Equal(t, fanfare.Outcome{Kind: fanfare.OutcomeThrottled, Code: "THIRD_PARTY_AUTH_ERROR"}, own)
		last := len(answers) - 1
		require.Equal(t, fanfare.OutcomeThrottled, reply.Devices[last].Outcome)
	}
}

// FCM bounds what one device gets as well as what a project sends, and says both by the
// same code. Who has had too much waits alone.
func TestSendKeepsADevicesQuotaToItsOwner(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		own  bool
	}{
		"in its words":   {refusal(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Device message rate exceeded."), true},
		"in its details": {`{"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"subject": "device:1", "description": "Device message rate exceeded"}]}]}}`, true},
		"the project's":  {refusal(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service 'fcm.googleapis.com' for consumer 'project_number:1'."), false},
		"nobody's":       {"<html>", false},
	} {
		s, _ := provider(t, say(429, tc.body))
		ctx, _ := leased(t)
		reply := s.Send(ctx, call("android"))
		out := reply.Outcome
		if tc.own {
			require.Equal(t, fanfare.OutcomeReleased, out.Kind, name)
			require.Zero(t, out.RetryAfter, name)
			out = reply.Named[0]
		}
		require.Equal(t, fanfare.OutcomeThrottled, out.Kind, name)
		require.Equal(t, time.Minute, out.RetryAfter, name)
	}
}

func TestSendTellsEachDevice(t *testing.T) {
	t.Parallel()
	s, _ := provider(t, devices(gone, alive, failed))
	ctx, _ := leased(t)
	reply := s.Send(ctx, call("android", "ios", ""))
	require.Empty(t, cmp.Diff([]fanfare.DeviceResult{
		{Device: piece(0), Platform: "android", Outcome: fanfare.OutcomeRejected, Code: "UNREGISTERED"},
		{Device: piece(1), Platform: "ios", Outcome: fanfare.OutcomeAccepted, Code: "200", ProviderID: "0:1"},
		{Device: piece(2), Outcome: fanfare.OutcomeAmbiguous, Code: "INTERNAL"},
	}, reply.Devices))
}

// Devices do not wait for each other.
func TestSendToAllAtOnce(t *testing.T) {
	t.Parallel()
	var together sync.WaitGroup
	together.Add(3)
	s, _ := provider(t, func(w http.ResponseWriter, device string) {
		together.Done()
		together.Wait() // until all are here
		alive(w, device)
	})
	ctx, _ := leased(t)
	require.Equal(t, fanfare.OutcomeAccepted, s.Send(ctx, call("android", "ios", "web")).Outcome.Kind)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// breaks is a network that breaks before a device's request is written, or after. The
// former break last.
func breaks(err error, requests *atomic.Int64, after map[string]bool) http.RoundTripper {
	var writing sync.WaitGroup
	for _, is := range after {
		if is {
			writing.Add(1)
		}
	}
	gated := fanfare.GatedTransport{Base: roundTrip(func(r *http.Request) (*http.Response, error) {
		requests.Add(1)
		if after[r.Header.Get("Device")] {
			defer writing.Done()
			_, _ = io.Copy(io.Discard, r.Body)
		} else {
			writing.Wait()
		}
		return nil, err
	})}
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		var got request
		if err := json.NewDecoder(body).Decode(&got); err != nil {
			return nil, err
		}
		r.Header.Set("Device", got.Message.Token)
		return gated.RoundTrip(r)
	})
}

// Whether a request was written is each one's own affair: a device that was never asked
// is not in doubt because another is.
func TestSendCutBeforeAndAfter(t *testing.T) {
	t.Parallel()
	reset := errors.New(`read tcp 127.0.0.1:1: connection reset by "` + token(0) + `" peer`)
	for name, tc := range map[string]struct {
		after []bool // for each device
		want  fanfare.OutcomeKind
		each  []fanfare.OutcomeKind
	}{
		"before":     {[]bool{false}, fanfare.OutcomeUnavailable, []fanfare.OutcomeKind{fanfare.OutcomeUnavailable}},
		"after":      {[]bool{true}, fanfare.OutcomeAmbiguous, []fanfare.OutcomeKind{fanfare.OutcomeAmbiguous}},
		"one of two": {[]bool{false, true}, fanfare.OutcomeAmbiguous, []fanfare.OutcomeKind{fanfare.OutcomeUnavailable, fanfare.OutcomeAmbiguous}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			after := map[string]bool{}
			for i, is := range tc.after {
				after[token(i)] = is
			}
			s, err := fcm.New(t.Context(), fcm.Config{ProjectID: project, BaseURL: "http://fcm.example"}, &http.Client{Transport: breaks(reset, &requests, after)})
			require.NoError(t, err)
			ctx, lease := leased(t)
			reply := s.Send(ctx, call([]string{"android", "ios"}[:len(tc.after)]...))
			require.EqualValues(t, len(tc.after), requests.Load())
			require.Equal(t, tc.want, reply.Outcome.Kind)
			require.NotContains(t, reply.Outcome.Detail, token(0))
			require.Equal(t, tc.want == fanfare.OutcomeAmbiguous, lease.Written())
			for i, want := range tc.each {
				require.Equal(t, want, reply.Devices[i].Outcome)
			}
		})
	}
}

// Without a lease nobody knows what was written.
func TestSendWithoutALeaseAssumesTheWorst(t *testing.T) {
	t.Parallel()
	require.Equal(t, fanfare.OutcomeAmbiguous, sender(t, "http://127.0.0.1:1").Send(t.Context(), call("android")).Outcome.Kind)
}

func TestSendTooLate(t *testing.T) {
	t.Parallel()
	s, requests := provider(t, alive)
	lease := fanfare.NewLease(callID, time.Now().Add(-time.Minute), time.Second, time.Hour)
	reply := s.Send(fanfare.WithLease(t.Context(), lease), call("android", "ios"))
	require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind)
	require.Equal(t, fanfare.OutcomeReleased, reply.Devices[1].Outcome)
	require.Zero(t, requests.Load())
}

func TestSendDoesNotPrintTokens(t *testing.T) {
	t.Parallel()
	s := sender(t, "http://127.0.0.1:1")
	ctx, _ := leased(t)
	reply := s.Send(ctx, call("android"))
	require.Equal(t, fanfare.OutcomeUnavailable, reply.Outcome.Kind)
	require.NotContains(t, fmt.Sprintf("%+v %+v", *s, reply), "APA91b")
}

// What is no id of FCM's is none: it is kept and shown, and a character that PostgreSQL does
// not take would keep the call from being settled.
func TestSendTakesNoOddMessageID(t *testing.T) {
	t.Parallel()
	for odd, want := range map[string]string{
		"0:1500415314455276%31bd1c9631bd1c96": "0:1500415314455276%31bd1c9631bd1c96", "projects/p/messages/a-B_1": "a-B_1",
		"x\u0000y": "", token(0) + " is fine": "", strings.Repeat("x", 201): "",
	} {
		body, err := json.Marshal(map[string]string{"name": odd})
		require.NoError(t, err)
		s, _ := provider(t, say(http.StatusOK, string(body)))
		ctx, _ := leased(t)
		reply := s.Send(ctx, call("ios"))
		require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, "%q", odd)
		require.Equal(t, want, reply.ProviderID, "%q", odd)
		require.Equal(t, want, reply.Devices[0].ProviderID, "%q", odd)
	}
}
