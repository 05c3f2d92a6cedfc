package sandbox_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nyaruka/phonenumbers"
	"github.com/stretchr/testify/require"
	twilioclient "github.com/twilio/twilio-go/client"
	twilioapi "github.com/twilio/twilio-go/rest/api/v2010"

	"github.com/fanfare-dev/fanfare/sandbox"
)

const (
	twilioAccount = "AC00000000000000000000000000000001"
	twilioToken   = "token1"
	ours          = "+15005550006"
	service       = "MG00000000000000000000000000000001"
)

// redirected sends what is meant for Twilio to the sandbox.
type redirected struct{ to *url.URL }

func (r redirected) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.URL.Scheme, request.URL.Host = r.to.Scheme, r.to.Host
	return http.DefaultTransport.RoundTrip(request)
}

// twilio is Twilio's own client, pointed at the sandbox.
func (s *server) twilio() *twilioapi.ApiService {
	s.t.Helper()
	at, err := url.Parse(s.url)
	require.NoError(s.t, err)
	c := &twilioclient.Client{
		Credentials: twilioclient.NewCredentials(twilioAccount, twilioToken),
		HTTPClient:  &http.Client{Transport: redirected{at}, Timeout: patience},
	}
	c.SetAccountSid(twilioAccount)
	return twilioapi.NewApiServiceWithClient(c)
}

func texting(to string) *twilioapi.CreateMessageParams {
	return new(twilioapi.CreateMessageParams).SetTo(to).SetFrom(ours).SetBody("A new article: https://blog.example/a")
}

func (s *server) text(p *twilioapi.CreateMessageParams) *twilioapi.ApiV2010Message {
	s.t.Helper()
	m, err := s.twilio().CreateMessage(p)
	require.NoError(s.t, err)
	return m
}

// twilioCode is the code that a call was refused with.
func twilioCode(t *testing.T, err error) int {
	t.Helper()
	var refused *twilioclient.TwilioRestError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, fmt.Sprintf("https://www.twilio.com/docs/errors/%d", refused.Code), refused.MoreInfo)
	require.NotEmpty(t, refused.Message)
	return refused.Code
}

// form posts fields as they stand.
func (s *server) form(fields url.Values) answer {
	s.t.Helper()
	r := s.request(http.MethodPost, "/2010-04-01/Accounts/"+twilioAccount+"/Messages.json", fields.Encode())
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(twilioAccount, twilioToken)
	a, err := s.do(r)
	require.NoError(s.t, err)
	return a
}

func TestTextIsAccepted(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	m := s.text(texting("+34600000001").SetStatusCallback("http://127.0.0.1:9/webhooks/twilio?delivery=pub.sms.1&call=call-1").SetValidityPeriod(300))
	require.Regexp(t, `^SM[0-9a-f]{32}$`, *m.Sid)
	require.Equal(t, "queued", *m.Status)
	require.Equal(t, "1", *m.NumSegments)
	require.Equal(t, ours, *m.From)
	created, err := time.Parse(time.RFC1123Z, *m.DateCreated)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), created, time.Minute)
	require.Nil(t, m.DateSent)

	byService := new(twilioapi.CreateMessageParams).SetTo("+34600000002").SetMessagingServiceSid(service).SetBody("ñ^ €")
	m = s.text(byService)
	require.Equal(t, "accepted", *m.Status)
	require.Equal(t, "0", *m.NumSegments, "no sender has been chosen")
	require.Nil(t, m.From)

	got := s.Messages("", "", 10)
	require.Len(t, got, 2)
	require.Equal(t, "sms", got[1].Channel)
	require.Equal(t, "pub.sms.1", got[1].Delivery)
	require.Equal(t, "call-1", got[1].Call)
	require.Equal(t, "+34600000001", got[1].To)
	require.Equal(t, "A new article: https://blog.example/a", got[1].Text)
	require.Equal(t, service, got[0].From)
	require.Equal(t, "ñ^ €", got[0].Text)
	calls := s.Calls(0, 10)
	require.Equal(t, "twilio", calls[0].Provider)
	require.Equal(t, "sms", calls[0].Channel)
	require.Equal(t, "call-1", calls[0].ID)
	require.Equal(t, http.StatusCreated, calls[0].Status)
	require.True(t, calls[0].Accepted)
	require.Equal(t, int64(2), s.Stats().ByChannel["sms"].Messages)
	require.Equal(t, int64(1), s.Stats().WithoutDelivery)
}

func TestTextRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	good := url.Values{"To": {"+34600000001"}, "From": {ours}, "Body": {"x"}}
	require.Equal(t, http.StatusCreated, s.form(good).status)
	for _, tt := range []struct {
		field, value string
		code         int
	}{
		{"To", "", 21604},
		{"To", "34600000001", 21211},
		{"To", ours, 21266},
		{"To", "+34 600000001", 21211},
		{"To", "+15005550001", 21211},
		{"To", "+15005550002", 21612},
		{"To", "+15005550003", 21408},
		{"To", "+15005550004", 21610},
		{"To", "+15005550009", 21614},
		{"To", "+34712341211", 21211},
		{"To", "+34788881408", 21408},
		{"To", "+34712341610", 21610},
		{"To", "+34712341611", 21611},
		{"To", "+34712341612", 21612},
		{"To", "+34712341614", 21614},
		{"From", "", 21603},
		{"From", "0", 21212},
		{"From", "+15005550007", 21606},
		{"From", "+15005550008", 21611},
		{"MessagingServiceSid", "MG1", 21701},
		{"Body", "", 21602},
		{"Body", strings.Repeat("ñ", 1601), 21617},
		{"ValidityPeriod", "0", 90007},
		{"ValidityPeriod", "36001", 90007},
		{"ValidityPeriod", "5m", 90007},
		{"StatusCallback", "/webhooks/twilio", 21609},
		{"StatusCallback", "http://one_two/", 21609},
		{"StatusCallback", "http://a.example/" + strings.Repeat("x", 4000), 21609},
	} {
		form := url.Values{}
		for name := range good {
			form.Set(name, good.Get(name))
		}
		form.Set(tt.field, tt.value)
		a := s.form(form)
		require.Equal(t, http.StatusBadRequest, a.status, "%s=%s", tt.field, tt.value)
		var got struct {
			Code     int    `json:"code"`
			Message  string `json:"message"`
			MoreInfo string `json:"more_info"`
			Status   int    `json:"status"`
		}
		a.into(t, &got)
		require.Equal(t, tt.code, got.Code, "%s=%s", tt.field, tt.value)
		require.Equal(t, http.StatusBadRequest, got.Status)
	}
	for field, value := range map[string]string{"Body": strings.Repeat("ñ", 1600), "ValidityPeriod": "36000", "From": "FANFARE", "To": "+34612341610"} {
		form := url.Values{"To": {"+34600000001"}, "From": {ours}, "Body": {"x"}}
		form.Set(field, value)
		require.Equal(t, http.StatusCreated, s.form(form).status, field)
	}
	stats := s.Stats()
	require.Equal(t, int64(28), stats.ByChannel["sms"].RejectedCalls)
	require.Equal(t, int64(5), stats.ByChannel["sms"].Messages)
}

func TestTwilioWantsItsAccount(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{Twilio: sandbox.Twilio{AccountSID: twilioAccount, AuthToken: twilioToken}})
	s.text(texting("+34600000001"))
	for _, who := range [][2]string{{twilioAccount, "other"}, {"AC2", twilioToken}, {twilioAccount, ""}} {
		for _, method := range []string{http.MethodPost, http.MethodGet} {
			r := s.request(method, "/2010-04-01/Accounts/"+who[0]+"/Messages.json", "To=%2B34600000001&From=%2B15005550006&Body=x")
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.SetBasicAuth(who[0], who[1])
			a, err := s.do(r)
			require.NoError(t, err)
			require.Equal(t, http.StatusUnauthorized, a.status)
			require.Contains(t, string(a.body), `"code":20003`)
		}
	}
	require.Equal(t, http.StatusNotFound, s.call(http.MethodGet, "/2010-04-01/Accounts.json", nil).status)
	require.Equal(t, http.StatusMethodNotAllowed, s.call(http.MethodDelete, "/2010-04-01/Accounts/AC1/Messages.json", nil).status)
}

func TestSegments(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, tt := range []struct {
		body string
		want string
	}{
		{strings.Repeat("a", 160), "1"},
		{strings.Repeat("a", 161), "2"},
		{strings.Repeat("a", 306), "2"},
		{strings.Repeat("a", 307), "3"},
		{strings.Repeat("€", 80), "1"},
		{strings.Repeat("€", 81), "2"},
		{strings.Repeat("ж", 70), "1"},
		{strings.Repeat("ж", 71), "2"},
		{strings.Repeat("a", 70) + "ж", "2"},
		{strings.Repeat("😀", 35), "1"},
		{strings.Repeat("😀", 36), "2"},
		{strings.Repeat("ж", 135), "3"},
		// What takes two places is not cut in two.
		{strings.Repeat("a", 152) + "€" + strings.Repeat("a", 152), "3"},
		{strings.Repeat("ж", 66) + "😀" + strings.Repeat("ж", 66), "3"},
		{strings.Repeat("a", 159) + "\f", "2"},
	} {
		require.Equal(t, tt.want, *s.text(texting("+34600000001").SetBody(tt.body)).NumSegments, "%d of %.4s", len([]rune(tt.body)), tt.body)
	}
}

// The numbers that choose must pass for telephones elsewhere too.
func TestMagicNumbersAreNumbers(t *testing.T) {
	t.Parallel()
	for _, second := range "12348" {
		for _, end := range []string{"0000", "0008", "1211", "1610"} {
			number := "+347" + string(second) + "123" + end
			parsed, err := phonenumbers.Parse(number, "")
			require.NoError(t, err)
			require.True(t, phonenumbers.IsValidNumber(parsed), number)
		}
	}
}

func TestLookUpOfTexts(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	began := time.Now().Add(-time.Second)
	for i := range 12 {
		s.text(texting(fmt.Sprintf("+3460000000%d", i%2)).SetBody(fmt.Sprintf("number %d", i)))
		if i == 5 {
			s.send(mail(1)) // is nobody's text, and parts those before from those after
		}
	}
	list := func(p *twilioapi.ListMessageParams) []string {
		found, err := s.twilio().ListMessage(p)
		require.NoError(t, err)
		var out []string
		for _, m := range found {
			out = append(out, *m.Body)
		}
		return out
	}
	params := func() *twilioapi.ListMessageParams { return new(twilioapi.ListMessageParams) }
	require.Len(t, list(params()), 12)
	require.Equal(t, []string{"number 11", "number 9", "number 7", "number 5", "number 3", "number 1"}, list(params().SetTo("+34600000001")))
	require.Equal(t, []string{"number 10", "number 8", "number 6", "number 4", "number 2", "number 0"}, list(params().SetTo("+34600000000").SetPageSize(2)), "page by page")
	require.Len(t, list(params().SetFrom(ours)), 12)
	require.Empty(t, list(params().SetFrom("+15005550010")))
	require.Empty(t, list(params().SetTo("+34600000009")))
	require.Len(t, list(params().SetDateSentAfter(began)), 12)
	require.Empty(t, list(params().SetDateSentAfter(began.Add(time.Hour))))
	require.Empty(t, list(params().SetDateSentBefore(began.Add(-time.Hour))))
	require.Len(t, list(params().SetDateSentBefore(began.Add(time.Hour)).SetLimit(3)), 3)

	one := s.text(texting("+34712340003"))
	require.Eventually(t, func() bool {
		m, err := s.twilio().FetchMessage(*one.Sid, nil)
		require.NoError(t, err)
		return *m.Status == "undelivered" && *m.ErrorCode == 30003 && m.DateSent != nil
	}, patience, 5*time.Millisecond)
	_, err := s.twilio().FetchMessage("SM00000000000000000000000000000000", nil)
	require.Equal(t, 20404, twilioCode(t, err))
}

func TestLookUpOfTextsFails(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	one := s.text(texting("+34600000001"))
	page := func() ([]twilioapi.ApiV2010Message, error) {
		list, err := s.twilio().PageMessage(nil, "", "")
		if err != nil {
			return nil, err
		}
		return list.Messages, nil
	}
	require.NoError(t, s.SetFaults(sandbox.Faults{Logs: sandbox.LogFaults{Provider: "sendgrid", Mode: sandbox.LogsFailing}}))
	found, err := page()
	require.NoError(t, err, "the fault is another's")
	require.Len(t, found, 1)
	require.NoError(t, s.SetFaults(sandbox.Faults{Logs: sandbox.LogFaults{Mode: sandbox.LogsFailing, Status: 429}}))
	_, err = page()
	require.Equal(t, 20429, twilioCode(t, err))
	require.NoError(t, s.SetFaults(sandbox.Faults{Logs: sandbox.LogFaults{Lag: sandbox.Duration(time.Hour)}}))
	found, err = page()
	require.NoError(t, err)
	require.Empty(t, found)
	_, err = s.twilio().FetchMessage(*one.Sid, nil)
	require.Equal(t, 20404, twilioCode(t, err))
}

func TestFaultsOfTwilio(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	fault := always(sandbox.Fault{Provider: "twilio", Action: sandbox.ActionStatus, Status: 429, RetryAfter: 3})
	require.NoError(t, s.SetFaults(fault))
	a := s.form(url.Values{"To": {"+34600000001"}, "From": {ours}, "Body": {"x"}})
	require.Equal(t, http.StatusTooManyRequests, a.status)
	require.Equal(t, "3", a.header.Get("Retry-After"))
	require.Contains(t, string(a.body), `"code":20429`)
	require.Equal(t, http.StatusAccepted, s.send(mail(1)).status, "the fault is another's")

	for _, action := range []sandbox.Action{sandbox.ActionAcceptThenClose, sandbox.ActionTruncate} {
		before := s.Stats().ByChannel["sms"].Messages
		require.NoError(t, s.SetFaults(always(sandbox.Fault{Action: action})))
		_, err := s.twilio().CreateMessage(texting("+34600000001"))
		require.Error(t, err)
		var refused *twilioclient.TwilioRestError
		require.NotErrorAs(t, err, &refused)
		require.Equal(t, before+1, s.Stats().ByChannel["sms"].Messages, action)
	}
	require.NoError(t, s.SetFaults(sandbox.Faults{Down: map[string]string{"twilio": sandbox.DownUnavailable}}))
	_, err := s.twilio().CreateMessage(texting("+34600000001"))
	require.Equal(t, 20503, twilioCode(t, err))
	_, err = s.twilio().PageMessage(nil, "", "")
	require.Equal(t, 20503, twilioCode(t, err))
}

func TestTextsTwice(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{})
	for _, delivery := range []string{"pub.sms.1", "pub.sms.2", "pub.sms.1"} {
		s.text(texting("+34600000001").SetStatusCallback("http://127.0.0.1:9/?call=c&delivery=" + delivery))
	}
	s.send(mailTo("a@readers.example"))
	stats := s.Stats()
	require.Equal(t, int64(4), stats.Messages)
	require.Equal(t, int64(1), stats.Duplicates)
	require.Equal(t, int64(1), stats.ByChannel["sms"].Duplicates)
	require.Equal(t, int64(2), stats.ByChannel["sms"].Distinct)
	require.Zero(t, stats.ByChannel["email"].Duplicates)
	got := s.Duplicates()
	require.Len(t, got, 1)
	require.Equal(t, "sms", got[0].Channel)
	require.Equal(t, "pub.sms.1", got[0].Delivery)
	require.Len(t, got[0].Sightings, 2)
	require.Regexp(t, `^SM`, got[0].Sightings[0].MessageID)
	require.Equal(t, "c", got[0].Sightings[1].Call)
}

func TestFewTextsAreKept(t *testing.T) {
	t.Parallel()
	s := start(t, sandbox.Config{MaxMessages: 8})
	for i := range 20 {
		s.text(texting("+34600000001").SetStatusCallback(fmt.Sprintf("http://127.0.0.1:9/?delivery=d.%d", i%10)))
	}
	stats := s.Stats()
	require.Equal(t, int64(20), stats.ContentsKept+stats.ContentsDropped)
	require.Len(t, s.Messages("", "", 100), int(stats.ContentsKept))
	require.GreaterOrEqual(t, stats.ContentsKept, int64(6))
	require.Equal(t, int64(10), stats.Duplicates, "counts are exact for ever")
	require.Equal(t, int64(10), stats.Distinct)
}

func BenchmarkText(b *testing.B) {
	s := sandbox.New(sandbox.Config{})
	h := s.Handler()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		form := fmt.Sprintf("Body=%s&From=%%2B15005550006&StatusCallback=&To=%%2B346%08d&ValidityPeriod=36000", "A+new+article%3A+https%3A%2F%2Fblog.example%2Fa", n%100_000_000)
		r := httptest.NewRequest(http.MethodPost, "/2010-04-01/Accounts/"+twilioAccount+"/Messages.json", strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(twilioAccount, twilioToken)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			b.Fatal(w.Body.String())
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkTextOverHTTP is with the client's side of the work, on the same cores.
func BenchmarkTextOverHTTP(b *testing.B) {
	s := sandbox.New(sandbox.Config{})
	h := httptest.NewServer(s.Handler())
	defer h.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			form := fmt.Sprintf("Body=x&From=%%2B15005550006&StatusCallback=http%%3A%%2F%%2F127.0.0.1%%3A9%%2F%%3Fdelivery%%3D0198a.sms.%d&To=%%2B34600000001", n.Add(1))
			r, _ := http.NewRequest(http.MethodPost, h.URL+"/2010-04-01/Accounts/"+twilioAccount+"/Messages.json", strings.NewReader(form))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.SetBasicAuth(twilioAccount, twilioToken)
			a, err := client.Do(r)
			if err != nil || a.StatusCode != http.StatusCreated {
				b.Error(err)
				return
			}
			_ = json.NewDecoder(a.Body).Decode(new(object))
			a.Body.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
