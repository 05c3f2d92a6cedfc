package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkImportLines measures reading, parsing and checking, without a
// database. A million lines in well under a minute leave it at most 6.6 µs a line.
func BenchmarkImportLines(b *testing.B) {
	const lines = 20_000
	email := func(w io.Writer, i int) {
		fmt.Fprintf(w, `{"id": "reader-%d", "email": "reader-%d@mail-%d.example", "locale": "es", "time_zone": "Europe/Madrid"}`+"\n", i, i, i%50)
	}
	phone := func(w io.Writer, i int) {
		fmt.Fprintf(w, `{"id": "reader-%d", "email": "reader-%d@mail.example", "phone": "+346%08d", "devices": [{"token": "token-%d", "platform": "android"}], "locale": "es", "time_zone": "Europe/Madrid"}`+"\n", i, i, i, i)
	}
	row := func(w io.Writer, i int) {
		fmt.Fprintf(w, "reader-%d,reader-%d@mail-%d.example,es,Europe/Madrid\n", i, i, i%50)
	}
	for _, with := range []struct {
		name   string
		format func(*lineReader) (parseLine, error)
		header string
		line   func(io.Writer, int)
	}{
		{"json", jsonLines, "", email},
		{"json with phone and device", jsonLines, "", phone},
		{"csv", csvLines, "id,email,locale,time_zone\n", row},
	} {
		b.Run(with.name, func(b *testing.B) {
			var body bytes.Buffer
			body.WriteString(with.header)
			for i := range lines {
				with.line(&body, i)
			}
			b.ReportAllocs()
			b.SetBytes(int64(body.Len()) / lines)
			for n := 0; n < b.N; n += lines {
				source := &importSource{lines: newLineReader(bytes.NewReader(body.Bytes())), check: newSubscriberCheck()}
				var err error
				source.parse, err = with.format(source.lines)
				require.NoError(b, err)
				for !errors.Is(err, io.EOF) {
					_, err = source.next(b.Context())
				}
				require.Zero(b, source.rejected.RejectedCount, source.rejected.Rejected)
			}
		})
	}
}
