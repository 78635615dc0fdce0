package boot

import "context"

// Step is one named unit of a node's boot.
//
//	created ─Start→ starting ─Ready→ ready ─Stop→ stopped   (Stop is legal from every state)
type Step interface {
	// Name is stable kebab-case: log field, metric label, status row, test name.
	Name() string
	// Start launches and returns; ctx bounds the start-up only.
	Start(ctx context.Context) error
	// Ready blocks until usable; on timeout it returns the last reason, not ctx.Err().
	Ready(ctx context.Context) error
	// Stop is idempotent and returns when nothing is left running; ctx is the grace period.
	Stop(ctx context.Context) error
}

// Watched is implemented by a step whose work can end without Stop: the
// channel yields once, with the reason.
type Watched interface{ Exited() <-chan error }

// Phase is a set of steps that run concurrently.
type Phase struct {
	Name  string
	Steps []Step
}

// Sequence is the boot: phases run in order, Stop walks back.
type Sequence []Phase
