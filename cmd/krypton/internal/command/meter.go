package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

const (
	// quiet is how long a command runs before it tells what it is doing.
	quiet = 2 * time.Second

	// tick is how often it says so again.
	tick = 500 * time.Millisecond

	// clearLine returns to the begin of a terminal's line and empties it.
	clearLine = "\r\x1b[K"
)

// meter shows a person what a command is doing once it has taken [quiet]: one
// line on stderr, written over and over, and taken away before anything else is
// written. Without a terminal there is none: what a script keeps of stderr is
// for errors. Every command has one, so that none can forget it. The zero value
// tells nobody.
type meter struct {
	w     io.Writer // nil: tell nobody
	width func() int
	clk   clock.Clock

	mu    sync.Mutex
	since time.Time     // the command began, or a person answered
	what  func() string // nil: nothing is waited for
	why   string        // the last attempt failed
	shown bool          // the line stands on the terminal
	end   func()
}

// newMeter returns the meter of a command that begins now.
func (e *Env) newMeter() *meter {
	if !terminal(e.Stderr) || e.Getenv("TERM") == "dumb" { // a dumb terminal writes no line again
		return &meter{}
	}
	return &meter{w: e.Stderr, clk: e.Clock, width: func() int { return terminalWidth(e.Stderr) }}
}

// terminalWidth returns how many characters fit on a line of f; 80 when it is
// not known.
func terminalWidth(f *os.File) int {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}

// start lets m speak until stop is called.
func (m *meter) start(ctx context.Context) {
	if m.w == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	m.since = m.clk.Now()
	m.end = func() { cancel(); <-ended }
	go func() {
		defer close(ended)
		for m.clk.Sleep(ctx, tick) == nil {
			m.show()
		}
	}()
}

// stop ends m and takes its line away. It may be called twice.
func (m *meter) stop() {
	if m.w == nil || m.end == nil {
		return
	}
	m.end()
	m.clear()
}

func (m *meter) show() {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := m.clk.Since(m.since)
	if m.what == nil || took < quiet {
		return
	}
	line := "krypton: " + m.what()
	if m.why != "" {
		line += " (" + m.why + "; trying again)"
	}
	if r := []rune(line); len(r) >= m.width() { // a longer one would be two lines, of which one stays
		line = string(r[:max(0, m.width()-1)])
	}
	fmt.Fprint(m.w, clearLine+line)
	m.shown = true
}

// step says what is waited for from now on; until the next step the line also
// says how long already.
func (m *meter) step(format string, a ...any) {
	if m.w == nil {
		return
	}
	text, begin := fmt.Sprintf(format, a...), m.clk.Now()
	m.watch(func() string { return fmt.Sprintf("%s, %d s", text, int(m.clk.Since(begin).Seconds())) })
}

// watch has what asked for the line each time; nil: nothing is waited for. It is
// called from another goroutine.
func (m *meter) watch(what func() string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.what, m.why = what, ""
	m.hide()
}

// failed says why the last attempt failed.
func (m *meter) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.why = err.Error()
}

// clear takes the line away before something else is written.
func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hide()
}

func (m *meter) hide() {
	if m.shown {
		fmt.Fprint(m.w, clearLine)
		m.shown = false
	}
}

// ask is silent while a person answers, and counts from the answer.
func (m *meter) ask(question func()) {
	m.mu.Lock()
	what := m.what
	m.what = nil
	m.hide()
	m.mu.Unlock()
	question()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.what = what
	if m.w != nil {
		m.since = m.clk.Now()
	}
}

// note tells the person something beside the result, on stderr.
func (in *Invocation) note(format string, a ...any) {
	in.meter.clear()
	fmt.Fprintf(in.env.Stderr, "krypton: %s\n", visible(fmt.Sprintf(format, a...)))
}

// aside shows the person a text of several lines beside the result. It is already
// escaped where it has to be.
func (in *Invocation) aside(text string) {
	in.meter.clear()
	fmt.Fprint(in.env.Stderr, text)
}
