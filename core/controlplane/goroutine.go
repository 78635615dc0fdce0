package controlplane

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// goroutine runs one component's blocking Run function under a context of its
// own, so that the context of a step's Start bounds only the start.
type goroutine struct {
	mu     sync.Mutex
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when run returned
	err    error         // valid once done is closed
	exited chan error
}

var errStopped = errors.New("stopped")

func newGoroutine() *goroutine { return &goroutine{exited: make(chan error, 1)} }

// start launches run, which outlives ctx but keeps its values; a panic in it
// becomes its error.
func (g *goroutine) start(ctx context.Context, run func(context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	g.cancel, g.done = cancel, make(chan struct{})
	go func(done chan struct{}) {
		err := guarded(ctx, run)
		cancelled := ctx.Err() != nil
		g.mu.Lock()
		if err == nil && !cancelled {
			err = errors.New("ended by itself")
		}
		g.err = err
		g.mu.Unlock()
		close(done)
		if !cancelled {
			g.exited <- err
		}
		cancel(errStopped)
	}(g.done)
}

// stop cancels run and waits for its return within ctx.
func (g *goroutine) stop(ctx context.Context) error {
	g.mu.Lock()
	cancel, done := g.cancel, g.done
	g.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel(errStopped)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("still running: %w", context.Cause(ctx))
	}
}

// ended says whether the component has ended, and with which error.
func (g *goroutine) ended() (bool, error) {
	g.mu.Lock()
	done := g.done
	g.mu.Unlock()
	if done == nil {
		return false, nil
	}
	select {
	case <-done:
		g.mu.Lock()
		defer g.mu.Unlock()
		return true, g.err
	default:
		return false, nil
	}
}

func guarded(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return run(ctx)
}
