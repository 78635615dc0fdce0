package boot

import (
	"fmt"
	"time"
)

// Action says which part of a step's life an Event tells of.
type Action string

// The actions of an Event.
const (
	ActionStart Action = "start" // Start returned
	ActionReady Action = "ready" // Ready returned
	ActionStop  Action = "stop"  // Stop returned
	ActionExit  Action = "exit"  // a Watched step ended by itself
)

// Event is one finished action of one step. Err is nil when it succeeded.
type Event struct {
	Phase  string
	Step   string
	Action Action
	Began  time.Time
	Ended  time.Time
	Err    error
}

// Took is how long the action lasted.
func (e Event) Took() time.Duration { return e.Ended.Sub(e.Began) }

// Options tunes Run; the zero value is usable.
type Options struct {
	// StepTimeout bounds Start and Ready of one step together; 2 min if not positive.
	StepTimeout time.Duration
	// StopTimeout bounds the whole stop; 10 s if not positive.
	StopTimeout time.Duration
	// OnEvent is called serially, on the goroutine of the step: it must return quickly.
	OnEvent func(Event)
	// OnReady is called once, when the last phase is ready.
	OnReady func()
}

// Deadlined is implemented by a step that needs another time to start than
// Options.StepTimeout.
type Deadlined interface{ Deadline() time.Duration }

// StepError says which step failed at what.
type StepError struct {
	Phase string
	Step  string
	Op    string // "start", "not ready after 60s", "exited", "stop"
	Err   error
}

// Error reads `phase api: step apiserver: not ready after 60s: reason`.
func (e *StepError) Error() string {
	return fmt.Sprintf("phase %s: step %s: %s: %v", e.Phase, e.Step, e.Op, e.Err)
}

// Unwrap returns the reason.
func (e *StepError) Unwrap() error { return e.Err }

// PanicError is the panic of a step's method, with the stack it happened on.
type PanicError struct {
	Value any
	Stack []byte
}

// Error holds the value only; the stack is for the log.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }
