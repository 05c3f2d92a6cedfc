package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// maxAnswer bounds what is read of an answer; an import's report is the largest.
const maxAnswer = 16 << 20

// errUnreachable says that nobody, or nobody of ours, answers at the API's address.
var errUnreachable = errors.New("the API cannot be reached")

// apiClient talks to the HTTP API.
type apiClient struct {
	base string
	key  fanfare.Secret
}

func (a *app) client() (*apiClient, error) {
	s, err := settings[clientSettings](a)
	if err != nil {
		return nil, err
	}
	return &apiClient{base: strings.TrimRight(s.APIURL, "/"), key: s.APIKey}, nil
}

// send sends v as JSON and reads the answer into answer, both where not nil.
func (c *apiClient) send(ctx context.Context, method, path string, v, answer any) error {
	if v == nil {
		return c.stream(ctx, method, path, "", nil, answer)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return c.stream(ctx, method, path, "application/json", bytes.NewReader(body), answer)
}

// stream sends a body of any length.
func (c *apiClient) stream(ctx context.Context, method, path, contentType string, body io.Reader, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.Header.Set("Authorization", "Bearer "+string(c.key))
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return c.notReached(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return c.notReached(err)
	}
	if response.StatusCode/100 != 2 {
		return c.refused(response, text)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%w: what answers at %s is not Fanfare's API: %w", errUnreachable, c.base, err)
	}
	return nil
}

// listedAtOnce is how many items a page of a list has at most.
const listedAtOnce = 1000

// readAll reads a list page by page, up to limit items; 0 is all.
func readAll[T any](ctx context.Context, c *apiClient, path string, query url.Values, limit int) ([]T, error) {
	all := []T{}
	for {
		wanted := listedAtOnce
		if limit != 0 {
			wanted = min(wanted, limit-len(all))
		}
		query.Set("limit", strconv.Itoa(wanted))
		var page struct {
			Items      []T     `json:"items"`
			NextCursor *string `json:"next_cursor"`
		}
		if err := c.send(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.NextCursor == nil || len(all) == limit {
			return all, nil
		}
		query.Set("cursor", *page.NextCursor)
	}
}

// notReached says what to start. The URL in the error would only repeat itself.
func (c *apiClient) notReached(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var address *url.Error
	if errors.As(err, &address) {
		err = address.Err
	}
	return fmt.Errorf("%w at %s (%w)\nStart `fanfare dev` or `fanfare server`, or set FANFARE_API_URL to where it runs", errUnreachable, c.base, err)
}

// problemError is a problem document, in sentences.
type problemError struct {
	api.Problem
	hint string
}

func (e *problemError) Error() string {
	lines := []string{e.Title}
	if e.Detail != "" && len(e.Violations) == 0 {
		lines[0] += ": " + e.Detail
	}
	for _, v := range e.Violations {
		lines = append(lines, "  "+v.Field+" "+v.Detail)
	}
	if e.hint != "" {
		lines = append(lines, e.hint)
	}
	if e.Status >= http.StatusInternalServerError {
		lines = append(lines, "The server's log knows this request as "+e.RequestId+".")
	}
	return strings.Join(lines, "\n")
}

func (c *apiClient) refused(response *http.Response, text []byte) error {
	var problem problemError
	if err := json.Unmarshal(text, &problem.Problem); err != nil || problem.Code == "" {
		return fmt.Errorf("%w: something that is not Fanfare's API answers %s at %s", errUnreachable, response.Status, c.base)
	}
	if response.StatusCode == http.StatusUnauthorized {
		problem.hint = "Set FANFARE_API_KEY to one of the keys in the server's FANFARE_API_KEYS."
	}
	return &problem
}

// temporary reports whether the same request may soon succeed: the server is
// away, or says so itself.
func temporary(err error) bool {
	var problem *problemError
	return errors.Is(err, errUnreachable) || errors.As(err, &problem) && problem.Retryable
}
