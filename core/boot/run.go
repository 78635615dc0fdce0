package boot

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

const (
	defaultStepTimeout = 2 * time.Minute
	defaultStopTimeout = 10 * time.Second
	abandonAfter       = time.Second // how long a call may outlive its context
)

// Run boots seq, reports readiness, waits, and stops what it started.
//
// It returns nil when ctx ends, at whatever point, and everything stopped
// cleanly; the caller finds the reason in context.Cause(ctx). Otherwise the
// error holds a *StepError for the first failure (a step that did not start or
// get ready in time, or a Watched step that exited), joined with whatever went
// wrong while stopping. Nothing is left running, except a step whose methods
// ignore their context: such a call is abandoned and named in the error.
func Run(ctx context.Context, seq Sequence, opt Options) error {
	bootCtx, cancel := context.WithCancelCause(ctx)
	e := &engine{opt: opt, cancel: cancel, done: make(chan struct{})}
	begun := 0
	for begun < len(seq) && bootCtx.Err() == nil {
		e.startPhase(bootCtx, seq[begun])
		begun++
	}
	if bootCtx.Err() == nil {
		if opt.OnReady != nil {
			opt.OnReady()
		}
		<-bootCtx.Done()
	}
	close(e.done)
	e.watchers.Wait()
	cancel(nil)
	if failure, ok := errors.AsType[*StepError](context.Cause(bootCtx)); ok {
		return errors.Join(failure, e.stop(ctx, seq[:begun]))
	}
	return e.stop(ctx, seq[:begun])
}

type engine struct {
	opt      Options
	cancel   context.CancelCauseFunc // the first cause is the boot's failure
	done     chan struct{}           // closed when exits stop to matter
	watchers sync.WaitGroup
	eventMu  sync.Mutex
}

func (e *engine) startPhase(ctx context.Context, p Phase) {
	var steps sync.WaitGroup
	for _, s := range p.Steps {
		steps.Go(func() {
			if err := e.startStep(ctx, p.Name, s); err != nil {
				e.cancel(err)
			}
		})
	}
	steps.Wait()
}

func (e *engine) startStep(ctx context.Context, phase string, s Step) error {
	limit := positive(e.opt.StepTimeout, defaultStepTimeout)
	if d, ok := s.(Deadlined); ok {
		limit = positive(d.Deadline(), limit)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	fail := func(op string, err error) error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			op = fmt.Sprintf("not ready after %gs", limit.Seconds())
		}
		return &StepError{Phase: phase, Step: s.Name(), Op: op, Err: err}
	}
	if err := e.timed(ctx, phase, s, ActionStart, s.Start); err != nil {
		return fail("start", err)
	}
	if w, ok := s.(Watched); ok {
		e.watchers.Go(func() { e.watch(phase, s.Name(), w.Exited()) })
	}
	if err := e.timed(ctx, phase, s, ActionReady, s.Ready); err != nil {
		return fail("not ready", err)
	}
	return nil
}

// watch turns the end of a step into the end of the boot, also while the step
// itself or a later phase is still starting.
func (e *engine) watch(phase, step string, exited <-chan error) {
	select {
	case <-e.done:
	case err := <-exited:
		if err == nil {
			err = errors.New("ended without an error")
		}
		now := time.Now()
		e.emit(Event{Phase: phase, Step: step, Action: ActionExit, Began: now, Ended: now, Err: err})
		e.cancel(&StepError{Phase: phase, Step: step, Op: "exited", Err: err})
	}
}

// stop walks back. Every phase leaves a twentieth of the whole time to each
// phase after it, so that a step that hangs does not take the grace of all.
func (e *engine) stop(ctx context.Context, begun Sequence) error {
	total := positive(e.opt.StopTimeout, defaultStopTimeout)
	end := time.Now().Add(total)
	var errs []error
	for i, p := range slices.Backward(begun) {
		stopCtx, cancel := context.WithDeadline(context.WithoutCancel(ctx), end.Add(-total/20*time.Duration(i)))
		results := make([]error, len(p.Steps))
		var steps sync.WaitGroup
		for j, s := range p.Steps {
			steps.Go(func() {
				if err := e.timed(stopCtx, p.Name, s, ActionStop, s.Stop); err != nil {
					results[j] = &StepError{Phase: p.Name, Step: s.Name(), Op: "stop", Err: err}
				}
			})
		}
		steps.Wait()
		cancel()
		errs = append(errs, results...)
	}
	return errors.Join(errs...)
}

func (e *engine) timed(ctx context.Context, phase string, s Step, action Action, call func(context.Context) error) error {
	began := time.Now()
	err := guarded(ctx, call)
	e.emit(Event{Phase: phase, Step: s.Name(), Action: action, Began: began, Ended: time.Now(), Err: err})
	return err
}

func (e *engine) emit(ev Event) {
	if e.opt.OnEvent == nil {
		return
	}
	e.eventMu.Lock()
	defer e.eventMu.Unlock()
	e.opt.OnEvent(ev)
}

// guarded runs call, turns its panic into an error, and gives up on it when it
// ignores the end of ctx.
func guarded(ctx context.Context, call func(context.Context) error) error {
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- &PanicError{Value: p, Stack: debug.Stack()}
			}
		}()
		result <- call(ctx)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(abandonAfter)
	defer grace.Stop()
	select {
	case err := <-result:
		return err
	case <-grace.C:
		return fmt.Errorf("call ignored the end of its context: %w", ctx.Err())
	}
}

func positive(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
