package server

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	fanfare "github.com/fanfare-dev/fanfare"
)

// maxLine is how many bytes a line of an import may have.
const maxLine = 64 << 10

var errLineTooLong = fmt.Errorf("is longer than %d bytes", maxLine)

// lineReader reads lines of at most maxLine bytes in constant memory.
type lineReader struct {
	reader *bufio.Reader
	number int // of the line that next gave last, from 1
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{reader: bufio.NewReaderSize(r, maxLine+len("\r\n"))}
}

// next gives the next line that is not blank, without its end. The line is
// good until the next call. A line that is too long is skipped and gives
// errLineTooLong; the one after it can be read.
func (l *lineReader) next() ([]byte, error) {
	for {
		raw, err := l.reader.ReadSlice('\n')
		if len(raw) == 0 && err != nil {
			return nil, err
		}
		l.number++
		tooLong := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = l.reader.ReadSlice('\n')
		}
		// A line without an end is whole only at the end of the body.
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		line := bytes.TrimRight(raw, "\r\n")
		if l.number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff")) // spreadsheets write a byte order mark
		}
		if tooLong || len(line) > maxLine {
			return nil, errLineTooLong
		}
		if len(bytes.TrimSpace(line)) > 0 {
			return line, nil
		}
	}
}

// parseLine makes a subscriber of one line. Its errors are for the report and
// never repeat what may be an address.
type parseLine func(line []byte) (fanfare.Subscriber, error)

// lineError puts violations into one sentence.
func lineError(violations []fanfare.Violation) error {
	parts := make([]string, len(violations))
	for i, v := range violations {
		parts[i] = v.Field + " " + v.Detail
	}
	return errors.New(shorten(strings.Join(parts, "; "), 2000))
}

// jsonLines reads lines that are JSON objects.
func jsonLines(*lineReader) (parseLine, error) {
	return parseJSONLine, nil
}

func parseJSONLine(line []byte) (fanfare.Subscriber, error) {
	var s fanfare.Subscriber
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, jsonLineError(err)
	}
	if len(bytes.TrimSpace(line[decoder.InputOffset():])) > 0 {
		return s, errors.New("has something behind the JSON object")
	}
	return s, nil
}

func jsonLineError(err error) error {
	if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrongType.Field == "" {
			return errors.New("is not a JSON object")
		}
		if field, _, _ := strings.Cut(wrongType.Field, "."); plainName(field) {
			return fmt.Errorf("%s must be %s", field, jsonKinds[field])
		}
	}
	if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
		if name = strings.Trim(name, `"`); plainName(name) {
			return fmt.Errorf("%s is not a field of a subscriber", name)
		}
		return errors.New("has a field that is none of a subscriber")
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not valid JSON: %w", syntax)
	}
	return errors.New("is not valid JSON")
}

// jsonKinds says what each field must be.
var jsonKinds = map[string]string{
	"id": "text", "email": "text", "phone": "text", "locale": "text", "time_zone": "text",
	"devices": "a list of objects with a token", "attributes": "an object of texts",
}

// csvLines reads the header and gives the parser of the lines that follow.
func csvLines(lines *lineReader) (parseLine, error) {
	header, err := lines.next()
	if errors.Is(err, io.EOF) || errors.Is(err, errLineTooLong) {
		return nil, headerError("must be the first line and name the columns, id among them")
	}
	if err != nil {
		return nil, err
	}
	feed := &csvFeed{}
	reader := csv.NewReader(feed)
	reader.FieldsPerRecord = -1
	reader.ReuseRecord = true
	names, err := feed.record(reader, header)
	if err != nil {
		return nil, headerError("must be the first line and name the columns, separated by commas")
	}
	columns := make([]string, len(names))
	for i, name := range names {
		columns[i] = strings.TrimSpace(name)
	}
	if err := checkColumns(columns); err != nil {
		return nil, err
	}
	return func(line []byte) (fanfare.Subscriber, error) {
		values, err := feed.record(reader, line)
		if err != nil {
			return fanfare.Subscriber{}, err
		}
		if len(values) != len(columns) {
			return fanfare.Subscriber{}, fmt.Errorf("has %d columns, the header has %d", len(values), len(columns))
		}
		return subscriberOf(columns, values)
	}, nil
}

func checkColumns(columns []string) error {
	for i, name := range columns {
		switch {
		case jsonKinds[name] == "":
			return headerError(fmt.Sprintf("has no field of a subscriber in column %d; there are id, email, phone, devices, locale, time_zone and attributes", i+1))
		case slices.Contains(columns[:i], name):
			return headerError(fmt.Sprintf("names the column %s twice", name))
		}
	}
	if !slices.Contains(columns, "id") {
		return headerError("lacks the column id")
	}
	return nil
}

func headerError(detail string) error {
	return &fanfare.InvalidError{Violations: []fanfare.Violation{{Field: "header", Detail: detail}}}
}

// csvFeed gives a csv.Reader one line at a time. A quote that is not closed
// then spoils its line and not all that follow.
type csvFeed struct{ rest []byte }

func (f *csvFeed) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *csvFeed) record(reader *csv.Reader, line []byte) ([]string, error) {
	f.rest = line
	record, err := reader.Read()
	if err != nil {
		return nil, errors.New("is not valid CSV: a quote stands in the wrong place or is not closed")
	}
	return record, nil
}

// subscriberOf puts a record's values where their columns say.
func subscriberOf(columns, values []string) (fanfare.Subscriber, error) {
	var s fanfare.Subscriber
	for i, column := range columns {
		value := strings.TrimSpace(values[i])
		switch column {
		case "id":
			s.ID = fanfare.SubscriberID(value)
		case "email":
			s.Email = value
		case "phone":
			s.Phone = value
		case "locale":
			s.Locale = value
		case "time_zone":
			s.TimeZone = value
		case "devices":
			for token := range strings.SplitSeq(value, ";") {
				if token = strings.TrimSpace(token); token != "" {
					s.Devices = append(s.Devices, fanfare.Device{Token: token})
				}
			}
		case "attributes":
			if value != "" && json.Unmarshal([]byte(value), &s.Attributes) != nil {
				return s, errors.New("attributes must be " + jsonKinds["attributes"])
			}
		}
	}
	return s, nil
}
