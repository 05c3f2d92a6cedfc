package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	fanfare "github.com/fanfare-dev/fanfare"
	"github.com/fanfare-dev/fanfare/local"
	"github.com/fanfare-dev/fanfare/server/api"
)

const (
	// workerGrace lets a worker settle the calls under way, which it does within 20 s.
	workerGrace = 25 * time.Second
	// readyFor is how long a part of ours may take until it answers.
	readyFor = time.Minute
	// lookAtChildren is how often dev looks whether a child has a new pid.
	lookAtChildren = 200 * time.Millisecond
)

// devFlags are what a person asks of dev.
type devFlags struct {
	ports                         ports
	noServer, noWorker, noSandbox bool
	demo                          int // subscribers; 0: no demo
}

// dev is everything on this machine.
type dev struct {
	*app
	devFlags
	screen   *screen
	log      *slog.Logger
	group    local.Group
	children []child
	own      overrides // what the children are told
}

type child struct {
	name string
	*local.Process
}

func (a *app) devCommand() *cobra.Command {
	var flags devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine",
		Long: `Runs everything on this machine: PostgreSQL, Temporal with its Web UI, stand-in
providers (the sandbox), the server and a worker. All data is kept in --data-dir,
so that the next start finds everything as it was left. A server, sandbox or
worker that dies is started again. Ctrl-C stops all that was started here, and
nothing else.

FANFARE_DATABASE_URL and FANFARE_TEMPORAL_ADDRESS, where they are set, are used
instead of an own PostgreSQL and an own Temporal; SENDGRID_API_KEY,
TWILIO_AUTH_TOKEN and FCM_PROJECT_ID instead of the sandbox, each for its channel.
--demo ignores them: it subscribes made-up people, publishes an article to them and
shows how it is sent, slowly enough to watch it and to kill the worker meanwhile.

The API key is "dev-key" unless FANFARE_API_KEYS is set.`,
		Example: "  fanfare dev --demo 10000",
		Args:    cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			flags.ports.noteAsked(cmd.Flags())
			if cmd.Flags().Changed("demo") && flags.demo < 1 {
				return &exitError{exitUsage, fmt.Errorf("--demo %d: say how many subscribers, 1 or more", flags.demo)}
			}
			return a.dev(cmd.Context(), flags)
		}),
	}
	f := cmd.Flags()
	flags.ports.register(f)
	f.BoolVar(&flags.noServer, "no-server", false, "leave the server out, to run it apart")
	f.BoolVar(&flags.noWorker, "no-worker", false, "leave the worker out, to run it apart")
	f.BoolVar(&flags.noSandbox, "no-sandbox", false, "leave the sandbox out, to run it apart")
	f.IntVar(&flags.demo, "demo", 0, "send an article to this many made-up subscribers")
	return cmd
}

func (a *app) dev(ctx context.Context, flags devFlags) error {
	if a.dataDir == "" {
		return &exitError{exitUsage, errors.New("--data-dir: dev needs a folder")}
	}
	screen := &screen{out: a.err}
	d := &dev{app: a, devFlags: flags, screen: screen, log: slog.New(speaker{screen})}
	lock, err := local.LockFolder(a.dataDir)
	if err != nil {
		return err
	}
	defer lock.Release()
	err = d.run(ctx)
	var missing *local.MissingError
	switch {
	case errors.As(err, &missing):
		return &exitError{exitUsage, missing}
	case ctx.Err() != nil:
		return nil // being stopped is how dev ends
	}
	return err
}

// run starts everything in the order in which it is needed, and stays until it is
// told to stop, or until something ends that it cannot start again.
func (d *dev) run(ctx context.Context) (err error) {
	defer func() {
		if err != nil || ctx.Err() != nil {
			err = errors.Join(err, d.group.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := d.prepare(); err != nil {
		return err
	}
	if err := d.startServices(ctx); err != nil {
		return err
	}
	if err := d.writeEnv(); err != nil {
		return err
	}
	if err := migrateUp(ctx, fanfare.Secret(d.own["FANFARE_DATABASE_URL"]), d.log); err != nil {
		return err
	}
	if err := d.startChildren(ctx); err != nil {
		return err
	}
	d.printBlock()
	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return d.group.Run(ctx) })
	running.Go(func() error { return d.sayRestarts(ctx) })
	if d.demo > 0 {
		running.Go(func() error { return d.runDemo(ctx) })
	}
	return running.Wait()
}

// startServices starts PostgreSQL and Temporal, where the environment names none.
func (d *dev) startServices(ctx context.Context) error {
	if d.own["FANFARE_DATABASE_URL"] == "" {
		output, err := d.logFile("postgres")
		if err != nil {
			return err
		}
		d.log.Info("starting PostgreSQL")
		postgres, err := local.StartPostgres(ctx, local.PostgresConfig{
			DataDir: filepath.Join(d.dataDir, "postgres"), Port: d.ports.postgres.port, Output: output, Log: d.log,
		})
		if err != nil {
			return err
		}
		d.group.Add("PostgreSQL", postgres)
		d.children = append(d.children, child{"PostgreSQL", postgres.Process})
		d.own["FANFARE_DATABASE_URL"] = postgres.URL
	}
	if d.own["FANFARE_TEMPORAL_ADDRESS"] != "" {
		return nil
	}
	output, err := d.logFile("temporal")
	if err != nil {
		return err
	}
	d.log.Info("starting Temporal")
	temporal, err := local.StartTemporal(ctx, local.TemporalConfig{
		File: filepath.Join(d.dataDir, "temporal.db"), Port: d.ports.temporal.port, UIPort: d.ports.temporalUI.port, Output: output, Log: d.log,
	})
	if err != nil {
		return err
	}
	d.group.Add("Temporal", temporal)
	d.children = append(d.children, child{"Temporal", temporal.Process})
	d.own["FANFARE_TEMPORAL_ADDRESS"], d.own["FANFARE_TEMPORAL_UI_URL"] = temporal.Address, temporal.UI
	return nil
}

// logFile is where a service's own lines go; what matters of them also stands in
// the error when it ends.
func (d *dev) logFile(name string) (*os.File, error) {
	file, err := os.Create(filepath.Join(d.dataDir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("keep the log of %s: %w", name, err)
	}
	return file, nil
}

// startChildren starts server, sandbox and worker, in the order in which a demo can
// learn from each for the next.
func (d *dev) startChildren(ctx context.Context) error {
	pacing := pacing{}
	if !d.noServer {
		if err := d.startChild("server", 0, "server"); err != nil {
			return err
		}
	}
	if !d.noServer || d.demo > 0 {
		d.log.Info("waiting for the server", "address", d.own["FANFARE_API_URL"])
		if err := d.await(ctx, "server", d.serverReady); err != nil {
			return err
		}
	}
	if d.demo > 0 {
		var err error
		if pacing, err = d.choosePacing(ctx); err != nil {
			return err
		}
	}
	if !d.noSandbox {
		if err := d.startChild("sandbox", 0, append(d.sandboxArgs(), pacing.sandboxArgs()...)...); err != nil {
			return err
		}
		if err := d.await(ctx, "sandbox", d.sandboxReady); err != nil {
			return err
		}
	}
	if d.noWorker {
		return nil
	}
	return d.startChild("worker", workerGrace, append([]string{"worker"}, pacing.workerArgs()...)...)
}

// startChild starts a command of this binary, and again whenever it dies.
func (d *dev) startChild(name string, grace time.Duration, args ...string) error {
	process, err := local.StartProcess(local.Command{
		Name: name, Args: append(args, "--quiet", "--data-dir="), Env: d.own.environ(d.environ),
		Output: d.screen, Log: d.log, Restart: true, Grace: grace,
	})
	if err != nil {
		return err
	}
	d.group.Add(name, process)
	d.children = append(d.children, child{name, process})
	return nil
}

// await asks until a part answers.
func (d *dev) await(ctx context.Context, name string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyFor, fmt.Errorf("the %s does not answer", name))
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, lookAtChildren) != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

func (d *dev) client() *apiClient {
	return &apiClient{base: d.own["FANFARE_API_URL"], key: fanfare.Secret(d.own["FANFARE_API_KEY"])}
}

func (d *dev) serverReady(ctx context.Context) error {
	var answer api.Readiness
	if err := d.client().send(ctx, http.MethodGet, "/readyz", nil, &answer); err != nil {
		return err
	}
	for _, part := range answer.Parts {
		if !part.Ready { // one that is not required, or the server would not be ready
			d.log.Warn("waiting for "+part.Name+"; what is published meanwhile is accepted, and sent when it is back", "address", d.own["FANFARE_TEMPORAL_ADDRESS"])
		}
	}
	return nil
}

func (d *dev) sandboxReady(ctx context.Context) error {
	_, err := d.sandboxStats(ctx)
	return err
}

// sayRestarts says the new pid of every child that was started again.
func (d *dev) sayRestarts(ctx context.Context) error {
	lives := make([]int, len(d.children))
	for ctx.Err() == nil {
		for i, c := range d.children {
			if now, pid := c.Lives(), c.PID(); now > lives[i] && pid != 0 {
				if lives[i] > 0 {
					d.log.Info(c.name+" runs again", "pid", pid)
				}
				lives[i] = now
			}
		}
		_ = pause(ctx, lookAtChildren)
	}
	return nil
}
