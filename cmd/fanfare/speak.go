package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// speaker is a log handler for people at a terminal: the message, and its
// attributes in parentheses.
type speaker struct{ out io.Writer }

func (speaker) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (s speaker) Handle(_ context.Context, r slog.Record) error {
	var attrs []string
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, fmt.Sprintf("%s %v", a.Key, a.Value))
		return true
	})
	line := r.Message
	if len(attrs) > 0 {
		line += " (" + strings.Join(attrs, ", ") + ")"
	}
	_, err := io.WriteString(s.out, line+"\n")
	return err
}

// WithAttrs and WithGroup are part of the interface; nothing here uses them.
func (s speaker) WithAttrs([]slog.Attr) slog.Handler { return s }

func (s speaker) WithGroup(string) slog.Handler { return s }
