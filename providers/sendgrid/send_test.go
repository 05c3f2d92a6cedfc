package sendgrid_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/providers/sendgrid"
)

const (
	callID      fanfare.CallID        = "0198c5a0-9a51-7cc3-98c4-1c0c0c0739aa"
	publication fanfare.PublicationID = "0198c5a0-7d1e-7cc3-98c4-dc0c0c07398f"
)

func call(recipients int) fanfare.Call {
	c := fanfare.Call{
		ID: callID, Publication: publication, Channel: fanfare.Email,
		Message: fanfare.Message{
			Subject: "Why the tide tables were wrong",
			HTML:    `<p>Hello &amp; welcome</p><a href="` + fanfare.UnsubscribeTag + `">Unsubscribe</a> <a href="` + fanfare.PreferencesTag + `">Preferences</a>`,
			Text:    "Hello & welcome\nNobody had noticed for eighty years that they were wrong\nUnsubscribe: " + fanfare.UnsubscribeTag + "\nPreferences: " + fanfare.PreferencesTag + "\n",
		},
	}
	for i := range recipients {
		c.Recipients = append(c.Recipients, fanfare.Recipient{
			Number:      fanfare.SubscriberNumber(i + 1),
			Address:     fmt.Sprintf("reader-%d@readers.example", i),
			Unsubscribe: fmt.Sprintf("https://blog.example/unsubscribe/AQ%dID4mT0kq1cVbX9Jz2wQw", i),
			Preferences: fmt.Sprintf("https://blog.example/preferences/AQ%dIDw0kq1cVbX4mT9Jz2wQ", i),
		})
	}
	return c
}

// provider is a SendGrid whose handler the test writes.
func provider(t *testing.T, handler http.HandlerFunc) *sendgrid.Sender {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.Start()
	t.Cleanup(server.Close)
	return sender(t, server.URL)
}

func sender(t *testing.T, url string) *sendgrid.Sender {
	t.Helper()
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	s, err := sendgrid.New(
		sendgrid.Config{APIKey: "SG.the-key", BaseURL: url, From: "The Slow Coast <news@blog.example>"},
		&http.Client{Transport: fanfare.GatedTransport{Base: base}},
	)
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

func TestNewNamesEveryBadSetting(t *testing.T) {
	t.Parallel()
	_, err := sendgrid.New(sendgrid.Config{APIKey: " ", BaseURL: "api.sendgrid.com", From: "nobody"}, http.DefaultClient)
	require.ErrorIs(t, err, fanfare.ErrInvalid)
	for _, setting := range []string{"SENDGRID_API_KEY", "SENDGRID_BASE_URL", "SENDGRID_FROM"} {
		require.ErrorContains(t, err, setting)
	}
	for _, bad := range []sendgrid.Config{
		{APIKey: "SG.x y", From: "a@b.example"},
		{APIKey: "SG.x", From: "a@b.example", BaseURL: "ftp://b.example"},
		{APIKey: "SG.x", From: "a@b.example", BaseURL: "https://"},
		{APIKey: "SG.x", From: "a@b.example", BaseURL: "https://b.example?x=1"},
		{APIKey: "SG.x", From: ""},
		{APIKey: "SG.x", From: "ñandú@b.example"},
		{APIKey: "SG.x", From: "a@b.example, c@d.example"},
	} {
		_, err := sendgrid.New(bad, http.DefaultClient)
		var invalid *fanfare.InvalidError
		require.ErrorAs(t, err, &invalid, "%+v", bad)
		require.Len(t, invalid.Violations, 1, "%+v", bad)
		require.NotContains(t, err.Error(), "SG.")
	}
	for _, good := range []sendgrid.Config{
		{APIKey: "SG.x", From: "a@b.example"},
		{APIKey: "SG.x", From: "Revista Años <a@b.example>", BaseURL: "https://api.eu.sendgrid.com/"},
	} {
		_, err := sendgrid.New(good, http.DefaultClient)
		require.NoError(t, err)
	}
}

// Two accounts are told apart in records, and messages name the settings of theirs.
func TestSecondAccount(t *testing.T) {
	t.Parallel()
	_, err := sendgrid.New(sendgrid.Config{Name: "sendgrid-2"}, http.DefaultClient)
	var invalid *fanfare.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, []fanfare.Violation{
		{Field: "SENDGRID_2_API_KEY", Detail: "must not be empty"},
		{Field: "SENDGRID_2_FROM", Detail: `must be an address or "Name <address>"`},
	}, invalid.Violations)

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		taken(r)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	s, err := sendgrid.New(sendgrid.Config{Name: "sendgrid-2", APIKey: "SG.x", BaseURL: server.URL, From: "a@b.example"}, server.Client())
	require.NoError(t, err)
	require.Equal(t, "sendgrid-2", s.Name())
	ctx, _ := leased(t)
	require.Contains(t, s.Send(ctx, call(1)).Outcome.Detail, "SENDGRID_2_API_KEY")
	_, err = s.LookUp(t.Context(), fanfare.Question{Call: callID})
	require.ErrorContains(t, err, "at sendgrid-2: status 401")
}

func TestSendLeavesEmptyPartsOut(t *testing.T) {
	t.Parallel()
	bodies := make(chan []byte, 1)
	s := provider(t, func(w http.ResponseWriter, r *http.Request) {
		bodies <- taken(r)
		w.WriteHeader(http.StatusAccepted)
	})
	c := call(1)
	c.Message.HTML = ""
	ctx, _ := leased(t)
	require.Equal(t, fanfare.OutcomeAccepted, s.Send(ctx, c).Outcome.Kind)
	require.NotContains(t, string(<-bodies), "text/html")
}

// refusal is an error answer in SendGrid's shape; field "" is null.
func refusal(fieldsAndMessages ...string) string {
	type entry struct {
		Message string  `json:"message"`
		Field   *string `json:"field"`
		Help    *string `json:"help"`
	}
	var all []entry
	for pair := range slices.Chunk(fieldsAndMessages, 2) {
		e := entry{Message: pair[1]}
		if pair[0] != "" {
			e.Field = &pair[0]
		}
		all = append(all, e)
	}
	body, err := json.Marshal(struct {
		Errors []entry `json:"errors"`
		ID     string  `json:"id"`
	}{all, "x"})
	if err != nil {
		panic(err)
	}
	return string(body)
}

const htmlPage = "<html>\r\n<head><title>nginx</title></head>\r\n</html>"

func TestSendAnswers(t *testing.T) {
	t.Parallel()
	type header map[string]string
	const date = "Fri, 20 Nov 2026 10:00:00 GMT" // 1795168800
	for name, tc := range map[string]struct {
		status     int
		header     header
		body       string
		recipients int
		want       fanfare.OutcomeKind
		split      bool
		rejected   []int
		retryAfter time.Duration
		account    bool
		says       string
	}{
		"accepted":                 {status: 202, want: fanfare.OutcomeAccepted},
		"accepted by sandbox mode": {status: 200, want: fanfare.OutcomeAccepted},

		"one bad among many": {
			status: 400, body: refusal("personalizations.3.to.0.email", "Does not contain a valid address."),
			want: fanfare.OutcomeReleased, rejected: []int{3}, says: "personalizations.3.to.0.email: Does not contain a valid address.",
		},
		"some bad among many": {
			status: 400, body: refusal("personalizations.0.to", "a", "personalizations[4].to[0].email", "b", "personalizations.9", "c"),
			want: fanfare.OutcomeReleased, rejected: []int{0, 4, 9},
		},
		"some named, some not": {
			status: 400, body: refusal("", "Bad Request", "personalizations.2.to.0.email", "b"),
			want: fanfare.OutcomeReleased, rejected: []int{2},
		},
		"the only one": {
			status: 400, recipients: 1, body: refusal("personalizations.0.to.0.email", "Does not contain a valid address."),
			want: fanfare.OutcomeReleased, rejected: []int{0},
		},
		"nobody named":                  {status: 400, body: refusal("", "Bad Request"), want: fanfare.OutcomeReleased, split: true, says: "Bad Request"},
		"the word null":                 {status: 400, body: refusal("null", "invalid request"), want: fanfare.OutcomeReleased, split: true, says: "request: invalid request"},
		"out of range":                  {status: 400, body: refusal("personalizations.10.to.0.email", "x"), want: fanfare.OutcomeReleased, split: true},
		"a number beyond all":           {status: 400, body: refusal("personalizations.99999999999999999999.to", "x"), want: fanfare.OutcomeReleased, split: true},
		"the whole list":                {status: 400, body: refusal("personalizations", "You have included [reader-1@readers.example] more than once."), want: fanfare.OutcomeReleased, split: true, says: "You have included […] more than once."},
		"a field nobody has heard of":   {status: 400, body: refusal("moon.phase", "x"), want: fanfare.OutcomeReleased, split: true},
		"not JSON":                      {status: 400, body: htmlPage, want: fanfare.OutcomeReleased, split: true, says: "does not say why"},
		"no body":                       {status: 400, want: fanfare.OutcomeReleased, split: true},
		"no errors":                     {status: 400, body: `{"errors":[]}`, want: fanfare.OutcomeReleased, split: true},
		"wrong types":                   {status: 400, body: `{"errors":[{"message":1,"field":2},{"field":"personalizations.1.to","message":"x"}]}`, want: fanfare.OutcomeReleased, rejected: []int{1}},
		"nobody named, one recipient":   {status: 400, recipients: 1, body: refusal("", "Bad Request"), want: fanfare.OutcomeRejected},
		"another 4xx":                   {status: 422, body: refusal("", "x"), want: fanfare.OutcomeReleased, split: true},
		"another 4xx, one recipient":    {status: 415, recipients: 1, body: refusal("", "x"), want: fanfare.OutcomeRejected},
		"the sender":                    {status: 400, body: refusal("from.email", "The from email does not contain a valid address."), want: fanfare.OutcomeUnavailable, account: true, says: "from.email"},
		"the sender and a recipient":    {status: 400, body: refusal("personalizations.0.to.0.email", "x", "from", "y", "content", "z"), want: fanfare.OutcomeUnavailable, account: true, says: "from: y"},
		"reply_to":                      {status: 400, body: refusal("reply_to.email", "x"), want: fanfare.OutcomeUnavailable, account: true},
		"categories":                    {status: 400, body: refusal("categories.0", "x"), want: fanfare.OutcomeUnavailable, account: true},
		"what we write into each":       {status: 400, body: refusal("personalizations.0.substitutions", "x", "personalizations.1.substitutions", "x"), want: fanfare.OutcomeUnavailable, account: true},
		"subject":                       {status: 400, body: refusal("subject", "The subject is required."), want: fanfare.OutcomeRejected, says: "The subject is required."},
		"content":                       {status: 400, body: refusal("content.0.value", "x"), want: fanfare.OutcomeRejected},
		"content and a recipient":       {status: 400, body: refusal("personalizations.0.to", "x", "content[0].value", "y"), want: fanfare.OutcomeRejected},
		"too large":                     {status: 413, body: htmlPage, want: fanfare.OutcomeReleased, split: true},
		"too large for one":             {status: 413, recipients: 1, body: htmlPage, want: fanfare.OutcomeRejected},
		"key":                           {status: 401, body: refusal("", "authorization required"), want: fanfare.OutcomeUnavailable, account: true, says: "SENDGRID_API_KEY"},
		"billing":                       {status: 402, want: fanfare.OutcomeUnavailable, account: true, says: "billing"},
		"sender not verified":           {status: 403, body: refusal("from", "The from address does not match a verified Sender Identity."), want: fanfare.OutcomeUnavailable, account: true, says: "SENDGRID_FROM"},
		"wrong place":                   {status: 404, want: fanfare.OutcomeUnavailable, account: true, says: "SENDGRID_BASE_URL"},
		"wrong method":                  {status: 405, want: fanfare.OutcomeUnavailable, account: true},
		"moved":                         {status: 301, header: header{"Location": "/elsewhere"}, want: fanfare.OutcomeUnavailable, account: true, says: "SENDGRID_BASE_URL"},
		"moved, method and body kept":   {status: 307, header: header{"Location": "/elsewhere"}, want: fanfare.OutcomeUnavailable, account: true},
		"throttled":                     {status: 429, body: refusal("", "too many requests"), want: fanfare.OutcomeThrottled},
		"throttled, seconds":            {status: 429, header: header{"Retry-After": "7"}, want: fanfare.OutcomeThrottled, retryAfter: 7 * time.Second},
		"throttled, at once":            {status: 429, header: header{"Retry-After": "0"}, want: fanfare.OutcomeThrottled, retryAfter: time.Second},
		"throttled, date":               {status: 429, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT"}, want: fanfare.OutcomeThrottled, retryAfter: 30 * time.Second},
		"throttled, reset":              {status: 429, header: header{"Date": date, "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeThrottled, retryAfter: 12 * time.Second},
		"throttled, reset in the past":  {status: 429, header: header{"Date": date, "X-RateLimit-Reset": "1795168799"}, want: fanfare.OutcomeThrottled, retryAfter: time.Second},
		"throttled, seconds first":      {status: 429, header: header{"Date": date, "Retry-After": "3", "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeThrottled, retryAfter: 3 * time.Second},
		"throttled, beyond all sense":   {status: 429, header: header{"Retry-After": "4294967295"}, want: fanfare.OutcomeThrottled, retryAfter: 24 * time.Hour},
		"throttled, nonsense":           {status: 429, header: header{"Retry-After": "soon", "X-RateLimit-Reset": "-1"}, want: fanfare.OutcomeThrottled},
		"not available":                 {status: 503, body: htmlPage, want: fanfare.OutcomeUnavailable},
		"throttled, date in the past":   {status: 429, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 09:59:00 GMT"}, want: fanfare.OutcomeThrottled, retryAfter: time.Second},
		"throttled, date of old":        {status: 429, header: header{"Date": date, "Retry-After": "Friday, 20-Nov-26 10:01:00 GMT"}, want: fanfare.OutcomeThrottled, retryAfter: time.Minute},
		"throttled, date of C":          {status: 429, header: header{"Date": date, "Retry-After": "Fri Nov 20 10:02:00 2026"}, want: fanfare.OutcomeThrottled, retryAfter: 2 * time.Minute},
		"throttled, date before reset":  {status: 429, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 10:00:30 GMT", "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeThrottled, retryAfter: 30 * time.Second},
		"throttled, some left":          {status: 429, header: header{"Date": date, "X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeThrottled, retryAfter: 12 * time.Second},
		"throttled, nonsense and reset": {status: 429, header: header{"Date": date, "Retry-After": "1.5", "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeThrottled, retryAfter: 12 * time.Second},
		"not available until a date":    {status: 503, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 10:00:41 GMT"}, want: fanfare.OutcomeUnavailable, retryAfter: 41 * time.Second},
		"not available, a date passed":  {status: 503, header: header{"Date": date, "Retry-After": "Fri, 20 Nov 2026 10:00:00 GMT"}, want: fanfare.OutcomeUnavailable, retryAfter: time.Second},
		"not available, some left":      {status: 503, header: header{"Date": date, "X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeUnavailable},
		"not available, nothing left":   {status: 503, header: header{"Date": date, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeUnavailable, retryAfter: 12 * time.Second},
		"not available, limit unknown":  {status: 503, header: header{"Date": date, "X-RateLimit-Reset": "1795168812"}, want: fanfare.OutcomeUnavailable},
		"not available, and says until": {status: 503, header: header{"Retry-After": "20"}, want: fanfare.OutcomeUnavailable, retryAfter: 20 * time.Second},
		"request time-out":              {status: 408, want: fanfare.OutcomeAmbiguous},
		"failed":                        {status: 500, body: refusal("", "internal server error"), want: fanfare.OutcomeAmbiguous},
		"bad gateway":                   {status: 502, body: htmlPage, want: fanfare.OutcomeAmbiguous},
		"gateway time-out":              {status: 504, want: fanfare.OutcomeAmbiguous},
		"another 5xx":                   {status: 599, want: fanfare.OutcomeAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			s := provider(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				taken(r)
				for k, v := range tc.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			if tc.recipients == 0 {
				tc.recipients = 10
			}
			ctx, _ := leased(t)
			reply := s.Send(ctx, call(tc.recipients))
			require.EqualValues(t, 1, requests.Load(), "a call is one request")
			require.Equal(t, tc.want, reply.Outcome.Kind, reply.Outcome.Detail)
			require.Equal(t, fmt.Sprint(tc.status), reply.Outcome.Code)
			require.Equal(t, tc.split, reply.Split)
			require.Equal(t, tc.retryAfter, reply.Outcome.RetryAfter)
			require.Equal(t, tc.account, reply.Outcome.Account)
			require.Contains(t, reply.Outcome.Detail, tc.says)
			require.Less(t, len(reply.Outcome.Detail), 256)
			require.NotContains(t, reply.Outcome.Detail, "@")
			var rejected []int
			for i, o := range reply.Named {
				rejected = append(rejected, i)
				require.Equal(t, fanfare.OutcomeRejected, o.Kind)
				require.Equal(t, fmt.Sprint(tc.status), o.Code)
				require.False(t, o.Account)
				require.NotContains(t, o.Detail, "@")
			}
			slices.Sort(rejected)
			require.Equal(t, tc.rejected, rejected)
		})
	}
}

// A refusal that breaks off is still a refusal; an acceptance is not.
func TestSendAnswerBreaksOff(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]fanfare.OutcomeKind{
		202: fanfare.OutcomeAmbiguous, 400: fanfare.OutcomeReleased, 401: fanfare.OutcomeUnavailable,
		429: fanfare.OutcomeThrottled, 503: fanfare.OutcomeUnavailable, 500: fanfare.OutcomeAmbiguous,
	} {
		s := provider(t, func(w http.ResponseWriter, r *http.Request) {
			taken(r)
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"errors":[`)
			_ = http.NewResponseController(w).Flush()
			silence()
		})
		ctx, _ := leased(t)
		reply := s.Send(ctx, call(2))
		require.Equal(t, want, reply.Outcome.Kind, status)
		require.Empty(t, reply.ProviderID)
	}
}

// Without a lease nobody knows how far the request came.
func TestSendWithoutLeaseIsInDoubt(t *testing.T) {
	t.Parallel()
	s := sender(t, "http://"+closedPort(t))
	require.Equal(t, fanfare.OutcomeAmbiguous, s.Send(t.Context(), call(1)).Outcome.Kind)
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
	c := call(1)
	c.Message.Text = strings.Repeat("more than the buffers of any socket hold\n", 1<<20)
	reply := s.Send(fanfare.WithLease(t.Context(), lease), c)
	require.Equal(t, fanfare.OutcomeReleased, reply.Outcome.Kind, reply.Outcome.Detail)
	require.Contains(t, reply.Outcome.Detail, "must end within 500ms")
	require.False(t, lease.Written())
	require.False(t, <-whole)
}

// What can be known without asking is not asked.
func TestSendRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	s := provider(t, func(http.ResponseWriter, *http.Request) { t.Error("must not be called") })
	ctx, _ := leased(t)
	for _, link := range []string{
		"", "unsubscribe/x", "ftp://blog.example/x", `https://blog.example/"x`, "https://blog.example/x y", "https://blog.example/x\n",
		"https://blog.example/?a=1&b=2", "https://blog.example/<x>", "https://blog.example/ñ", "https://blog.example/'x", "https://blog.example/\\x",
		"https://blog.example/" + strings.Repeat("x", 900),
	} {
		c := call(3)
		c.Recipients[1].Unsubscribe = link
		reply := s.Send(ctx, c)
		require.Equal(t, fanfare.OutcomeUnavailable, reply.Outcome.Kind, "%q", link)
		require.Contains(t, reply.Outcome.Detail, "recipient 2: a link is not a plain http(s) URL: check FANFARE_PUBLIC_URL")
		require.NotContains(t, reply.Outcome.Detail, "@")
	}
}

// SendGrid's messages can repeat what they were sent.
func TestSendDetailsHoldNothingPersonal(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]string{
		"You have included [reader-1@readers.example] more than once.":         "You have included […] more than once.",
		"You have included [Reader-1@Readers.Example] more than once.":         "You have included … more than once.",
		"the address reader-1@readers.example is invalid":                      "the address … is invalid",
		"no domain in odd one, sadly":                                          "no domain in …, sadly",
		`value "John Doe" is no 'good value'`:                                  "value … is no …",
		"can't take what isn't there":                                          "can't take what isn't there",
		"call +34 612 345 678 or (0034) 612-345-678":                           "call … or (…",
		"see https://blog.example/unsubscribe/token and <x@y.example>":         "see … and …",
		"limit of 1000 personalizations, you have 1200":                        "limit of 1000 personalizations, you have 1200",
		"line\r\nbreaks\x00 and \u2028 more":                                   "line breaks and more",
		strings.Repeat("ñ", 4000):                                              strings.Repeat("ñ", 84) + "…",
		"J\xffrg@readers.example " + strings.Repeat("reader@x.example ", 1000): "…",
	} {
		s := provider(t, func(w http.ResponseWriter, r *http.Request) {
			taken(r)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, refusal("personalizations.1.to.0.email", message))
		})
		c := call(3)
		c.Recipients[2].Address = "odd one" // nothing about it looks like an address
		ctx, _ := leased(t)
		reply := s.Send(ctx, c)
		for _, o := range []fanfare.Outcome{reply.Outcome, reply.Named[1]} {
			require.True(t, strings.HasPrefix(o.Detail, "SendGrid refuses the request: personalizations.1.to.0.email: "+want), "%q gave %q", message, o.Detail)
			require.NotContains(t, o.Detail, "@")
			require.Less(t, len(o.Detail), 256)
		}
	}
}

// What is no id of SendGrid's is none: it is kept and shown, and a byte that PostgreSQL does
// not take would keep the call from being settled.
func TestSendTakesNoOddMessageID(t *testing.T) {
	t.Parallel()
	for odd, want := range map[string]string{
		"14c5d75ce93.dfd.64b469": "14c5d75ce93.dfd.64b469", "Xj5LmNkWSOqRbdvOpR34BA": "Xj5LmNkWSOqRbdvOpR34BA",
		"\xff\xfe": "", "reader-1@readers.example": "", strings.Repeat("x", 101): "", "a b": "", "": "",
	} {
		s := provider(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header()["X-Message-Id"] = []string{odd}
			w.WriteHeader(http.StatusAccepted)
		})
		ctx, _ := leased(t)
		reply := s.Send(ctx, call(1))
		require.Equal(t, fanfare.OutcomeAccepted, reply.Outcome.Kind, "%q", odd)
		require.Equal(t, want, reply.ProviderID, "%q", odd)
	}
}
