package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
)

// TemporalConfig says where the Temporal development server keeps its data and
// listens.
type TemporalConfig struct {
	// Path is the temporal CLI. Empty: beside this binary, then on the PATH.
	Path string
	// File is the database. Empty: in memory, gone with the server.
	File string
	// Port and UIPort of 127.0.0.1; 0 is a free one.
	Port   int
	UIPort int
	// Headless leaves the Web UI out.
	Headless bool
	// Output gets the server's log lines. Nil discards them.
	Output io.Writer
	// Log says what is being waited for. Nil: silent.
	Log *slog.Logger
}

// Temporal is a running Temporal development server.
type Temporal struct {
	*Process
	Address string // host:port of its API
	UI      string // URL of the Web UI; empty when headless
}

// temporalSettings lift limits that are meant for shared clusters: this server
// has one user, and a fan-out must not wait for it.
func temporalSettings() []string {
	return []string{
		"frontend.rps=20000",                                  // default 2,400 a second
		"frontend.namespaceRPS=20000",                         // default 2,400
		"frontend.namespaceRPS.visibility=200",                // default 10: every look at the Web UI lists
		"matching.rps=20000",                                  // default 1,200
		"history.rps=20000",                                   // default 3,000
		"frontend.persistenceMaxQPS=20000",                    // default 2,000
		"history.persistenceMaxQPS=20000",                     // default 9,000
		"matching.persistenceMaxQPS=20000",                    // default 3,000
		"system.forceSearchAttributesCacheRefreshOnRead=true", // attributes count as soon as they are added
	}
}

// StartTemporal starts the development server and returns when it is healthy.
// Where the CLI is missing the error is a *MissingError.
func StartTemporal(ctx context.Context, c TemporalConfig) (*Temporal, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	path, err := temporalCLI(c.Path)
	if err != nil {
		return nil, err
	}
	for _, port := range []*int{&c.Port, &c.UIPort} {
		if *port == 0 {
			if *port, err = FreePort(); err != nil {
				return nil, err
			}
		}
	}
	args, err := c.args()
	if err != nil {
		return nil, err
	}
	process, err := StartProcess(Command{Name: "temporal", Path: path, Args: args, Output: c.Output, Log: c.Log})
	if err != nil {
		return nil, err
	}
	t := &Temporal{Process: process, Address: net.JoinHostPort(loopback, strconv.Itoa(c.Port))}
	if !c.Headless {
		t.UI = "http://" + net.JoinHostPort(loopback, strconv.Itoa(c.UIPort))
	}
	if err := t.waitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start Temporal: %w", err), t.Stop(context.WithoutCancel(ctx)))
	}
	return t, nil
}

func (c TemporalConfig) args() ([]string, error) {
	// Its other two listeners take a fixed port each unless told otherwise, and
	// would meet those of a second server.
	httpPort, err := FreePort()
	if err != nil {
		return nil, err
	}
	metricsPort, err := FreePort()
	if err != nil {
		return nil, err
	}
	args := []string{
		"server", "start-dev", "--ip", loopback, "--port", strconv.Itoa(c.Port), "--log-level", "error",
		"--http-port", strconv.Itoa(httpPort), "--metrics-port", strconv.Itoa(metricsPort),
	}
	if c.Headless {
		args = append(args, "--headless")
	} else {
		args = append(args, "--ui-ip", loopback, "--ui-port", strconv.Itoa(c.UIPort))
	}
	if c.File != "" {
		if err := os.MkdirAll(filepath.Dir(c.File), 0o700); err != nil {
			return nil, err
		}
		// SQLite's rollback journal syncs several times a transaction: with it
		// this server starts 6 workflows a second, with these two 50. A crash of the machine
		// may lose the last moments, which the ledger makes good.
		args = append(args, "--db-filename", c.File, "--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL")
	}
	for _, setting := range temporalSettings() {
		args = append(args, "--dynamic-config-value", setting)
	}
	return args, nil
}

// waitReady waits until the server answers and says that it is healthy.
func (t *Temporal) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := t.check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-t.Done():
			return t.Err()
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (t *Temporal) check(ctx context.Context) error {
	options := client.Options{HostPort: t.Address, Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))}
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.CheckHealth(ctx, &client.CheckHealthRequest{})
	return err
}

// temporalCLI finds the temporal CLI: where it is said to be, beside this
// binary, in bin/ of the folder we run in, or on the PATH.
func temporalCLI(asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	var near []string
	if self, err := os.Executable(); err == nil {
		near = append(near, filepath.Join(filepath.Dir(self), "temporal"))
	}
	near = append(near, filepath.Join("bin", "temporal"))
	for _, path := range near {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return filepath.Abs(path)
		}
	}
	if path, err := exec.LookPath("temporal"); err == nil {
		return path, nil
	}
	return "", &MissingError{What: "the temporal CLI", Install: "make build"}
}
