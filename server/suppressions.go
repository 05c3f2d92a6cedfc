package server

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/server/api"
)

// Suppressor keeps the addresses that must not be used. Of those given to Suppress
// it returns how many were not suppressed already. Suppression reads what an address is
// suppressed for and LiftSuppression returns what it lifted; both fail with
// fanfare.ErrNotFound where it is not suppressed.
type Suppressor interface {
	Suppressions(ctx context.Context, q fanfare.SuppressionQuery) ([]fanfare.Suppression, error)
	Suppress(ctx context.Context, channel fanfare.Channel, refused []fanfare.Refused) (created int64, err error)
	Suppression(ctx context.Context, channel fanfare.Channel, address string) (fanfare.Suppression, error)
	LiftSuppression(ctx context.Context, channel fanfare.Channel, address string) (fanfare.Suppression, error)
}

type suppressions struct {
	ledger Suppressor
	idle   time.Duration
	write  time.Duration
}

func (s *suppressions) ListSuppressions(c echo.Context, params api.ListSuppressionsParams) error {
	after, err := readCursor(params.Cursor, func(cursor string) (fanfare.SuppressionQuery, bool) {
		channel, hash, _ := strings.Cut(cursor, " ")
		raw, err := hex.DecodeString(hash)
		q := fanfare.SuppressionQuery{AfterChannel: fanfare.Channel(channel), AfterHash: hash}
		return q, err == nil && len(raw) == sha256.Size && q.AfterChannel.Valid()
	})
	if err != nil {
		return err
	}
	limit := pageSize(params.Limit)
	after.Channel, after.Reason, after.Hash, after.Limit = params.Channel, params.Reason, params.AddressHash, limit+1
	list, err := s.ledger.Suppressions(c.Request().Context(), after)
	if err != nil {
		return err
	}
	items, next := page(list, limit, func(s fanfare.Suppression) string { return string(s.Channel) + " " + s.Hash })
	return c.JSON(http.StatusOK, api.SuppressionList{Items: items, NextCursor: next})
}

func (s *suppressions) Suppress(c echo.Context) error {
	var asked api.SuppressionBody
	if err := decode(c, &asked); err != nil {
		return err
	}
	address, why := suppressible(asked.Channel, asked.Address)
	if why != "" {
		return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "address", Detail: why}}}
	}
	if asked.Reason == "" {
		asked.Reason = fanfare.SuppressedManual
	}
	ctx := c.Request().Context()
	created, err := s.ledger.Suppress(ctx, asked.Channel, []fanfare.Refused{{Address: address, Reason: asked.Reason}})
	if err != nil {
		return err
	}
	standing, err := s.ledger.Suppression(ctx, asked.Channel, address)
	if err != nil {
		return err
	}
	return c.JSON(putStatus(created > 0), standing)
}

func (s *suppressions) LiftSuppression(c echo.Context) error {
	var asked api.SuppressedAddress
	if err := decode(c, &asked); err != nil {
		return err
	}
	address, why := suppressible(asked.Channel, asked.Address)
	if why != "" {
		return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "address", Detail: why}}}
	}
	lifted, err := s.ledger.LiftSuppression(c.Request().Context(), asked.Channel, address)
	if errors.Is(err, fanfare.ErrNotFound) {
		return errNoSuppression
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, lifted)
}

// suppressible gives an address in the form that subscribers' have, or says what is
// wrong with it.
func suppressible(channel fanfare.Channel, address string) (normal, why string) {
	switch channel {
	case fanfare.Email:
		if !validEmail(address) {
			return "", "must be a plain address, name@domain"
		}
	case fanfare.SMS:
		phone, ok := normalPhone(address)
		if !ok {
			return "", "must be an international number that begins with +"
		}
		return phone, ""
	case fanfare.Push:
		if len(address) > maxDeviceToken || strings.ContainsFunc(address, unicode.IsControl) {
			return "", "must be a device's token"
		}
	case fanfare.InApp:
		return "", "cannot be suppressed in the app: there are no addresses"
	}
	return address, ""
}

// ImportSuppressions takes the lines as it reads them.
func (s *suppressions) ImportSuppressions(c echo.Context, params api.ImportSuppressionsParams) error {
	inCSV, err := isCSV(c.Request())
	if err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	_ = control.SetWriteDeadline(time.Time{}) // as for an import of subscribers
	defer func() { _ = control.SetWriteDeadline(time.Now().Add(s.write)) }()
	lines := newLineReader(&patientBody{body: c.Request().Body, control: control, idle: s.idle})
	read := refusedInJSON
	if inCSV {
		if read, err = refusedInCSV(lines); err != nil {
			return err
		}
	}
	usual := cmp.Or(params.Reason, fanfare.SuppressedManual)
	report, err := s.take(context.WithoutCancel(c.Request().Context()), params.Channel, usual, lines, read)
	if err != nil {
		return &cutImportError{err: err, report: report}
	}
	return c.JSON(http.StatusOK, mergeReports(report, fanfare.ImportReport{}))
}

// take suppresses the addresses on the lines, chunk by chunk, for the usual reason where
// a line gives none.
func (s *suppressions) take(ctx context.Context, channel fanfare.Channel, usual fanfare.SuppressionReason, lines *lineReader, read func([]byte) (fanfare.Refused, error)) (fanfare.ImportReport, error) {
	var report fanfare.ImportReport
	var chunk []fanfare.Refused
	size := 0
	flush := func() error {
		created, err := s.ledger.Suppress(ctx, channel, chunk)
		if err == nil {
			report.Created += created
			report.Unchanged += int64(len(chunk)) - created
			chunk, size = nil, 0
		}
		return err
	}
	for {
		line, err := lines.next()
		if errors.Is(err, errLineTooLong) {
			report.Reject(lines.number, err.Error())
			continue
		}
		if err != nil {
			if failed := flush(); failed != nil {
				return report, failed
			}
			if errors.Is(err, io.EOF) {
				return report, nil
			}
			return report, err
		}
		refused, err := readRefused(channel, line, read)
		if err != nil {
			report.Reject(lines.number, err.Error())
			continue
		}
		if !refused.Reason.Valid() {
			refused.Reason = usual
		}
		size += len(line)
		if chunk = append(chunk, refused); len(chunk) == chunkLines || size >= chunkBytes {
			if err := flush(); err != nil {
				return report, err
			}
		}
	}
}

// readRefused reads one line. Its errors never repeat what may be an address.
func readRefused(channel fanfare.Channel, line []byte, read func([]byte) (fanfare.Refused, error)) (fanfare.Refused, error) {
	if !utf8.Valid(line) {
		return fanfare.Refused{}, errors.New("is not UTF-8 text")
	}
	refused, err := read(line)
	if err != nil {
		return refused, err
	}
	if refused.Address == "" {
		return refused, errors.New("has no address")
	}
	address, why := suppressible(channel, refused.Address)
	if why != "" {
		return refused, errors.New("the address " + why)
	}
	refused.Address = address
	return refused, nil
}

// addressNames are what a column or member with an address may be called.
var addressNames = []string{"address", "email", "phone", "token"}

func refusedInJSON(line []byte) (fanfare.Refused, error) {
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		return fanfare.Refused{}, errors.New("is not a JSON object")
	}
	var refused fanfare.Refused
	for _, name := range addressNames {
		if address, ok := fields[name].(string); ok {
			refused.Address = address
		}
	}
	reason, _ := fields["reason"].(string)
	refused.Reason = fanfare.SuppressionReason(reason)
	return refused, nil
}

// refusedInCSV reads the header and gives the reader of the lines that follow.
func refusedInCSV(lines *lineReader) (func([]byte) (fanfare.Refused, error), error) {
	header, err := lines.next()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLineTooLong) {
		return nil, err
	}
	names, _ := csvFields(header)
	for i, name := range names {
		names[i] = strings.ToLower(strings.TrimSpace(name))
	}
	address := slices.IndexFunc(names, func(name string) bool { return slices.Contains(addressNames, name) })
	if address < 0 {
		return nil, headerError("must be the first line and name the columns, one of them email, phone, token or address")
	}
	reason := slices.Index(names, "reason")
	return func(line []byte) (fanfare.Refused, error) {
		values, err := csvFields(line)
		if err != nil || len(values) != len(names) {
			return fanfare.Refused{}, fmt.Errorf("has not the %d columns of the header", len(names))
		}
		refused := fanfare.Refused{Address: strings.TrimSpace(values[address])}
		if reason >= 0 {
			refused.Reason = fanfare.SuppressionReason(strings.ToLower(strings.TrimSpace(values[reason])))
		}
		return refused, nil
	}, nil
}

// csvFields are those of one line of CSV.
func csvFields(line []byte) ([]string, error) { return csv.NewReader(bytes.NewReader(line)).Read() }
