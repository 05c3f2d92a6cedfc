package bench

import (
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"
	"time"

	fanfare "github.com/fanfare-dev/fanfare"
)

// Report is what one run measured.
type Report struct {
	Channel     fanfare.Channel `json:"channel"`
	Subscribers int             `json:"subscribers"`
	Cores       int             `json:"cores"`

	ImportSeconds       float64 `json:"import_seconds"`
	ImportPerSecond     float64 `json:"import_per_second"`
	AcceptSeconds       float64 `json:"accept_seconds"`
	FirstCallSeconds    float64 `json:"first_call_seconds"` // from the 202
	PublishSeconds      float64 `json:"publish_seconds"`    // from the 202 to the last settled recipient
	RecipientsPerSecond float64 `json:"recipients_per_second"`

	Sent       int64 `json:"sent"`
	Received   int64 `json:"received"` // by the sink; in-app: by the inboxes
	Duplicates int64 `json:"duplicates"`
	Balanced   bool  `json:"balanced"`

	QueriesPer1000 float64            `json:"queries_per_1000"`
	EventsPer1000  float64            `json:"temporal_events_per_1000"`
	CPUSeconds     map[string]float64 `json:"cpu_seconds"` // while publishing, by process
	WorkerPeak     int64              `json:"worker_peak_bytes"`
	ServerPeak     int64              `json:"server_peak_bytes"`
}

func newReport(cfg Config) Report {
	return Report{Channel: cfg.Channel, Subscribers: cfg.Subscribers, Cores: runtime.NumCPU(), CPUSeconds: map[string]float64{}}
}

// Write prints the report for people.
func (r Report) Write(w io.Writer) error {
	const mega = 1 << 20
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	row("subscribers", "%d by %s, on %d cores, everything on this machine", r.Subscribers, r.Channel, r.Cores)
	row("import", "%.1f s, %.0f a second", r.ImportSeconds, r.ImportPerSecond)
	row("accepted after", "%s", span(r.AcceptSeconds))
	row("first call after the 202", "%s", span(r.FirstCallSeconds))
	row("publish", "%.1f s, %.0f recipients a second", r.PublishSeconds, r.RecipientsPerSecond)
	row("sent", "%d; %d arrived, %d of them twice; books balance: %t", r.Sent, r.Received, r.Duplicates, r.Balanced)
	row("queries", "%.1f per 1,000 recipients", r.QueriesPer1000)
	row("Temporal events", "%.1f per 1,000 recipients", r.EventsPer1000)
	for _, name := range []string{"postgres", "temporal", "server", "worker", "sink"} {
		row("processor time, "+name, "%.1f s, %.0f µs a recipient", r.CPUSeconds[name], r.CPUSeconds[name]*1e6/float64(r.Subscribers))
	}
	row("worker, most memory", "%d MB", r.WorkerPeak/mega)
	row("server, most memory", "%d MB", r.ServerPeak/mega)
	return t.Flush()
}

func span(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
}
