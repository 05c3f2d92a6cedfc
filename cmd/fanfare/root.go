package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fanfare-dev/fanfare/local"
)

// The exit codes. Those of `publish --watch` stand in publish.go.
const (
	exitFailed      = 1
	exitUsage       = 2   // arguments or settings
	exitInterrupted = 130 // as shells say it
)

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	err  error // nil: all was said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// app is what every command is given: the world around the process.
type app struct {
	in       io.Reader
	out, err io.Writer
	environ  map[string]string
	dataDir  string
	quiet    bool
}

// run runs one command line and returns the exit code. Ctrl-C and SIGTERM end it
// in good order; a second one ends it at once.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	environ := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		environ[name] = value
	}
	a := &app{in: in, out: out, err: errs, environ: environ}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	called, err := root.ExecuteContextC(ctx)
	return a.exitCode(ctx, called, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "fanfare",
		Short: "Tells a publisher's audience that something was published",
		Long: `Fanfare tells a publisher's audience that something was published, and can
prove afterwards what happened to every single recipient.

Begin with

  fanfare dev --demo 10000

which starts everything on this machine, sends an article to 10,000 made-up
subscribers, and goes on serving.

Settings come from the environment; what it does not give is taken from the file
"env" that ` + "`fanfare dev`" + ` leaves in its data folder.

Exit codes: 0 done, 1 failed, 2 wrong arguments or settings;
` + "`publish --watch` and `replay --watch`" + ` also 3 completed with failures, 4 cancelled or expired.`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().StringVar(&a.dataDir, "data-dir", ".fanfare", "`folder` of \"fanfare dev\", whose file \"env\" completes the environment")
	root.PersistentFlags().BoolVar(&a.quiet, "quiet", false, "log warnings and errors only")
	_ = root.PersistentFlags().MarkHidden("quiet") // for the children of dev
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run it:"}, &cobra.Group{ID: "use", Title: "Use it:"}, &cobra.Group{ID: "operate", Title: "Look after it:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", a.devCommand(), a.serverCommand(), a.workerCommand(), a.sandboxCommand())
	add("use", a.importCommand(), a.publishCommand(), a.templatesCommand(), a.statusCommand())
	add("operate", a.migrateCommand(), a.verifyCommand(), a.replayCommand(), a.providersCommand(), a.suppressionsCommand(), a.recoverCommand(), a.benchCommand())
	return root
}

// does wraps what a command does, so that its failures can be told from wrong
// arguments, which cobra finds before.
func does(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		var known *exitError
		if err == nil || errors.As(err, &known) {
			return err
		}
		return &exitError{code: exitFailed, err: err}
	}
}

// exitCode says what went wrong, and turns it into an exit code.
func (a *app) exitCode(ctx context.Context, called *cobra.Command, err error) int {
	var known *exitError
	var settings *settingsError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &settings):
		fmt.Fprintln(a.err, "fanfare: "+err.Error())
		return exitUsage
	case !errors.As(err, &known):
		fmt.Fprintf(a.err, "fanfare: %s\n%s", err, howToWrite(called))
		return exitUsage
	case known.err == nil:
		return known.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(a.err, "fanfare: interrupted")
		return exitInterrupted
	}
	fmt.Fprintln(a.err, "fanfare: "+known.Error())
	return known.code
}

// howToWrite is the line that cobra's own words leave out.
func howToWrite(called *cobra.Command) string {
	if !called.HasParent() {
		return fmt.Sprintf("See `%s --help`.\n", called.CommandPath())
	}
	return fmt.Sprintf("Write it as `%s`; `%s --help` says the rest.\n", called.UseLine(), called.CommandPath())
}

// settingsFrom is the environment, completed by the env file. An empty
// --data-dir means no file.
func (a *app) settingsFrom() (map[string]string, error) {
	if a.dataDir == "" {
		return a.environ, nil
	}
	merged, err := local.EnvFile(filepath.Join(a.dataDir, "env")).Read()
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	for name, value := range a.environ {
		if value != "" {
			merged[name] = value
		}
	}
	return merged, nil
}

// settings reads the settings of a role.
func settings[T interface{ check(report) }](a *app) (T, error) {
	environ, err := a.settingsFrom()
	if err != nil {
		var none T
		return none, err
	}
	return load[T](environ)
}

// logger logs for people, to stderr.
func (a *app) logger() *slog.Logger {
	level := slog.LevelInfo
	if a.quiet {
		level = slog.LevelWarn
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
}

// printJSON prints v for programs, indented for people who look over their shoulder.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// jsonFlag adds --json.
func jsonFlag(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print JSON")
}
