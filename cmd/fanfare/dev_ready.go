package main

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// printBlock says where everything is.
func (d *dev) printBlock() {
	key := d.own["FANFARE_API_KEY"]
	if d.environ["FANFARE_API_KEYS"] != "" {
		key = "one of FANFARE_API_KEYS"
	}
	database := d.own["FANFARE_DATABASE_URL"]
	if u, err := url.Parse(database); err == nil {
		database = u.Redacted()
	}
	rows := [][2]string{
		{"API", fmt.Sprintf("%s   (key: %s; described at /openapi.yaml)", d.own["FANFARE_API_URL"], key)},
		{"Temporal Web UI", d.workflowsPage()},
		{"Sandbox (the mail)", d.sandboxPage()},
		{"Temporal", d.own["FANFARE_TEMPORAL_ADDRESS"]},
		{"Database", database},
		{"Processes", d.pids()},
		{"", "server, sandbox and worker are started again when they die"},
	}
	fmt.Fprint(d.out, "\nFanfare is ready.\n\n")
	for _, row := range rows {
		if row[1] != "" {
			fmt.Fprintf(d.out, "  %-20s%s\n", row[0], row[1])
		}
	}
	fmt.Fprintf(d.out, "\nThe other commands find these settings in %s. Ctrl-C stops what was started here.\n\n", d.envFile())
}

func (d *dev) workflowsPage() string {
	base := cmp.Or(d.own["FANFARE_TEMPORAL_UI_URL"], d.environ["FANFARE_TEMPORAL_UI_URL"])
	if base == "" {
		return "" // somebody else's Temporal; nobody said where its Web UI is
	}
	return strings.TrimRight(base, "/") + "/namespaces/" + url.PathEscape(d.own["FANFARE_TEMPORAL_NAMESPACE"]) + "/workflows"
}

func (d *dev) sandboxPage() string {
	if d.noSandbox {
		return ""
	}
	return "http://" + d.ports.sandbox.address() + "/"
}

func (d *dev) pids() string {
	parts := []string{"dev " + strconv.Itoa(os.Getpid())}
	for _, c := range d.children {
		parts = append(parts, c.name+" "+strconv.Itoa(c.PID()))
	}
	return strings.Join(parts, ", ")
}
