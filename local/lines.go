package local

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"
)

// maxLine is how much of an unfinished line is kept before it is written anyway,
// so that a child that never ends a line cannot fill the memory.
const maxLine = 64 << 10

// PrefixLines returns a writer that copies whole lines to w, each with
// "[name] " before it and each in one Write, so that several children can share
// w where its Write is safe for concurrent use (an *os.File's is). A last line
// without its end is written by Close, which leaves w open.
func PrefixLines(w io.Writer, name string) io.WriteCloser {
	return &prefixer{to: w, prefix: []byte("[" + name + "] ")}
}

type prefixer struct {
	to      io.Writer
	prefix  []byte
	mu      sync.Mutex
	pending []byte
}

func (p *prefixer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = append(p.pending, b...)
	for {
		end := bytes.IndexByte(p.pending, '\n')
		if end < 0 {
			break
		}
		if err := p.line(p.pending[:end]); err != nil {
			return 0, err
		}
		p.pending = p.pending[end+1:]
	}
	if len(p.pending) >= maxLine {
		if err := p.flush(); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (p *prefixer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flush()
}

func (p *prefixer) flush() error {
	if len(p.pending) == 0 {
		return nil
	}
	err := p.line(p.pending)
	p.pending = nil
	return err
}

func (p *prefixer) line(text []byte) error {
	_, err := p.to.Write(slices.Concat(p.prefix, text, []byte("\n")))
	return err
}

// tailLines is how many of a child's last lines go into the error that reports
// its end: enough for PostgreSQL's reason and hint.
const tailLines = 12

// tail remembers the last lines written to it.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, strings.TrimSuffix(string(b), "\n"))
	if len(t.lines) > tailLines {
		t.lines = slices.Delete(t.lines, 0, len(t.lines)-tailLines)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
