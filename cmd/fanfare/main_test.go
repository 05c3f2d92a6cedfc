package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fanfare-dev/fanfare/local/localtest"
)

// asCommand has this test binary be the program: dev starts its children from the
// binary that it runs in.
const asCommand = "FANFARE_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if cli := localtest.CLI(); cli != "" {
		// dev looks for it beside its binary, and then there.
		_ = os.Setenv("PATH", filepath.Dir(cli)+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	os.Exit(localtest.Main(m))
}

// result is what a command line came to.
type result struct {
	code     int
	out, err string
}

// command runs a command line in this process, with nothing but environ around it.
func command(t *testing.T, environ map[string]string, in string, args ...string) result {
	t.Helper()
	return start(t.Context(), environ, in, args...).wait()
}

// running is a command line under way.
type running struct {
	out, err buffer
	code     chan int
}

func start(ctx context.Context, environ map[string]string, in string, args ...string) *running {
	r := &running{code: make(chan int, 1)}
	a := &app{in: strings.NewReader(in), out: &r.out, err: &r.err, environ: maps.Clone(environ)}
	if a.environ == nil {
		a.environ = map[string]string{}
	}
	if !strings.Contains(strings.Join(args, " "), "--data-dir") {
		args = append(args, "--data-dir=")
	}
	go func() { r.code <- a.run(ctx, args) }()
	return r
}

func (r *running) wait() result { return result{<-r.code, r.out.String(), r.err.String()} }

// fromJSON reads what a command printed with --json.
func fromJSON[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal([]byte(r.out), &v), r.out)
	return v
}

// buffer may be written by several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
