package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
)

// maxBody is how many bytes a request's body may have, imports excepted. It
// leaves room to escape content of maxContent bytes.
const maxBody = 1 << 20

// unlimited are the operations that take as long as the client goes on. Imports read
// their body themselves.
var unlimited = map[string]bool{"importSubscribers": true, "importSuppressions": true, "followInbox": true}

// unread are the operations whose body is not read here.
var unread = map[string]bool{"importSubscribers": true, "importSuppressions": true, "unsubscribe": true, "savePreferences": true, "takeEvents": true}

// deepCheck finds what the description cannot say about a body. It must bear
// bodies that do not match the description.
type deepCheck func(ctx context.Context, body []byte) ([]fanfare.Violation, error)

// gate is what every request passes before its handler: the API key or the
// subscriber's token, the time it may take, and the description.
type gate struct {
	keys    [][sha256.Size]byte
	secret  fanfare.Secret // of subscribers' tokens
	now     func() time.Time
	span    time.Duration
	deep    map[string]deepCheck
	options *openapi3filter.Options
}

func newGate(keys []fanfare.Secret, secret fanfare.Secret, now func() time.Time, span time.Duration, deep map[string]deepCheck) *gate {
	g := &gate{secret: secret, now: now, span: span, deep: deep, options: &openapi3filter.Options{
		MultiError:          true,
		SkipSettingDefaults: true,
		SchemaValidationOptions: []openapi3.SchemaValidationOption{
			openapi3.WithStringFormatValidator("date-time", openapi3.NewCallbackValidator(func(s string) error {
				_, err := time.Parse(time.RFC3339, s)
				return err
			})),
		},
	}}
	for _, key := range keys {
		g.keys = append(g.keys, sha256.Sum256([]byte(key)))
	}
	return g
}

// middlewares gives each operation of the description its steps.
func (g *gate) middlewares(doc *openapi3.T) map[string][]echo.MiddlewareFunc {
	steps := map[string][]echo.MiddlewareFunc{}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			route := &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: operation}
			var of []echo.MiddlewareFunc
			switch {
			case operation.Security == nil:
				of = append(of, g.authenticate)
			case len(*operation.Security) > 1:
				of = append(of, g.authenticateInAddress)
			case len(*operation.Security) > 0:
				of = append(of, g.authenticateSubscriber)
			}
			if !unlimited[operation.OperationID] {
				of = append(of, g.limitTime)
			}
			steps[operation.OperationID] = append(of, g.validate(route))
		}
	}
	return steps
}

// authenticate compares the key with every key there is, in constant time.
func (g *gate) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		key, _ := bearer(c)
		sum := sha256.Sum256([]byte(key))
		known := 0
		for i := range g.keys {
			known |= subtle.ConstantTimeCompare(sum[:], g.keys[i][:])
		}
		if known != 1 {
			return errUnauthorized
		}
		return next(c)
	}
}

// bearer is what stands behind "Bearer" in the Authorization header.
func bearer(c echo.Context) (credential string, ok bool) {
	scheme, credential, _ := strings.Cut(c.Request().Header.Get(echo.HeaderAuthorization), " ")
	credential = strings.TrimSpace(credential)
	if !strings.EqualFold(scheme, "Bearer") || credential == "" {
		return "", false
	}
	return credential, true
}

func (g *gate) limitTime(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), g.span)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return next(c)
	}
}

// validate holds the request against the description and then against the
// operation's deep check, and refuses it with everything both of them found.
func (g *gate) validate(route *routers.Route) echo.MiddlewareFunc {
	deep := g.deep[route.Operation.OperationID]
	buffered := route.Operation.RequestBody != nil && !unread[route.Operation.OperationID]
	options := *g.options
	options.ExcludeRequestBody = !buffered
	// authenticate has judged the key. The validator would read the whole body,
	// imports too, before it asked for a judgement.
	operation := *route.Operation
	operation.Security = &openapi3.SecurityRequirements{}
	unsecured := *route
	unsecured.Operation = &operation
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			params, err := pathParams(c)
			if err != nil {
				return err
			}
			var body []byte
			if buffered {
				if body, err = readBody(c, route.Operation.RequestBody.Value); err != nil {
					return err
				}
			}
			violations := translate(openapi3filter.ValidateRequest(c.Request().Context(), &openapi3filter.RequestValidationInput{
				Request: c.Request(), PathParams: params, QueryParams: c.QueryParams(), Route: &unsecured, Options: &options,
			}))
			if deep != nil {
				more, err := deep(c.Request().Context(), body)
				if err != nil {
					return err
				}
				violations = append(violations, more...)
			}
			if len(violations) > 0 {
				return &fanfare.InvalidError{Violations: firstOfEach(violations)}
			}
			return next(c)
		}
	}
}

// pathParams gives the path's parameters as the client meant them. Echo leaves
// them escaped when the client escaped more than it had to.
func pathParams(c echo.Context) (map[string]string, error) {
	params := map[string]string{}
	values := c.ParamValues()
	for i, name := range c.ParamNames() {
		if c.Request().URL.RawPath != "" {
			value, err := url.PathUnescape(values[i])
			if err != nil {
				return nil, &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: name, Detail: "is not escaped well"}}}
			}
			values[i] = value
		}
		params[name] = values[i]
	}
	return params, nil
}

// readBody reads a body of at most maxBody bytes and puts it back.
func readBody(c echo.Context, described *openapi3.RequestBody) ([]byte, error) {
	r := c.Request()
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), r.Body, maxBody))
	if err != nil {
		return nil, bodyError(err)
	}
	if len(body) > 0 {
		if err := checkMediaType(r, described); err != nil {
			return nil, err
		}
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return body, nil
}

// bodyError says in the server's words why a body could not be read.
func bodyError(err error) error {
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return errBodyTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodyTooSlow
	}
	return fmt.Errorf("%w: %w", errBodyCut, err)
}

// checkMediaType refuses what the description does not name, and compression.
func checkMediaType(r *http.Request, described *openapi3.RequestBody) error {
	given := r.Header.Get(echo.HeaderContentType)
	if described.Content.Get(given) == nil || given == "" {
		return fmt.Errorf("the Content-Type is %q and must be %s: %w", given, mediaTypes(described), errMediaType)
	}
	return checkEncoding(r)
}

func checkEncoding(r *http.Request) error {
	if encoding := r.Header.Get(echo.HeaderContentEncoding); encoding != "" && encoding != "identity" {
		return fmt.Errorf("the Content-Encoding is %q; send the body as it is: %w", encoding, errMediaType)
	}
	return nil
}
