package pluginhost

import (
	"fmt"
	"strings"
	"time"

	"github.com/kelson-io/kelson/core/pluginhost/program"
)

// Phase is where a plugin is in its life.
type Phase string

// The phases.
const (
	Absent     Phase = "Absent"     // no program is pinned, or it is not there
	Verified   Phase = "Verified"   // the file is the pinned one; an idle on-demand plugin stays here
	Starting   Phase = "Starting"   // launched or taken over, not yet ready
	Ready      Phase = "Ready"      //
	Degraded   Phase = "Degraded"   // works with less than it should have
	Unready    Phase = "Unready"    // runs, but says that it no longer works
	Failed     Phase = "Failed"     // ended, hung or refused
	Backoff    Phase = "Backoff"    // waits for the next start
	CrashLoop  Phase = "CrashLoop"  // failed again and again, nothing to go back to; tried on slowly
	RolledBack Phase = "RolledBack" // the last good version is about to start
	Draining   Phase = "Draining"   // finishes before it ends
	Stopped    Phase = "Stopped"    //
)

// State describes a plugin at one moment.
type State struct {
	Kind     string           `json:"kind"`
	Name     string           `json:"name"`
	Version  string           `json:"version,omitempty"`
	Lifetime program.Lifetime `json:"lifetime,omitempty"`

	Phase   Phase     `json:"phase"`
	Reason  string    `json:"reason,omitempty"`  // one word in CamelCase
	Message string    `json:"message,omitempty"` // for humans
	Hint    string    `json:"hint,omitempty"`    // what to do about it
	Since   time.Time `json:"since"`             // when the phase began

	PID            int       `json:"pid,omitempty"`
	Attached       bool      `json:"attached,omitempty"` // taken over from an earlier host
	Incarnation    uint64    `json:"incarnation"`        // counts processes, taken over or launched
	Restarts       uint64    `json:"restarts"`           // after a failure
	Protocol       uint32    `json:"protocol,omitempty"` // of the kind's contract
	Generation     uint64    `json:"generation,omitempty"`
	RolledBackFrom string    `json:"rolledBackFrom,omitempty"` // version
	LastExit       string    `json:"lastExit,omitempty"`
	LastExitTime   time.Time `json:"lastExitTime,omitzero"`
	Output         []string  `json:"output,omitempty"` // the last lines that it printed
}

// outputLines is how much of a plugin's output the state shows.
const outputLines = 20

// usable says whether calls may be made.
func (s State) usable() bool { return s.Phase == Ready || s.Phase == Degraded }

// why words the phase for who waits.
func (s State) why() string {
	text := string(s.Phase)
	if s.Reason != "" {
		text += " (" + s.Reason + ")"
	}
	if s.Message != "" {
		text += ": " + s.Message
	}
	return text
}

// State describes the plugin now.
func (s *Supervised) State() State {
	s.mu.Lock()
	state, process := s.state, s.process
	state.Output = append([]string(nil), s.output...)
	s.mu.Unlock()
	if process != nil {
		state.Output = process.Output(outputLines)
	}
	return state
}

// change sets the state, wakes who waits for it and tells the host's owner.
func (s *Supervised) change(set func(*State)) {
	now := s.apply(set)
	if s.host.deps.OnChange != nil {
		s.host.deps.OnChange(now)
	}
}

func (s *Supervised) apply(set func(*State)) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.state
	set(&s.state)
	now := time.Now()
	if s.state.Phase != before.Phase {
		s.state.Since = now
	}
	switch {
	case s.state.usable() && !before.usable():
		s.readyFrom = now
	case !s.state.usable() && before.usable():
		s.readyFor, s.readyFrom = now.Sub(s.readyFrom), time.Time{}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return s.state
}

// wellFor is for how long the present process, or the last one, was ready
// without a break.
func (s *Supervised) wellFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.readyFrom.IsZero() {
		return time.Since(s.readyFrom)
	}
	return s.readyFor
}

// lastWords are the last lines that a process printed, for the log.
func (s *Supervised) lastWords() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return oneLine(strings.Join(s.output[max(0, len(s.output)-3):], " | "))
}

func (s *Supervised) phase(p Phase, reason, message string) {
	s.change(func(st *State) { st.Phase, st.Reason, st.Message, st.Hint = p, reason, message, "" })
}

// peek returns the state without the output, and what is closed at its change.
func (s *Supervised) peek() (State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// fault is why a process could not be used, or no longer.
type fault struct {
	reason string // one word in CamelCase
	err    error
	// blameless faults do not count for a crash loop: an older version would not
	// heal what the operator has to change.
	blameless bool
}

func (f *fault) Error() string { return f.err.Error() }

func (f *fault) Unwrap() error { return f.err }

func faultf(reason, format string, args ...any) *fault {
	return &fault{reason: reason, err: fmt.Errorf(format, args...)}
}
