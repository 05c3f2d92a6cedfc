package twilio_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/twilio"
)

const (
	callID      fanfare.CallID        = "0198c5a0-9a51-7cc3-98c4-1c0c0c0739aa"
	publication fanfare.PublicationID = "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f"

	account = "AC2f0b1c3d4e5f60718293a4b5c6d7e8f9"
	token   = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
	ours    = "+34911234567"
	theirs  = "+34612345678"
	sid     = "SM5d41402abc4b2a76b9719d911017c592"
	text    = "The Slow Coast: Why the tide tables were wrong https://blog.example/123\nñ & +1"
)

func call() fanfare.Call { return calls(1) }

// calls is a call with more recipients than it may have.
func calls(recipients int) fanfare.Call {
	c := fanfare.Call{
		ID: callID, Publication: publication, Channel: fanfare.SMS,
		Message: fanfare.Message{Subject: "not of an SMS", Text: text},
		Expires: time.Now().Add(24 * time.Hour),
	}
	for i := range recipients {
		c.Recipients = append(c.Recipients, fanfare.Recipient{Number: fanfare.SubscriberNumber(7 + i), Address: fmt.Sprintf("+%d", 34612345678+i)})
	}
	return c
}

func config(at string) twilio.Config {
	return twilio.Config{AccountSID: account, AuthToken: token, From: ours, BaseURL: at, PublicURL: "https://fanfare.example/"}
}

// provider is a Twilio whose handler the test writes.
func provider(t *testing.T, handler http.HandlerFunc) *twilio.Sender {
	t.Helper()
	return sender(t, config(listen(t, handler)))
}

func listen(t *testing.T, handler http.HandlerFunc) (at string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func sender(t *testing.T, c twilio.Config) *twilio.Sender {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	s, err := twilio.New(c, &http.Client{Transport: fanfare.GatedTransport{Base: base}})
	require.NoError(t, err)
	return s
}

func leased(t *testing.T) (context.Context, *fanfare.Lease) {
	t.Helper()
	lease := fanfare.NewLease(callID, time.Now(), time.Hour, time.Hour)
	return fanfare.WithLease(t.Context(), lease), lease
}

// taken reads a request whole, as a provider does before it acts.
func taken(r *http.Request) []byte {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return body
}

// silence cuts the connection.
func silence() { panic(http.ErrAbortHandler) }

// created is the answer to a message that was taken, as Twilio's documentation shows it.
func created(sid string) string {
	return `{"account_sid":"` + account + `","api_version":"2010-04-01","body":"x","date_created":"Fri, 20 Nov 2026 10:00:00 +0000","date_sent":null,` +
		`"date_updated":"Fri, 20 Nov 2026 10:00:00 +0000","direction":"outbound-api","error_code":null,"error_message":null,"from":"` + ours + `","messaging_service_sid":null,` +
		`"num_media":"0","num_segments":"1","price":null,"price_unit":"USD","sid":"` + sid + `","status":"queued","subresource_uris":{"media":"/x.json"},"to":"` + theirs + `","uri":"/x.json"}`
}

// refusal is an error answer in Twilio's shape, whose words repeat what was sent.
func refusal(status, code int, gossip ...string) string {
	body, err := json.Marshal(map[string]any{
		"code": code, "status": status, "message": "The 'To' number " + theirs + " is not valid: " + text + strings.Join(gossip, ""),
		"more_info": "https://www.twilio.com/docs/errors/" + theirs, "details": map[string]any{"to": theirs},
	})
	if err != nil {
		panic(err)
	}
	return string(body)
}

const htmlPage = "<html>\r\n<head><title>nginx " + theirs + "</title></head>\r\n</html>"

// impersonal fails where a sentence tells who it was about, or what was said.
func impersonal(t *testing.T, sentence string) {
	t.Helper()
	for _, personal := range []string{theirs, theirs[1:], ours[1:], "tide", token} {
		require.NotContains(t, sentence, personal)
	}
	require.Less(t, len(sentence), 256)
}

func TestNewNamesEveryBadSetting(t *testing.T) {
	t.Parallel()
	_, err := twilio.New(twilio.Config{BaseURL: "api.twilio.com"}, http.DefaultClient)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	for _, setting := range []string{"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM", "TWILIO_BASE_URL", "FANFARE_PUBLIC_URL"} {
		require.ErrorContains(t, err, setting)
	}
	for setting, changes := range map[string][]func(*twilio.Config){
		"TWILIO_ACCOUNT_SID": {
			func(c *twilio.Config) { c.AccountSID = "SK2f0b1c3d4e5f60718293a4b5c6d7e8f9" },
			func(c *twilio.Config) { c.AccountSID = "AC-2f0b" }, // the SDK refuses each call
		},
		"TWILIO_AUTH_TOKEN": {
			func(c *twilio.Config) { c.AuthToken = " " },
			func(c *twilio.Config) { c.AuthToken = "secret-token" }, // likewise
			func(c *twilio.Config) { c.AuthToken = "secret\n" },
		},
		"TWILIO_FROM": {
			func(c *twilio.Config) { c.From = "" },
			func(c *twilio.Config) { c.From = "911234567890" },
			func(c *twilio.Config) { c.From = "+34 911 234 567" },
			func(c *twilio.Config) { c.From = "MG" + ours },
			func(c *twilio.Config) { c.From = "whatsapp:" + ours },
		},
		"TWILIO_BASE_URL": {
			func(c *twilio.Config) { c.BaseURL = "ftp://b.example" },
			func(c *twilio.Config) { c.BaseURL = "https://" },
			func(c *twilio.Config) { c.BaseURL = "https://b.example?x=1" },
			func(c *twilio.Config) { c.BaseURL = "https://user:pass@b.example" },
		},
		"FANFARE_PUBLIC_URL": {
			func(c *twilio.Config) { c.PublicURL = "" },
			func(c *twilio.Config) { c.PublicURL = "fanfare.example" },
		},
	} {
		for _, change := range changes {
			c := config("https://api.dublin.ie1.twilio.com/")
			change(&c)
			_, err := twilio.New(c, http.DefaultClient)
			var invalid *fanfare.InvalidError
			require.ErrorAs(t, err, &invalid, "%+v", c)
			require.Len(t, invalid.Violations, 1, "%+v", c)
			require.Equal(t, setting, invalid.Violations[0].Field)
			require.NotContains(t, err.Error(), "secret")
		}
	}
	for _, from := range []string{ours, "12345", "MG2f0b1c3d4e5f60718293a4b5c6d7e8f9"} {
		c := config("")
		c.From = from
		_, err := twilio.New(c, http.DefaultClient)
		require.NoError(t, err)
	}
}

// Two accounts are told apart in records, in the addresses of their webhooks, and in
// the settings that messages name.
func TestSecondAccount(t *testing.T) {
	t.Parallel()
	_, err := twilio.New(twilio.Config{Name: "twilio-2", PublicURL: "https://fanfare.example"}, http.DefaultClient)
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, []fanfare.Violation{
		{Field: "TWILIO_2_ACCOUNT_SID", Detail: "must be the SID of the account, which begins with AC"},
		{Field: "TWILIO_2_AUTH_TOKEN", Detail: "must not be empty"},
		{Field: "TWILIO_2_FROM", Detail: "must be a number such as +34612345678, a short code, or a Messaging Service, which begins with MG"},
	}, invalid.Violations)

	bodies := make(chan string, 2)
	c := config(listen(t, func(w http.ResponseWriter, r *http.Request) {
		bodies <- string(taken(r))
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, refusal(401, 20003))
	}))
	c.Name = "twilio-2"
	s := sender(t, c)
	require.Equal(t, "twilio-2", s.Name())
	ctx, _ := leased(t)
	require.Contains(t, s.Send(ctx, call()).Outcome.Detail, "TWILIO_2_AUTH_TOKEN")
	require.Contains(t, <-bodies, url.QueryEscape("https://fanfare.example/webhooks/twilio-2?delivery="))
	_, err = s.LookUp(t.Context(), question())
	require.ErrorContains(t, err, "at twilio-2: status 401")
}

// forms answers every message as taken, and gives the forms.
func forms(t *testing.T, change func(*twilio.Config)) (*twilio.Sender, <-chan url.Values) {
	t.Helper()
	sent := make(chan url.Values, 1)
	c := config(listen(t, func(w http.ResponseWriter, r *http.Request) {
		form, _ := url.ParseQuery(string(taken(r)))
		form.Set("path", r.URL.Path)
		form.Set("host", r.Host)
		sent <- form
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, created(sid))
	}))
	change(&c)
	return sender(t, c), sent
}

func TestSendThroughAMessagingService(t *testing.T) {
	t.Parallel()
	s, sent := forms(t, func(c *twilio.Config) { c.From = "MG2f0b1c3d4e5f60718293a4b5c6d7e8f9" })
	ctx, _ := leased(t)
	require.Equal(t, fanfare.OutcomeAccepted, s.Send(ctx, call()).Outcome.Kind)
	form := <-sent
	require.Equal(t, "MG2f0b1c3d4e5f60718293a4b5c6d7e8f9", form.Get("MessagingServiceSid"))
	require.False(t, form.Has("From"))
}

// The SDK reads these two for itself, and would go elsewhere.
func TestSendGoesWhereItIsToldTo(t *testing.T) {
	t.Setenv("TWILIO_EDGE", "dublin")
	t.Setenv("TWILIO_REGION", "ie1")
	var at string
	s, sent := forms(t, func(c *twilio.Config) {
		at = strings.TrimPrefix(c.BaseURL, "http://")
		c.BaseURL += "/behind/a/proxy/"
		c.PublicURL = "https://proxy.example/fanfare"
	})
	ctx, _ := leased(t)
	require.Equal(t, fanfare.OutcomeAccepted, s.Send(ctx, call()).Outcome.Kind)
	form := <-sent
	require.Equal(t, "/behind/a/proxy/2010-04-01/Accounts/"+account+"/Messages.json", form.Get("path"))
	require.Equal(t, at, form.Get("host"))
	require.True(t, strings.HasPrefix(form.Get("StatusCallback"), "https://proxy.example/fanfare/webhooks/twilio?delivery="))
}

func TestSendAsksToBeForgottenInTime(t *testing.T) {
	t.Parallel()
	s, sent := forms(t, func(*twilio.Config) {})
	for left, want := range map[time.Duration][]string{
		5*time.Minute + 900*time.Millisecond: {"300"},
		10 * time.Hour:                       {"35999"},
		11 * time.Hour:                       {"36000"},
	} {
		c := call()
		c.Expires = time.Now().Add(left)
		ctx, _ := leased(t)
		require.Equal(t, fanfare.OutcomeAccepted, s.Send(ctx, c).Outcome.Kind)
		require.Equal(t, want, (<-sent)["ValidityPeriod"])
	}
	for _, left := range []time.Duration{900 * time.Millisecond, 0, -time.Second, -1000 * time.Hour} {
		c := call()
		c.Expires = time.Now().Add(left)
		ctx, lease := leased(t)
		reply := s.Send(ctx, c)
		require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind, left)
		require.Contains(t, reply.Outcome.Detail, "expired")
		require.False(t, lease.Written())
		require.Empty(t, sent)
	}
}

func TestSendAnswers(t *testing.T) {
	t.Parallel()
	type header map[string]string
	const date = "Fri, 20 Nov 2026 10:00:00 GMT"
	const (
		accepted    = fanfare.OutcomeAccepted
		rejected    = fanfare.OutcomeRejected
		throttled   = fanfare.OutcomeThrottled
		unavailable = fanfare.OutcomeUnavailable
		ambiguous   = fanfare.OutcomeAmbiguous
	)
	for name, tc := range map[string]struct {
		status     int
		header     header
		body       string
		from       string
		want       fanfare.OutcomeKind
		code       string
		suppress   fanfare.SuppressionReason
		retryAfter time.Duration
		account    bool
		says       string
	}{
		"accepted":           {status: 201, body: created(sid), want: accepted, code: "201"},
		"accepted otherwise": {status: 200, body: created(sid), want: accepted, code: "200"},
		"no message":         {status: 201, body: `{}`, want: ambiguous, code: "201"},
		"an odd id":          {status: 201, body: `{"sid":"` + theirs + `"}`, want: ambiguous, code: "201"},
		"an id of no text":   {status: 201, body: `{"sid":7}`, want: ambiguous, code: "201"},
		"not JSON":           {status: 201, body: htmlPage, want: ambiguous, code: "201"},
		"no body":            {status: 202, want: ambiguous, code: "202"},

		"invalid To":                  {status: 400, body: refusal(400, 21211), want: rejected, code: "21211", suppress: fanfare.SuppressedInvalid},
		"invalid number":              {status: 400, body: refusal(400, 21217), want: rejected, code: "21217", suppress: fanfare.SuppressedInvalid},
		"not a mobile number":         {status: 400, body: refusal(400, 21614), want: rejected, code: "21614", suppress: fanfare.SuppressedInvalid, says: "mobile"},
		"a landline":                  {status: 400, body: refusal(400, 21635), want: rejected, code: "21635", suppress: fanfare.SuppressedInvalid},
		"stopped":                     {status: 400, body: refusal(400, 21610), want: rejected, code: "21610", suppress: fanfare.SuppressedStopped, says: "STOP"},
		"region":                      {status: 400, body: refusal(400, 21408), want: rejected, code: "21408", says: "Geographic Permissions"},
		"not reached from here":       {status: 400, body: refusal(400, 21612), want: rejected, code: "21612"},
		"trial":                       {status: 400, body: refusal(400, 21608), want: rejected, code: "21608", says: "trial"},
		"too long":                    {status: 400, body: refusal(400, 21617), want: rejected, code: "21617", says: "1,600"},
		"no text":                     {status: 400, body: refusal(400, 21602), want: rejected, code: "21602"},
		"pumping":                     {status: 400, body: refusal(400, 30450), want: rejected, code: "30450"},
		"queue full":                  {status: 400, body: refusal(400, 21611), want: unavailable, code: "21611"},
		"queue full, and says until":  {status: 400, header: header{"Retry-After": "60"}, body: refusal(400, 21611), want: unavailable, code: "21611", retryAfter: time.Minute},
		"queue overflow":              {status: 400, body: refusal(400, 30001), want: unavailable, code: "30001"},
		"not active":                  {status: 400, body: refusal(400, 90010), want: unavailable, code: "90010", account: true, says: "console"},
		"unknown code":                {status: 400, body: refusal(400, 29999), want: rejected, code: "29999", says: "docs/api/errors/29999"},
		"unknown code, unknown 4xx":   {status: 422, body: refusal(422, 29998), want: rejected, code: "29998"},
		"no code":                     {status: 400, body: `{}`, want: rejected, code: "400", says: "does not say why"},
		"a refusal that is no JSON":   {status: 400, body: htmlPage, want: rejected, code: "400"},
		"a code of no number":         {status: 400, body: `{"code":"` + theirs + `"}`, want: rejected, code: "400"},
		"a refusal without a body":    {status: 418, want: rejected, code: "418"},
		"invalid From":                {status: 400, body: refusal(400, 21212), want: unavailable, code: "21212", account: true, says: "TWILIO_FROM"},
		"not for this account":        {status: 400, body: refusal(400, 21606), want: unavailable, code: "21606", account: true, says: "TWILIO_FROM"},
		"not Twilio's number":         {status: 400, body: refusal(400, 21659), want: unavailable, code: "21659", account: true, says: "TWILIO_FROM"},
		"a short code's country":      {status: 400, from: "12345", body: refusal(400, 21659), want: rejected, code: "21659", says: "country"},
		"a short code for another":    {status: 400, from: "12345", body: refusal(400, 21660), want: unavailable, code: "21660", account: true},
		"a service's sender":          {status: 400, from: "MG00", body: refusal(400, 21606), want: unavailable, code: "21606", account: true},
		"no such service":             {status: 404, from: "MG00", body: refusal(404, 21701), want: unavailable, code: "21701", account: true, says: "Messaging Service"},
		"callback":                    {status: 400, body: refusal(400, 21609), want: unavailable, code: "21609", account: true, says: "FANFARE_PUBLIC_URL"},
		"not registered":              {status: 400, body: refusal(400, 30034), want: unavailable, code: "30034", account: true, says: "10DLC"},
		"suspended":                   {status: 400, body: refusal(400, 30002), want: unavailable, code: "30002", account: true},
		"token":                       {status: 401, body: refusal(401, 20003), want: unavailable, code: "20003", account: true, says: "TWILIO_AUTH_TOKEN"},
		"token, without a code":       {status: 401, body: htmlPage, want: unavailable, code: "401", account: true, says: "TWILIO_AUTH_TOKEN"},
		"test credentials":            {status: 403, body: refusal(403, 20008), want: unavailable, code: "20008", account: true, says: "test credentials"},
		"forbidden":                   {status: 403, body: htmlPage, want: unavailable, code: "403", account: true},
		"to be paid for":              {status: 402, want: unavailable, code: "402", account: true},
		"no such account":             {status: 404, body: refusal(404, 20404), want: unavailable, code: "20404", account: true, says: "TWILIO_ACCOUNT_SID"},
		"wrong place":                 {status: 404, body: htmlPage, want: unavailable, code: "404", account: true, says: "TWILIO_BASE_URL"},
		"wrong method":                {status: 405, want: unavailable, code: "405", account: true, says: "TWILIO_BASE_URL"},
		"moved":                       {status: 301, header: header{"Location": "/elsewhere"}, want: unavailable, code: "301", account: true, says: "TWILIO_BASE_URL"},
		"moved, method and body kept": {status: 307, header: header{"Location": "/elsewhere"}, body: created(sid), want: unavailable, code: "307", account: true},
		"too large":                   {status: 413, body: htmlPage, want: rejected, code: "413"},

		"throttled":                   {status: 429, body: refusal(429, 20429), want: throttled, code: "20429"},
		"throttled by a proxy":        {status: 429, body: htmlPage, want: throttled, code: "429"},
		"throttled, seconds":          {status: 429, header: header{"Retry-After": "7"}, body: refusal(429, 20429), want: throttled, code: "20429", retryAfter: 7 * time.Second},
		"throttled, at once":          {status: 429, header: header{"Retry-After": "0"}, want: throttled, code: "429", retryAfter: time.Second},
		"throttled, date":             {status: 429, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT"}, want: throttled, code: "429", retryAfter: 30 * time.Second},
		"throttled, date in the past": {status: 429, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 09:00:00 GMT"}, want: throttled, code: "429", retryAfter: time.Second},
		"throttled, beyond all sense": {status: 429, header: header{"Retry-After": "4294967295"}, want: throttled, code: "429", retryAfter: 24 * time.Hour},
		"throttled, nonsense":         {status: 429, header: header{"Retry-After": "soon"}, want: throttled, code: "429"},
		"throttled, with any code":    {status: 429, body: refusal(429, 21610), want: throttled, code: "21610"},
		"not available":               {status: 503, body: htmlPage, want: unavailable, code: "503"},
		"not available, and until":    {status: 503, header: header{"Retry-After": "20"}, body: refusal(503, 20503), want: unavailable, code: "20503", retryAfter: 20 * time.Second},
		"maintenance":                 {status: 400, body: refusal(400, 21730), want: unavailable, code: "21730"},
		"request time-out":            {status: 408, want: ambiguous, code: "408"},
		"failed":                      {status: 500, body: refusal(500, 20500), want: ambiguous, code: "20500"},
		"failed, with a clear code":   {status: 500, body: refusal(500, 21610), want: ambiguous, code: "21610"},
		"bad gateway":                 {status: 502, body: htmlPage, want: ambiguous, code: "502"},
		"gateway time-out":            {status: 504, want: ambiguous, code: "504"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			c := config(listen(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				taken(r)
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			if tc.from != "" {
				c.From = tc.from
			}
			ctx, _ := leased(t)
			reply := sender(t, c).Send(ctx, call())
			require.EqualValues(t, 1, requests.Load(), "a call is one request")
			require.Equal(t, tc.want, reply.Outcome.Kind, reply.Outcome.Detail)
			require.Equal(t, tc.code, reply.Outcome.Code)
			require.Equal(t, tc.retryAfter, reply.Outcome.RetryAfter)
			require.Equal(t, tc.account, reply.Outcome.Account)
			require.Contains(t, reply.Outcome.Detail, tc.says)
			require.Equal(t, tc.want == accepted, reply.Outcome.Detail == "", "whatever is not accepted has a sentence")
			require.Equal(t, tc.want == accepted, reply.ProviderID == sid)
			impersonal(t, reply.Outcome.Detail)
			require.False(t, reply.Split)
			require.Empty(t, reply.Named)
			var suppress []fanfare.Refused
			if tc.suppress != "" {
				suppress = []fanfare.Refused{{Address: theirs, Reason: tc.suppress}}
			}
			require.Equal(t, suppress, reply.Suppress)
		})
	}
}

// A refusal that breaks off is still a refusal; an acceptance is not.
func TestSendAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]fanfare.OutcomeKind{
		201: fanfare.OutcomeAmbiguous, 400: fanfare.OutcomeUnavailable, 401: fanfare.OutcomeUnavailable,
		429: fanfare.OutcomeThrottled, 503: fanfare.OutcomeUnavailable, 500: fanfare.OutcomeAmbiguous,
	} {
		whole := created(sid)
		for _, body := range []string{whole[:40], whole, ""} {
			s := provider(t, func(w http.ResponseWriter, r *http.Request) {
				taken(r)
				w.Header().Set("Content-Length", fmt.Sprint(len(whole)+1))
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
				_ = http.NewResponseController(w).Flush()
				silence()
			})
			ctx, _ := leased(t)
			reply := s.Send(ctx, call())
			require.Equal(t, want, reply.Outcome.Kind, "%d %s", status, reply.Outcome.Detail)
			require.Empty(t, reply.ProviderID)
			require.Empty(t, reply.Suppress)
		}
	}
}

// Without a lease nobody knows how far the request came.
func TestSendWithoutLeaseIsInDoubt(t *testing.T) {
	t.Parallel()
	s := sender(t, config("http://"+closedPort(t)))
	require.Equal(t, fanfare.OutcomeAmbiguous, s.Send(t.Context(), call()).Outcome.Kind)
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// A provider that reads too slowly must not get the rest once others may act.
func TestSendLeaseEndsWhileTheBodyIsWritten(t *testing.T) {
	t.Parallel()
	lease := fanfare.NewLease(callID, time.Now(), time.Hour, 500*time.Millisecond)
	whole := make(chan bool, 1)
	s := provider(t, func(_ http.ResponseWriter, r *http.Request) {
		<-time.After(time.Until(lease.Deadline()) + 10*time.Millisecond)
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err == nil
	})
	c := call()
	c.Message.Text = strings.Repeat("more than the buffers of any socket hold\n", 1<<19)
	reply := s.Send(fanfare.WithLease(t.Context(), lease), c)
	require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Contains(t, reply.Outcome.Detail, "must end within 500ms")
	require.False(t, lease.Written())
	require.False(t, <-whole)
}

// What can be known without asking is not asked.
func TestSendTakesOneRecipient(t *testing.T) {
	t.Parallel()
	s := provider(t, func(http.ResponseWriter, *http.Request) { t.Error("must not be called") })
	ctx, _ := leased(t)
	for n, split := range map[int]bool{0: false, 2: true} {
		reply := s.Send(ctx, calls(n))
		require.Equal(t, split, reply.Split)
		require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind)
	}
}
