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
	unit string
	all  int64 // zero or less: not known
	at   int64
	said time.Time
}

// Beside the bar stand at most besideBar columns, and a bar of less than leastBar says
// nothing. On narrower terminals it would break, and leave its pieces behind.
const (
	besideBar = 66
	leastBar  = 10
)

// newProgress begins to show work on all units of the given name; with the name
// "bytes" they are written as such. all is zero or less when it is not known.
func newProgress(out *screen, what, units string, all int64) *progress {
	p := &progress{what: what, unit: units, out: out, all: all, said: time.Now()}
	columns, terminal := out.columns()
	if !terminal || columns < besideBar+leastBar {
		return p
	}
	if all <= 0 {
		all = -1 // the bar's word for it
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(drawing{out}), progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(min(columns-besideBar, 40)), progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100 * time.Millisecond), progressbar.OptionUseANSICodes(true), progressbar.OptionSetRenderBlankState(true),
	}
	if units == "bytes" { // whose rate is shown without being asked for
		options = append(options, progressbar.OptionShowBytes(true))
	} else {
		options = append(options, progressbar.OptionShowIts(), progressbar.OptionSetItsString(units))
	}
	p.bar = progressbar.NewOptions64(all, options...)
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
		fmt.Fprintf(p.out, "%s: %s %s\n", p.what, number(p.at), p.unit)
		return
	}
	fmt.Fprintf(p.out, "%s: %s of %s %s (%d %%)\n", p.what, number(p.at), number(p.all), p.unit, 100*p.at/p.all)
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
