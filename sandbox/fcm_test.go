package sandbox_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/sandbox"
)

// pushTo is a message that FCM accepts.
func pushTo(token, delivery string) object {
	return object{
		"token":        token,
		"notification": object{"title": "A new article", "body": "Read it"},
		"data":         object{"delivery": delivery, "url": "https://blog.example/a"},
		"android":      object{"collapse_key": delivery, "priority": "high", "ttl": "3600s", "notification": object{"tag": delivery}},
		"apns": object{
			"headers": object{"apns-collapse-id": delivery, "apns-priority": "10", "apns-expiration": "1795000000"},
			"payload": object{"aps": object{"alert": object{"title": "A new article", "body": "Read it"}}},
		},
		"webpush": object{"headers": object{"TTL": "3600"}, "notification": object{"tag": delivery}},
	}
}

// fcmError is FCM's error answer.
type fcmError struct {
	Error struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []struct {
			Type       string `json:"@type"`
			ErrorCode  string `json:"errorCode"`
			Violations []struct {
				Field       string `json:"field"`
				Description string `json:"description"`
			} `json:"fieldViolations"`
		} `json:"details"`
	} `json:"error"`
}

func (s *server) push(m object) answer {
	s.t.Helper()
	return s.call(http.MethodPost, "/v1/projects/blog/messages:send", object{"message": m})
}

func TestPushIsAccepted(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	a := s.push(pushTo("token-1", "pub.push.1"))
	require.Equal(t, http.StatusOK, a.status, string(a.body))
	var name struct {
		Name string `json:"name"`
	}
	a.into(t, &name)
	require.Regexp(t, `^projects/blog/messages/[0-9a-f]{32}$`, name.Name)
	got := s.Messages("pub.push.1", "token-1", 10)
	require.Len(t, got, 1)
	require.Equal(t, "push", got[0].Channel)
	require.Equal(t, name.Name, got[0].ID)
	require.Equal(t, "A new article", got[0].Subject)
	require.Equal(t, "Read it", got[0].Text)
	require.Equal(t, map[string]string{"delivery": "pub.push.1", "url": "https://blog.example/a"}, got[0].Data)
	require.Equal(t, []string{"pub.push.1"}, got[0].Collapse)
	require.Equal(t, "fcm", s.Calls(0, 1)[0].Provider)

	dry := s.call(http.MethodPost, "/v1/projects/blog/messages:send", object{"validate_only": true, "message": pushTo("token-1", "pub.push.1")})
	require.Equal(t, http.StatusOK, dry.status)
	require.Equal(t, int64(1), s.Stats().Messages, "a trial is not sent")
	require.Equal(t, http.StatusNotFound, s.call(http.MethodPost, "/v1/projects/blog/messages", object{}).status)
}

func TestTokensChooseTheirError(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for token, want := range map[string]struct {
		status      int
		state, code string
	}{
		"dead+1":          {404, "NOT_FOUND", "UNREGISTERED"},
		"Dead+2":          {404, "NOT_FOUND", "UNREGISTERED"},
		"invalid+1":       {400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"},
		"two words":       {400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"},
		"mismatch+1":      {403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"},
		"apns+1":          {401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"},
		"quota+1":         {429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"},
		"unavailable+1":   {503, "UNAVAILABLE", "UNAVAILABLE"},
		"internal+1+more": {500, "INTERNAL", "INTERNAL"},
	} {
		a := s.push(pushTo(token, "d"))
		require.Equal(t, want.status, a.status, token)
		var got fcmError
		a.into(t, &got)
		require.Equal(t, want.status, got.Error.Code)
		require.Equal(t, want.state, got.Error.Status)
		require.Len(t, got.Error.Details, 1)
		require.Equal(t, "type.googleapis.com/google.firebase.fcm.v1.FcmError", got.Error.Details[0].Type)
		require.Equal(t, want.code, got.Error.Details[0].ErrorCode)
		require.Equal(t, strings.HasPrefix(token, "quota"), strings.Contains(got.Error.Message, "Device message rate"), "it is the device that has too much")
	}
	require.Equal(t, http.StatusOK, s.push(pushTo("dead", "d")).status)
	require.Equal(t, int64(9), s.Stats().ByChannel["push"].RejectedCalls)
}

func TestPushRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	inside := func(m object, name string) object { return m[name].(object) }
	long := strings.Repeat("x", 65)
	for _, tt := range []struct {
		name   string
		change func(m object)
		field  string // of a BadRequest; empty for an FcmError
	}{
		{"no token", func(m object) { delete(m, "token") }, "message"},
		{"a topic", func(m object) { m["topic"] = "news" }, "message.token"},
		{"unknown field", func(m object) { m["to"] = "x" }, "message"},
		{"unknown field of android", func(m object) { inside(m, "android")["collapseKeys"] = "x" }, "message"},
		{"data not a string", func(m object) { inside(m, "data")["n"] = 7 }, "message.data"},
		{"data named from", func(m object) { inside(m, "data")["from"] = "x" }, "message.data"},
		{"data named gcm", func(m object) { inside(m, "data")["gcm"] = "x" }, "message.data"},
		{"data named google", func(m object) { inside(m, "data")["google.x"] = "x" }, "message.data"},
		{"ttl without s", func(m object) { inside(m, "android")["ttl"] = "3600" }, "message.android.ttl"},
		{"ttl of minutes", func(m object) { inside(m, "android")["ttl"] = "5m" }, "message.android.ttl"},
		{"ttl over four weeks", func(m object) { inside(m, "android")["ttl"] = "2419201s" }, "message.android.ttl"},
		{"ttl just over four weeks", func(m object) { inside(m, "android")["ttl"] = "2419200.5s" }, "message.android.ttl"},
		{"priority", func(m object) { inside(m, "android")["priority"] = "urgent" }, "message.android.priority"},
		{"collapse key", func(m object) { inside(m, "android")["collapse_key"] = long }, "message.android.collapse_key"},
		{"apns-collapse-id", func(m object) { inside(inside(m, "apns"), "headers")["apns-collapse-id"] = long }, "message.apns.headers"},
		{"apns-expiration", func(m object) { inside(inside(m, "apns"), "headers")["apns-expiration"] = "1h" }, "message.apns.headers"},
		{"apns-priority", func(m object) { inside(inside(m, "apns"), "headers")["apns-priority"] = "high" }, "message.apns.headers"},
		{"TTL", func(m object) { inside(inside(m, "webpush"), "headers")["TTL"] = "3600s" }, "message.webpush.headers"},
		{"a link without TLS", func(m object) { inside(m, "webpush")["fcm_options"] = object{"link": "http://blog.example/a"} }, "message.webpush.fcm_options.link"},
		{"a link that is none", func(m object) { inside(m, "webpush")["fcm_options"] = object{"link": "/a"} }, "message.webpush.fcm_options.link"},
		{"Topic", func(m object) { inside(inside(m, "webpush"), "headers")["Topic"] = long }, "message.webpush.headers"},
		{"data too long", func(m object) { inside(m, "data")["x"] = strings.Repeat("x", 4000) }, ""},
		{"payload too long", func(m object) { inside(inside(m, "apns"), "payload")["x"] = strings.Repeat("x", 4000) }, ""},
	} {
		m := pushTo("token", "d")
		tt.change(m)
		a := s.push(m)
		require.Equal(t, http.StatusBadRequest, a.status, tt.name)
		var got fcmError
		a.into(t, &got)
		require.Equal(t, "INVALID_ARGUMENT", got.Error.Status, tt.name)
		require.Len(t, got.Error.Details, 1, tt.name)
		if tt.field == "" {
			require.Equal(t, "INVALID_ARGUMENT", got.Error.Details[0].ErrorCode, tt.name)
			continue
		}
		require.Equal(t, "type.googleapis.com/google.rpc.BadRequest", got.Error.Details[0].Type, tt.name)
		require.Equal(t, tt.field, got.Error.Details[0].Violations[0].Field, tt.name)
	}
	for _, body := range []any{"{", object{}, `{"message": {}} {}`} {
		require.Equal(t, http.StatusBadRequest, s.call(http.MethodPost, "/v1/projects/blog/messages:send", body).status)
	}
	for _, ttl := range []string{"0s", "2419200s", "2419200.0s", "3.5s"} {
		m := pushTo("token", "d")
		m["android"].(object)["ttl"] = ttl
		m["webpush"].(object)["fcm_options"] = object{"link": "https://blog.example/a"}
		require.Equal(t, http.StatusOK, s.push(m).status, ttl)
	}
}

func TestPushesTwice(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	s.push(pushTo("phone", "pub.push.1"))
	s.push(pushTo("tablet", "pub.push.1")) // another device of the same person
	s.push(pushTo("phone", "pub.push.2"))
	s.push(pushTo("phone", "pub.push.1"))
	loose := pushTo("phone", "pub.push.2")
	for _, platform := range []string{"android", "apns", "webpush"} {
		delete(loose, platform)
	}
	s.push(loose)
	stats := s.Stats().ByChannel["push"]
	require.Equal(t, int64(5), stats.Messages)
	require.Equal(t, int64(3), stats.Distinct)
	require.Equal(t, int64(2), stats.Duplicates)
	require.Equal(t, int64(1), stats.Replaced, "the other one shows twice")
	require.Equal(t, "phone", s.Duplicates()[0].To)
	require.Equal(t, int64(1), s.Stats().Replaced)
}

func TestFaultsOfFCM(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for status, code := range map[int]string{429: "QUOTA_EXCEEDED", 503: "UNAVAILABLE", 500: "INTERNAL"} {
		require.NoError(t, s.SetFaults(always(sandbox.Fault{Channel: "push", Action: sandbox.ActionStatus, Status: status, RetryAfter: 60})))
		a := s.push(pushTo("token", "d"))
		require.Equal(t, status, a.status)
		require.Equal(t, "60", a.header.Get("Retry-After"))
		var got fcmError
		a.into(t, &got)
		require.Equal(t, code, got.Error.Details[0].ErrorCode)
	}
	require.NoError(t, s.SetFaults(always(sandbox.Fault{Provider: "fcm", Action: sandbox.ActionAcceptThenClose})))
	_, err := s.do(s.request(http.MethodPost, "/v1/projects/blog/messages:send", object{"message": pushTo("token", "d")}))
	require.Error(t, err)
	require.Equal(t, int64(1), s.Stats().Messages)
	require.NoError(t, s.SetFaults(sandbox.Faults{Down: map[string]string{"fcm": sandbox.DownUnavailable}}))
	require.Equal(t, http.StatusServiceUnavailable, s.push(pushTo("token", "d")).status)
}

func BenchmarkPush(b *testing.B) {
	s := sandbox.New(sandbox.Config{})
	h := s.Handler()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		d := fmt.Sprintf("0198a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b.push.%d", n)
		body := fmt.Sprintf(`{"message":{"token":"cXfG8%0130d","notification":{"title":"A new article","body":"Read it"},"data":{"delivery":%q,"url":"https://blog.example/a"},"android":{"collapse_key":%q,"priority":"high","ttl":"3600s","notification":{"tag":%q}},"apns":{"headers":{"apns-collapse-id":%q,"apns-priority":"10"},"payload":{"aps":{"alert":{"title":"A new article","body":"Read it"}}}},"webpush":{"headers":{"TTL":"3600"},"notification":{"tag":%q}}}}`, n, d, d, d, d, d)
		r := httptest.NewRequest(http.MethodPost, "/v1/projects/blog/messages:send", strings.NewReader(body))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Body.String())
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
