package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	fanfare "github.com/fanfare-dev/fanfare"
)

// shownRejects is how many rejected lines a person is shown; --json has all that the
// API lists.
const shownRejects = 10

// formats are the ways an import may be written, by the ending of its file.
var formats = map[string]string{
	"ndjson": "application/x-ndjson", "jsonl": "application/x-ndjson", "csv": "text/csv",
}

type importing struct {
	topic, file, format, topicName string
	reason                         string // of suppressions
	asJSON                         bool
}

func (a *app) importCommand() *cobra.Command {
	var i importing
	cmd := &cobra.Command{
		Use:   "import TOPIC FILE",
		Short: "Subscribe many people to a topic from a file",
		Long: `Creates or updates one subscriber per line of FILE and subscribes them to TOPIC.
A bad line is reported and the rest is taken; importing again changes nothing.

FILE is NDJSON or CSV, told by its ending or by --format; "-" reads from stdin.
An NDJSON line looks like

  {"id": "reader-1", "email": "ada@mail.example", "locale": "es"}

and CSV has the same names (id, email, phone, devices, locale, time_zone,
attributes) in its first line.`,
		Example: `  fanfare import writer-1 subscribers.csv --topic-name "Writer One"`,
		Args:    cobra.ExactArgs(2),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			i.topic, i.file = args[0], args[1]
			return a.importFile(cmd, i)
		}),
	}
	cmd.Flags().StringVar(&i.format, "format", "", "ndjson or csv; needed where the file's name does not say it")
	cmd.Flags().StringVar(&i.topicName, "topic-name", "", "create the topic first, or rename it, with this name for readers")
	jsonFlag(cmd, &i.asJSON)
	return cmd
}

func (a *app) importFile(cmd *cobra.Command, i importing) error {
	u, err := a.openUpload(i.file, i.format)
	if err != nil {
		return err
	}
	defer u.body.Close()
	if i.topicName != "" {
		if err := u.client.send(cmd.Context(), http.MethodPut, topicPath(i.topic), map[string]string{"name": i.topicName}, nil); err != nil {
			return err
		}
	}
	report, err := u.send(cmd.Context(), topicPath(i.topic)+"/subscribers/import", a.err)
	if err != nil {
		return i.explain(err)
	}
	if i.asJSON {
		return a.printJSON(report)
	}
	printImport(a.out, i.topic, report)
	return nil
}

func topicPath(topic string) string { return "/v1/topics/" + url.PathEscape(topic) }

// upload is a file on its way to the API.
type upload struct {
	client    *apiClient
	body      io.ReadCloser
	size      int64 // in bytes; below zero: not known
	mediaType string
}

// openUpload opens a file, or stdin for "-". Without a format the file's ending says it.
func (a *app) openUpload(file, format string) (upload, error) {
	mediaType, ok := formats[strings.ToLower(cmp.Or(format, strings.TrimPrefix(filepath.Ext(file), ".")))]
	if !ok {
		return upload{}, &exitError{exitUsage, fmt.Errorf("cannot tell the format of %s; say --format ndjson or --format csv", file)}
	}
	c, err := a.client()
	if err != nil {
		return upload{}, err
	}
	body, size, err := a.openImport(file)
	return upload{client: c, body: body, size: size, mediaType: mediaType}, err
}

// send streams the file to path, and shows on progress how far it is.
func (u upload) send(ctx context.Context, path string, progress io.Writer) (report fanfare.ImportReport, err error) {
	bar := newProgress(&screen{out: progress}, "importing", "bytes", u.size)
	defer bar.end()
	err = u.client.stream(ctx, http.MethodPost, path, u.mediaType, io.TeeReader(u.body, bar), &report)
	return report, err
}

// openImport opens the file and says how long it is, below zero when that is not known.
func (a *app) openImport(path string) (io.ReadCloser, int64, error) {
	if path == "-" {
		return io.NopCloser(a.in), -1, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("import: %w", err)
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder", path)
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("import: %w", err), file.Close())
	}
	if !info.Mode().IsRegular() {
		return file, -1, nil
	}
	return file, info.Size(), nil
}

// explain says how a topic that is missing is created.
func (i importing) explain(err error) error {
	var problem *problemError
	switch {
	case errors.As(err, &problem) && problem.Status == http.StatusNotFound:
		return fmt.Errorf("topic %s does not exist; add --topic-name %q to create it", i.topic, "Its name for readers")
	case temporary(err):
		return fmt.Errorf("%w\nWhat was committed stays; the same import completes it", err)
	}
	return err
}

func printImport(w io.Writer, topic string, r fanfare.ImportReport) {
	fmt.Fprintf(w, "Imported into %s: %s created, %s updated, %s unchanged, %s rejected.\n",
		topic, number(r.Created), number(r.Updated), number(r.Unchanged), number(r.RejectedCount))
	if r.Unsubscribed > 0 {
		fmt.Fprintf(w, "%s of them unsubscribed by themselves and stay so.\n", number(r.Unsubscribed))
	}
	printRejected(w, r)
}

func printRejected(w io.Writer, r fanfare.ImportReport) {
	for n, line := range r.Rejected {
		if n == shownRejects {
			fmt.Fprintf(w, "  and %s more; --json lists the first %s\n", number(r.RejectedCount-shownRejects), number(fanfare.MaxRejectedLines))
			return
		}
		fmt.Fprintf(w, "  line %d: %s\n", line.Line, line.Error)
	}
}
