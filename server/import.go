package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	fanfare "github.com/fanfare-dev/fanfare"
)

const (
	// chunkLines is how many subscribers the ledger commits at once: enough to
	// make the commit's cost small, few enough to lose little when cut.
	chunkLines = 10_000
	// chunkBytes bounds a chunk of long lines, and so the memory of an import.
	chunkBytes = 8 << 20
)

// Importer takes many subscribers in. It calls next until that returns io.EOF
// and commits what it returns chunk by chunk; when next fails, the report of
// what was committed comes back with the error.
type Importer interface {
	Import(ctx context.Context, topic fanfare.Topic, next func(context.Context) ([]fanfare.ImportLine, error)) (fanfare.ImportReport, error)
}

type importing struct {
	ledger Importer
	idle   time.Duration
	write  time.Duration
}

func (i *importing) ImportSubscribers(c echo.Context, topic fanfare.Topic) error {
	inCSV, err := isCSV(c.Request())
	if err != nil {
		return err
	}
	control := http.NewResponseController(c.Response())
	// Imports take as long as they take: the server's time-outs for a request
	// are lifted, and every read gets its own. Only a recorder cannot do this.
	_ = control.SetWriteDeadline(time.Time{})
	defer func() { _ = control.SetWriteDeadline(time.Now().Add(i.write)) }()
	source := &importSource{
		lines: newLineReader(&patientBody{body: c.Request().Body, control: control, idle: i.idle}),
		check: newSubscriberCheck(),
	}
	format := jsonLines
	if inCSV {
		format = csvLines
	}
	if source.parse, err = format(source.lines); err != nil {
		return err
	}
	// The body's end is the import's end: when the client leaves, what was read
	// is still committed.
	report, err := i.ledger.Import(context.WithoutCancel(c.Request().Context()), topic, source.next)
	if errors.Is(err, fanfare.ErrUnknownTopic) {
		return err
	}
	if err != nil {
		return &cutImportError{err: err, report: report}
	}
	return c.JSON(http.StatusOK, mergeReports(report, source.rejected))
}

// isCSV says by the request's Content-Type whether lines are CSV or JSON.
func isCSV(r *http.Request) (bool, error) {
	if err := checkEncoding(r); err != nil {
		return false, err
	}
	given := r.Header.Get(echo.HeaderContentType)
	media, _, err := mime.ParseMediaType(given)
	if err != nil {
		media = ""
	}
	switch media {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json":
		return false, nil
	case "text/csv":
		return true, nil
	}
	return false, fmt.Errorf("the Content-Type is %q and must be application/x-ndjson or text/csv: %w", given, errMediaType)
}

// patientBody waits for each piece of a body, but not for ever.
type patientBody struct {
	body    io.Reader
	control *http.ResponseController
	idle    time.Duration
}

func (p *patientBody) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(p.idle))
	n, err := p.body.Read(b)
	switch {
	case errors.Is(err, io.EOF):
		// The server goes on reading in the background to see the client leave; a
		// deadline left behind would look like that while the rest is committed.
		_ = p.control.SetReadDeadline(time.Time{})
		return n, err
	case err == nil:
		return n, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, fmt.Errorf("%w for %s", errBodyTooSlow, p.idle)
	}
	return n, errBodyCut
}

// importSource turns the body's lines into chunks and keeps what it rejects.
type importSource struct {
	lines    *lineReader
	parse    parseLine
	check    *subscriberCheck
	rejected fanfare.ImportReport
	ended    error
}

// next gives the next chunk, and io.EOF after the last. What was read before
// the body failed is given before the failure.
func (s *importSource) next(context.Context) ([]fanfare.ImportLine, error) {
	var chunk []fanfare.ImportLine
	for size := 0; s.ended == nil && len(chunk) < chunkLines && size < chunkBytes; {
		line, err := s.lines.next()
		if errors.Is(err, errLineTooLong) {
			s.rejected.Reject(s.lines.number, err.Error())
			continue
		}
		if err != nil {
			s.ended = err
			break
		}
		subscriber, err := s.read(line)
		if err != nil {
			s.rejected.Reject(s.lines.number, err.Error())
			continue
		}
		size += len(line)
		chunk = append(chunk, fanfare.ImportLine{Line: s.lines.number, Subscriber: subscriber})
	}
	if len(chunk) > 0 {
		return chunk, nil
	}
	return nil, s.ended
}

// read makes a subscriber of a line, or says in a sentence why it cannot.
func (s *importSource) read(line []byte) (fanfare.Subscriber, error) {
	if !utf8.Valid(line) {
		return fanfare.Subscriber{}, errors.New("is not UTF-8 text")
	}
	subscriber, err := s.parse(line)
	if err != nil {
		return subscriber, err
	}
	if violations := s.check.check(&subscriber); len(violations) > 0 {
		return subscriber, lineError(violations)
	}
	return subscriber, nil
}

// cutImportError is an import that did not reach its end.
type cutImportError struct {
	err    error
	report fanfare.ImportReport
}

func (c *cutImportError) Error() string { return c.err.Error() }
func (c *cutImportError) Unwrap() error { return c.err }

// taken says what was committed before the cut and what to do.
func (c *cutImportError) taken() string {
	r := c.report
	return fmt.Sprintf("%d lines were taken before (%d created, %d updated, %d unchanged). Send all lines again: those stay as they are and the rest is added.",
		r.Created+r.Updated+r.Unchanged, r.Created, r.Updated, r.Unchanged)
}

// mergeReports adds the lines that never reached the ledger to its report.
func mergeReports(report, rejected fanfare.ImportReport) fanfare.ImportReport {
	report.RejectedCount += rejected.RejectedCount
	all := append(slices.Clone(report.Rejected), rejected.Rejected...)
	slices.SortFunc(all, func(a, b fanfare.RejectedLine) int { return cmp.Compare(a.Line, b.Line) })
	report.Rejected = append([]fanfare.RejectedLine{}, all[:min(len(all), fanfare.MaxRejectedLines)]...)
	return report
}
