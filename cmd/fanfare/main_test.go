package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

// result is what a command line came to.
type result struct {
	code     int
	out, err string
}

// command runs a command line in this process, with nothing but environ around it.
func command(t *testing.T, environ map[string]string, in string, args ...string) result {
	t.Helper()
	var out, errs buffer
	a := &app{in: strings.NewReader(in), out: &out, err: &errs, environ: environ}
	code := a.run(t.Context(), append(args, "--data-dir="))
	return result{code, out.String(), errs.String()}
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
