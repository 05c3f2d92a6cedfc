package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// defaultGrace is how long a child may take over its work in hand after
	// SIGTERM; a worker's longest provider call is shorter.
	defaultGrace = 15 * time.Second
	// firstPause and longestPause bound the doubling wait before a dead child is
	// started again: at once for an accident, without spinning for a child that
	// cannot start.
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
	// steadyAfter is how long a child must live for its next death to count as
	// an accident again.
	steadyAfter = 10 * time.Second
	// pipeDelay bounds the wait for output held open by a child's own children.
	pipeDelay = 2 * time.Second
	// killDelay is how long a child may take to be gone after the last signal. A
	// killed process stays only while the kernel is stuck in its behalf.
	killDelay = 10 * time.Second
)

// Command says what to run as a child process.
type Command struct {
	// Name stands before the child's lines and in messages: "worker".
	Name string
	// Path is the program. Empty: this very binary.
	Path string
	// Args are the arguments after the program's name.
	Args []string
	// Env is the whole environment, KEY=VALUE, later ones win. Nil: ours.
	Env []string
	// Dir is the child's working folder. Empty: ours.
	Dir string
	// Output gets the child's lines, stdout and stderr alike, behind "[name] ".
	// It must be safe for concurrent use. Nil discards them.
	Output io.Writer
	// Log says when the child dies and is started again. Nil: silent.
	Log *slog.Logger
	// Restart starts the child again whenever it dies, until Stop.
	Restart bool
	// Grace is how long Stop waits after the first signal before it kills.
	// Zero: 15 s.
	Grace time.Duration

	credential *syscall.Credential // whom to run as; nil: as ourselves
	ask        syscall.Signal      // asks the child to stop; zero: SIGTERM
	force      syscall.Signal      // ends it when it does not; zero: SIGKILL
	orphaned   syscall.Signal      // sent by the kernel when we die; zero: SIGKILL
}

func (c Command) withDefaults() (Command, error) {
	if c.Path == "" {
		self, err := os.Executable()
		if err != nil {
			return c, err
		}
		c.Path = self
	}
	if c.Output == nil {
		c.Output = io.Discard
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	if c.ask == 0 {
		c.ask = syscall.SIGTERM
	}
	if c.force == 0 {
		c.force = syscall.SIGKILL
	}
	if c.orphaned == 0 {
		c.orphaned = syscall.SIGKILL
	}
	return c, nil
}

// Process is a running child, over all its lives. Its methods may be called from
// several goroutines.
type Process struct {
	command  Command
	restart  atomic.Bool
	tail     tail
	stopOnce sync.Once
	stopping chan struct{} // closed when Stop was asked for
	done     chan struct{} // closed when no life follows any more

	mu    sync.Mutex
	child *os.Process // nil between lives
	lives int
	err   error // how the last life ended
}

// StartProcess starts the command and returns once it runs. It lives until Stop,
// or without Restart until it ends by itself.
func StartProcess(c Command) (*Process, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &Process{command: c, stopping: make(chan struct{}), done: make(chan struct{})}
	p.restart.Store(c.Restart)
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	return p, nil
}

// PID is the child's process id, 0 while there is none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return 0
	}
	return p.child.Pid
}

// Lives counts how often the child was started.
func (p *Process) Lives() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lives
}

// Done is closed when the child has ended for good.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how the child ended, with its last lines. It is nil while the child
// lives and after Stop.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends sig to the child.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return fmt.Errorf("signal %s: %w", p.command.Name, os.ErrProcessDone)
	}
	if err := p.child.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.command.Name, err)
	}
	return nil
}

// Kill ends the child with SIGKILL, as a crash would; with Restart it comes back.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Stop asks the child to end, waits for the grace period or until ctx is done,
// kills it then, and returns when it is gone. It may be repeated.
func (p *Process) Stop(ctx context.Context) error {
	p.stopOnce.Do(func() { close(p.stopping) })
	// A child that ended by itself a moment ago needs no signal.
	_ = p.Signal(p.command.ask)
	grace := time.NewTimer(p.command.Grace)
	defer grace.Stop()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	case <-grace.C:
	}
	p.command.Log.Warn(p.command.Name+" does not stop, ending it", "pid", p.PID())
	p.forceGroup()
	last := time.NewTimer(killDelay)
	defer last.Stop()
	select {
	case <-p.done:
		return nil
	case <-last.C:
		return fmt.Errorf("stop %s: process %d is still there after %s", p.command.Name, p.PID(), p.command.force)
	}
}

// forceGroup ends the child together with what it started itself.
func (p *Process) forceGroup() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil {
		_ = syscall.Kill(-p.child.Pid, p.command.force)
	}
}

// run starts the child, waits for it, and starts it again, all on one thread of
// its own. The kernel's "signal me when my parent dies" follows the parent's
// *thread*: started from an ordinary goroutine, the child would get the signal
// as soon as the runtime retired the thread that happened to start it.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	pause := firstPause
	for {
		begun := time.Now()
		err := p.live(started)
		started = nil
		if p.stopped() {
			p.end(nil)
			return
		}
		if !p.restart.Load() || p.Lives() == 0 { // what never ran is a mistake, not an accident
			p.end(err)
			return
		}
		if time.Since(begun) > steadyAfter {
			pause = firstPause
		}
		p.command.Log.Warn(p.command.Name+" died, starting it again", "how", err, "after", pause)
		select {
		case <-p.stopping:
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// live is one life: start, wait, and how it ended.
func (p *Process) live(started chan<- error) error {
	out := PrefixLines(p.command.Output, p.command.Name)
	last := &prefixer{to: &p.tail}
	cmd := exec.Command(p.command.Path, p.command.Args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = p.command.Env, p.command.Dir, pipeDelay
	cmd.Stdout = io.MultiWriter(last, out)
	cmd.Stderr = cmd.Stdout
	// A group of its own keeps the terminal's Ctrl-C from the child: we stop it
	// in our order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.command.credential}
	dieWithParent(cmd.SysProcAttr, p.command.orphaned)

	err := p.begin(cmd)
	if started != nil {
		started <- err
	}
	if err != nil {
		return err
	}
	err = cmd.Wait()
	p.mu.Lock()
	p.child = nil
	p.mu.Unlock()
	_, _ = last.Close(), out.Close()
	if err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// begin starts cmd unless Stop came first. The lock makes Stop either prevent the
// start or see the child.
func (p *Process) begin(cmd *exec.Cmd) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped() {
		return context.Canceled
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.child = cmd.Process
	p.lives++
	return nil
}

func (p *Process) stopped() bool {
	select {
	case <-p.stopping:
		return true
	default:
		return false
	}
}

// end records how the last life ended; nil after Stop, for which any end is right.
func (p *Process) end(err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = fmt.Errorf("%s ended: %w; its last lines:\n%s", p.command.Name, err, p.tail.String())
}
