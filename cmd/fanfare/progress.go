package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// sayEvery is how often progress is said where there is no terminal to draw on.
const sayEvery = 5 * time.Second

// progress shows how far something long has come: as a bar with rate and time left
// on a terminal, as a line now and then elsewhere.
type progress struct {
	out  *screen
	bar  *progressbar.ProgressBar // nil: lines
	what string
	all  int64 // zero or less: not known
	at   int64
	said time.Time
}

// newProgress begins to show work on all units of the given name; with the name
// "bytes" they are written as such. all is zero or less when it is not known.
func newProgress(out *screen, what, units string, all int64) *progress {
	p := &progress{what: what, out: out, all: all, said: time.Now()}
	columns, terminal := out.columns()
	if !terminal {
		return p
	}
	if all <= 0 {
		all = -1 // the bar's word for it
	}
	p.bar = progressbar.NewOptions64(
		all, progressbar.OptionSetWriter(drawing{out}), progressbar.OptionSetDescription(what),
		// What stands beside the bar takes up to 66 columns.
		progressbar.OptionSetWidth(min(max(columns-66, 10), 40)),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(units),
		progressbar.OptionShowBytes(units == "bytes"), progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionUseANSICodes(true), progressbar.OptionSetRenderBlankState(true),
	)
	return p
}

// reach says that so many units are done, and what is being done.
func (p *progress) reach(done int64, what string) {
	changed := p.what != what
	p.at, p.what = done, what
	switch {
	case p.bar != nil && changed:
		p.bar.Describe(what)
		fallthrough
	case p.bar != nil:
		_ = p.bar.Set64(done) // drawing is all that can fail
	case changed || time.Since(p.said) >= sayEvery:
		p.say()
	}
}

// Write counts bytes, so that a reader can be teed into the progress.
func (p *progress) Write(b []byte) (int, error) {
	p.reach(p.at+int64(len(b)), p.what)
	return len(b), nil
}

func (p *progress) say() {
	p.said = time.Now()
	if p.all <= 0 {
		fmt.Fprintf(p.out, "%s: %s\n", p.what, number(p.at))
		return
	}
	fmt.Fprintf(p.out, "%s: %s of %s (%d %%)\n", p.what, number(p.at), number(p.all), 100*p.at/p.all)
}

// end leaves the last state on the screen.
func (p *progress) end() {
	if p.bar == nil {
		p.say()
		return
	}
	_ = p.bar.Exit()
	p.out.keepDrawing()
}

// drawing is the screen as the bar sees it.
type drawing struct{ *screen }

func (d drawing) Write(b []byte) (int, error) { return d.draw(b) }

var _ io.Writer = drawing{}
