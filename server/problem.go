package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// What can go wrong with a request before it reaches the domain.
var (
	errUnauthorized   = errors.New("unauthorized")
	errNoToken        = errors.New("no valid subscriber token")
	errTooManyStreams = errors.New("too many streams")
	errMediaType      = errors.New("unsupported media type")
	errBodyTooLarge   = errors.New("request body too large")
	errEventsTooLarge = errors.New("webhook's body too large")
	errBodyTooSlow    = errors.New("request body stopped coming")
	errBodyCut        = errors.New("request body ended too early")
)

// What is not there, where more can be said than that.
var (
	errNoPublication = errors.New("the filter's publication does not exist")
	errNoSuppression = errors.New("no such suppression")
	errNoProvider    = errors.New("no such provider")
	errNoWebhook     = errors.New("no such webhook")
	errWebhookOff    = errors.New("the webhook is off")
)

// retryAfter is what clients are told to wait while PostgreSQL is away, in
// seconds: long enough to be gentle, short against a fail-over.
const retryAfter = 5

// problem is what the outside is told of an error. Without a detail of its own
// the error's words are told.
type problem struct {
	err       error
	status    int
	code      api.ProblemCode
	title     string
	detail    string
	retryable bool
}

// problems translates errors to HTTP. The first row that matches counts; what
// matches none is internal, and nothing is told about it.
var problems = []problem{
	{fanfare.ErrUnavailable, http.StatusServiceUnavailable, api.ProblemCodeUnavailable, "Temporarily unavailable", "The database cannot be reached at the moment. Send the same request again.", true},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, api.ProblemCodeUnavailable, "Temporarily unavailable", "The request took too long and was given up. Send the same request again.", true},
	{context.Canceled, http.StatusServiceUnavailable, api.ProblemCodeUnavailable, "Temporarily unavailable", "The request was given up. Send the same request again.", true},
	{errTooManyStreams, http.StatusServiceUnavailable, api.ProblemCodeUnavailable, "Temporarily unavailable", "This server has as many streams open as it may have, or as one subscriber may have, or it is stopping. Close some, or come back later.", true},
	{fanfare.ErrInvalid, http.StatusBadRequest, api.ProblemCodeInvalidRequest, "The request is not valid", "", false},
	{fanfare.ErrChannelOff, http.StatusBadRequest, api.ProblemCodeInvalidRequest, "The request is not valid", "", false},
	{fanfare.ErrNotFound, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "There is nothing with this id.", false},
	{fanfare.ErrUnknownTopic, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "There is no such topic; create it with PUT /v1/topics/{topic}.", false},
	{errNoPublication, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "filter.publication is neither the id nor the key of a publication; GET /v1/publications lists them.", false},
	{errNoSuppression, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "This address is not suppressed on this channel.", false},
	{errNoProvider, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "There is no provider with this name; GET /v1/providers lists them.", false},
	{errNoWebhook, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "There is no provider with this name that has a webhook here.", false},
	{errWebhookOff, http.StatusNotFound, api.ProblemCodeNotFound, "Not found", "", false},
	{fanfare.ErrConflict, http.StatusConflict, api.ProblemCodeKeyConflict, "The key is taken by other content", "", false},
	{fanfare.ErrWrongState, http.StatusConflict, api.ProblemCodeWrongState, "Not possible in this state", "", false},
	{fanfare.ErrKeyReused, http.StatusUnprocessableEntity, api.ProblemCodeKeyReused, "The Idempotency-Key was used with another request", "Use a new Idempotency-Key for a new request, or send the first request again as it was.", false},
	{errUnauthorized, http.StatusUnauthorized, api.ProblemCodeUnauthorized, "Unauthorized", "Send a valid API key as \"Authorization: Bearer <key>\".", false},
	{errNoToken, http.StatusUnauthorized, api.ProblemCodeUnauthorized, "Unauthorized", "Send the subscriber's token as \"Authorization: Bearer <token>\"; the publisher makes one with POST /v1/subscribers/{id}/tokens. API keys do not open this.", false},
	{fanfare.ErrTokenExpired, http.StatusUnauthorized, api.ProblemCodeTokenExpired, "The token has expired", "Get another from the publisher, who makes it with POST /v1/subscribers/{id}/tokens.", false},
	{fanfare.ErrBadSignature, http.StatusUnauthorized, api.ProblemCodeBadSignature, "The signature is not valid", "The body was not signed with the key that this server knows. Set the public key that the provider shows for this webhook (for Twilio the token of the account, and FANFARE_PUBLIC_URL as Twilio calls it), and have proxies leave the body as it is.", false},
	{fanfare.ErrStaleSignature, http.StatusUnauthorized, api.ProblemCodeStaleSignature, "The signature is too old", "The body was signed too long ago. Whoever repeats an old request is refused; a provider signs anew when it tries again. If all are refused, set this machine's clock.", false},
	{errMediaType, http.StatusUnsupportedMediaType, api.ProblemCodeUnsupportedMediaType, "Unsupported media type", "", false},
	{errBodyTooLarge, http.StatusRequestEntityTooLarge, api.ProblemCodeTooLarge, "The request is too large", "A request body is at most 1 MiB. Send people with the import, which has no limit.", false},
	{errEventsTooLarge, http.StatusRequestEntityTooLarge, api.ProblemCodeTooLarge, "The request is too large", "A webhook's body is at most 10 MiB. Have the provider send smaller batches.", false},
	{errBodyTooSlow, http.StatusRequestTimeout, api.ProblemCodeRequestTimeout, "The request took too long to arrive", "The body stopped coming.", true},
	{errBodyCut, http.StatusBadRequest, api.ProblemCodeInvalidRequest, "The request is not valid", "The body ended too early.", false},
}

// answerProblem writes the problem document of err. It is echo's error handler.
func answerProblem(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	p := problemOf(err)
	if errors.Is(err, fanfare.ErrNotFound) && p.status == http.StatusNotFound {
		p.detail = missing(c.Path(), p.detail)
	}
	doc := api.Problem{
		Type:       "urn:fanfare:problem:" + string(p.code),
		Title:      p.title,
		Status:     p.status,
		Detail:     shorten(p.detail, 4000),
		Code:       p.code,
		Retryable:  p.retryable,
		Violations: violationsOf(err),
		RequestId:  requestID(c),
	}
	header := c.Response().Header()
	switch p.status {
	case http.StatusServiceUnavailable:
		header.Set(echo.HeaderRetryAfter, strconv.Itoa(retryAfter))
	case http.StatusUnauthorized:
		header.Set(echo.HeaderWWWAuthenticate, challenge(p))
	}
	c.Set(codeKey, string(p.code))
	header.Set(echo.HeaderContentType, "application/problem+json")
	c.Response().WriteHeader(p.status)
	// The only error left is that the client is gone.
	_ = c.Echo().JSONSerializer.Serialize(c, doc, "")
}

// absent is what is told of a thing that is not there, by the route that asked for
// it. The first row that the route begins with counts.
var absent = [][2]string{
	{"/v1/publications/", "There is no publication with this id; GET /v1/publications lists them."},
	{"/v1/deliveries/", "There is no delivery with this id; GET /v1/publications/{id}/deliveries lists those of a publication."},
	{"/v1/subscribers/", "There is no subscriber with this id; PUT /v1/subscribers/{id} makes one."},
	{"/v1/topics/", "There is no subscriber with this id; PUT /v1/subscribers/{id} makes one."},
	{"/v1/templates/", "There is no such template, or it has no such version; GET /v1/templates lists them."},
	{"/v1/replays/", "There is no replay with this id; GET /v1/replays lists them."},
	{"/v1/me/inbox/:", "There is no such notification in this inbox."},
	{"/v1/me/", "The subscriber of this token does not exist any more."},
}

func missing(route, otherwise string) string {
	for _, row := range absent {
		if strings.HasPrefix(route, row[0]) {
			return row[1]
		}
	}
	return otherwise
}

// challenge is how to authenticate: with a key or a token, or as a provider does.
func challenge(p problem) string {
	switch p.code {
	case api.ProblemCodeUnauthorized:
		return "Bearer"
	case api.ProblemCodeTokenExpired:
		return `Bearer error="invalid_token"` // RFC 6750, 3.1
	}
	return "Signature"
}

func problemOf(err error) problem {
	for _, p := range problems {
		if errors.Is(err, p.err) {
			p.detail = detailOf(p, err)
			return p
		}
	}
	if routed, ok := errors.AsType[*echo.HTTPError](err); ok {
		switch routed.Code {
		case http.StatusNotFound:
			return problem{status: routed.Code, code: api.ProblemCodeNotFound, title: "Not found", detail: "There is nothing at this address; /openapi.yaml describes what there is."}
		case http.StatusMethodNotAllowed:
			return problem{status: routed.Code, code: api.ProblemCodeMethodNotAllowed, title: "Method not allowed", detail: "This address does not take this method; the Allow header names those it takes."}
		}
	}
	return problem{status: http.StatusInternalServerError, code: api.ProblemCodeInternal, title: "Internal error", detail: "Something went wrong here. The request id finds it in the server's log."}
}

// detailOf says what happened this time. Errors of the domain carry ids, never
// personal data, so that their words may be told.
func detailOf(p problem, err error) string {
	if invalid, ok := errors.AsType[*fanfare.InvalidError](err); ok {
		return summary(invalid.Violations)
	}
	if conflict, ok := errors.AsType[*fanfare.ConflictError](err); ok {
		return conflict.Error()
	}
	if cut, ok := errors.AsType[*cutImportError](err); ok {
		return p.detail + " " + cut.taken()
	}
	if p.detail == "" {
		return strings.TrimSuffix(err.Error(), ": "+p.err.Error())
	}
	return p.detail
}

func summary(violations []fanfare.Violation) string {
	if len(violations) == 1 {
		return violations[0].Field + " " + violations[0].Detail
	}
	fields := make([]string, len(violations))
	for i, v := range violations {
		fields[i] = v.Field
	}
	return fmt.Sprintf("%d fields are wrong: %s", len(fields), strings.Join(fields, ", "))
}

// violationsOf lists the offending fields: what is wrong with each, or that it
// differs from the publication that has the key.
func violationsOf(err error) []fanfare.Violation {
	if invalid, ok := errors.AsType[*fanfare.InvalidError](err); ok {
		return invalid.Violations
	}
	conflict, ok := errors.AsType[*fanfare.ConflictError](err)
	if !ok {
		return nil
	}
	violations := make([]fanfare.Violation, len(conflict.Fields))
	for i, field := range conflict.Fields {
		violations[i] = fanfare.Violation{Field: field, Detail: "differs from the publication that has this key"}
	}
	return violations
}

// shorten cuts s to at most n bytes, at a whole character.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
