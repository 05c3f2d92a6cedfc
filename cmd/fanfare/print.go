package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"

	fanfare "github.com/fanfare-dev/fanfare"
)

// number writes 10000 as 10,000.
func number(n int64) string { return message.NewPrinter(language.English).Sprintf("%d", n) }

// count writes how many there are of something whose plural ends in s.
func count(n int64, of string) string {
	if n != 1 {
		of += "s"
	}
	return number(n) + " " + of
}

// sayDeliveries writes "1 delivery" or "12 deliveries": one recipient on one channel each.
func sayDeliveries(n int64) string {
	if n == 1 {
		return "1 delivery"
	}
	return number(n) + " deliveries"
}

// are writes "1 was" or "12 were".
func are(n int64) string {
	if n == 1 {
		return "1 was"
	}
	return number(n) + " were"
}

// clock writes a time as people at this machine read it.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// span writes how long something lasts, as precisely as people want to know.
func span(d time.Duration) string {
	precision := time.Second
	switch {
	case d >= 48*time.Hour:
		return number(int64(d.Hours()/24)) + " days"
	case d >= time.Hour:
		precision = time.Minute
	}
	text := d.Round(precision).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

// table is printed with its columns aligned: to the left, or to the right where
// they hold numbers.
type table struct {
	text  strings.Builder
	flags uint
}

func newTable(head ...string) *table {
	t := &table{}
	t.row(head...)
	return t
}

// newNumbers makes a table of numbers.
func newNumbers(head ...string) *table {
	t := &table{flags: tabwriter.AlignRight}
	t.row(head...)
	return t
}

func (t *table) row(cells ...string) {
	t.text.WriteString(strings.Join(cells, "\t"))
	if t.flags == tabwriter.AlignRight {
		t.text.WriteString("\t") // or the last column is not aligned
	}
	t.text.WriteString("\n")
}

func (t *table) write(w io.Writer) error {
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', t.flags)
	fmt.Fprint(aligned, t.text.String())
	if err := aligned.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// printPublication prints where a publication stands: its counts, why some were
// not sent to, and where to look.
func printPublication(w io.Writer, p fanfare.Publication) error {
	fmt.Fprintf(w, "Publication %s is %s.\n", p.ID, sayState(p.State))
	fmt.Fprintf(w, "  key %s, topic %s, accepted %s\n", p.Key, p.Topic, clock(p.AcceptedAt))
	if line := spent(p); line != "" {
		fmt.Fprintln(w, "  "+line)
	}
	fmt.Fprintln(w)
	if err := tally(p).write(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	printCounts(w, "Skipped: ", p.SkippedByReason)
	printCounts(w, "Failed:  ", p.FailedByCode)
	printLinks(w, p.Links)
	printWaits(w, p)
	return nil
}

// printWaits prints why a publication is not finished, and what to do about dead
// letters.
func printWaits(w io.Writer, p fanfare.Publication) {
	if len(p.WaitingFor) > 0 {
		fmt.Fprintln(w, "\nIt is not finished because:")
	}
	for _, wait := range p.WaitingFor {
		fmt.Fprintln(w, "  "+wait.Sentence)
	}
	if p.Totals.Dead == 0 || p.State == fanfare.Cancelled { // what is cancelled is never sent again
		return
	}
	fmt.Fprintf(w, "\n%s given up and kept. This says why, and what sending them again would do:\n\n  %s --dry-run\n",
		are(p.Totals.Dead), replayLine(fanfare.ReplayFilter{Publication: string(p.ID)}))
}

// tally has a row for each channel and a column for each state that somebody is in;
// all eight would not fit on a terminal.
func tally(p fanfare.Publication) *table {
	columns := []struct {
		name string
		of   func(fanfare.Totals) int64
	}{
		{"intended", func(t fanfare.Totals) int64 { return t.Intended }},
		{"sent", func(t fanfare.Totals) int64 { return t.Sent }},
		{"delivered", func(t fanfare.Totals) int64 { return t.Delivered }},
		{"skipped", func(t fanfare.Totals) int64 { return t.Skipped }},
		{"failed", func(t fanfare.Totals) int64 { return t.Failed }},
		{"dead", func(t fanfare.Totals) int64 { return t.Dead }},
		{"in doubt", func(t fanfare.Totals) int64 { return t.InDoubt }},
		{"sending", func(t fanfare.Totals) int64 { return t.Sending }},
		{"pending", func(t fanfare.Totals) int64 { return t.Pending }},
	}
	channels := slices.Sorted(maps.Keys(p.ByChannel))
	head, rows := []string{"channel"}, make([][]string, len(channels))
	for i, channel := range channels {
		rows[i] = []string{string(channel)}
	}
	for _, column := range columns {
		if column.name != "intended" && column.of(p.Totals) == 0 {
			continue
		}
		head = append(head, column.name)
		for i, channel := range channels {
			rows[i] = append(rows[i], number(column.of(p.ByChannel[channel])))
		}
	}
	t := newNumbers(head...)
	for _, row := range rows {
		t.row(row...)
	}
	return t
}

// spent says when a publication began and ended, or how fast it goes.
func spent(p fanfare.Publication) string {
	switch {
	case p.StartedAt != nil && p.FinishedAt != nil:
		return fmt.Sprintf("finished %s, after %s", clock(*p.FinishedAt), p.FinishedAt.Sub(*p.StartedAt).Round(100*time.Millisecond))
	case p.FinishedAt == nil && p.ScheduledAt != nil && p.State == fanfare.Scheduled:
		return "begins " + clock(*p.ScheduledAt)
	case p.State == fanfare.Running && p.RatePerSecond > 0:
		line := number(int64(p.RatePerSecond)) + " recipients a second"
		if p.ETA != nil {
			line += ", done about " + clock(*p.ETA)
		}
		return line
	}
	return ""
}

func sayState(s fanfare.PublicationState) string { return strings.ReplaceAll(string(s), "_", " ") }

// printCounts prints what there is most of first.
func printCounts(w io.Writer, title string, counts map[string]int64) {
	if len(counts) == 0 {
		return
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = number(counts[name]) + " " + name
	}
	fmt.Fprintln(w, title+strings.Join(parts, ", "))
}

// printLinks prints where the API says to look.
func printLinks(w io.Writer, links map[string]string) {
	for _, link := range [][2]string{{"API", "self"}, {"Deliveries", "deliveries"}, {"Temporal Web UI", "temporal"}} {
		if address := links[link[1]]; address != "" {
			fmt.Fprintf(w, "%-17s%s\n", link[0]+":", address)
		}
	}
}
