package main

import (
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/term"
)

// screen is where people are told things, by several goroutines and children at
// once. While a progress bar is drawn, lines go above it. Each Write must
// hold whole lines.
type screen struct {
	mu   sync.Mutex
	out  io.Writer
	line []byte // the bar, as it was drawn last; nil: none
}

// clearLine goes to the line's begin and empties it.
const clearLine = "\r\x1b[2K"

// Write writes lines above the bar.
func (s *screen) Write(lines []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == nil {
		return s.out.Write(lines)
	}
	if _, err := s.out.Write(slices.Concat([]byte(clearLine), lines, s.line)); err != nil {
		return 0, err
	}
	return len(lines), nil
}

// draw draws the bar anew: b is all of it, and begins with a carriage return.
func (s *screen) draw(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = slices.Clone(b)
	return s.out.Write(b)
}

// keepDrawing leaves the bar where it is; what comes goes below it.
func (s *screen) keepDrawing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != nil {
		s.line = nil
		_, _ = s.out.Write([]byte("\n")) // nobody reads a screen that is gone
	}
}

// columns is the width of the terminal, where there is one.
func (s *screen) columns() (int, bool) {
	file, ok := s.out.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0, false
	}
	columns, _, err := term.GetSize(int(file.Fd()))
	if err != nil || columns <= 0 {
		return 80, true
	}
	return columns, true
}
