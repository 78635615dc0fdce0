package plugin

import (
	"fmt"
	"sync"
)

// State is how a plugin is.
type State int

const (
	// Unready is not yet, or no longer, able to work.
	Unready State = iota
	// Ready is able to work.
	Ready
	// Degraded works with less than it should have.
	Degraded
	// Fatal will not recover by itself: the host starts the plugin anew.
	Fatal
)

func (s State) String() string {
	switch s {
	case Ready:
		return "ready"
	case Degraded:
		return "degraded"
	case Fatal:
		return "fatal"
	default:
		return "unready"
	}
}

// Condition is a state with its cause.
type Condition struct {
	State State
	// Reason is one word in CamelCase, for programs; empty when ready.
	Reason string
	// Message is for humans.
	Message string
}

// Health is where a plugin says how it is; the host hears of a change at once.
// The zero value is unready with the reason Starting. It is safe for concurrent
// use, and must not be copied.
type Health struct {
	mu      sync.Mutex
	set     bool
	now     Condition
	changed chan struct{} // closed by the next change
}

// Set changes the condition. Setting the present one again does nothing.
func (h *Health) Set(state State, reason, message string) {
	c := Condition{State: state, Reason: reason, Message: message}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.set && h.now == c {
		return
	}
	h.set, h.now = true, c
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// Ready is Set for a plugin that works.
func (h *Health) Ready() { h.Set(Ready, "", "") }

// Unready is Set for a plugin that cannot work now.
func (h *Health) Unready(reason, format string, args ...any) {
	h.Set(Unready, reason, fmt.Sprintf(format, args...))
}

// Degraded is Set for a plugin that works with less.
func (h *Health) Degraded(reason, format string, args ...any) {
	h.Set(Degraded, reason, fmt.Sprintf(format, args...))
}

// Fatal is Set for a plugin that only a new process can help.
func (h *Health) Fatal(reason, format string, args ...any) {
	h.Set(Fatal, reason, fmt.Sprintf(format, args...))
}

// Now is the present condition, with a channel that is closed when it changes.
func (h *Health) Now() (Condition, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	if !h.set {
		return Condition{State: Unready, Reason: "Starting"}, h.changed
	}
	return h.now, h.changed
}
