package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kelson-io/kelson/core/boot"
)

const (
	launchAttempt    = 2 * time.Minute // for one start to get ready
	launchMinBackoff = 250 * time.Millisecond
	launchMaxBackoff = 15 * time.Second
)

// await blocks until something is there; at the end of ctx it returns the last
// reason why it is not.
type await func(ctx context.Context) error

// launched is a step of the node that holds up no phase and cannot end the
// server: its phase only launches it. It is started as soon as the steps that
// it follows are ready, and again until it succeeds. Whoever needs it awaits it.
type launched struct {
	boot.Step
	follows []await
	note    func(step string, took time.Duration, err error) // told when ready, or why not yet

	mu     sync.Mutex
	last   error
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is tried any more
	ready  chan struct{} // closed when the step is ready
}

var _ boot.Step = (*launched)(nil)

func launch(s boot.Step, note func(string, time.Duration, error), follows ...await) *launched {
	return &launched{
		Step: s, note: note, follows: follows,
		last: errors.New("not started yet"), ready: make(chan struct{}),
	}
}

// Start implements boot.Step.
func (l *launched) Start(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cancel != nil {
		return fmt.Errorf("%s: already started", l.Name())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel, l.done = cancel, make(chan struct{})
	go func() {
		defer close(l.done)
		l.run(ctx)
	}()
	return nil
}

// run tries until the step is ready or ctx ends.
func (l *launched) run(ctx context.Context) {
	began := time.Now()
	started := false
	for backoff := launchMinBackoff; ; backoff = min(2*backoff, launchMaxBackoff) {
		err := l.attempt(ctx, &started)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			close(l.ready)
			l.note(l.Name(), time.Since(began), nil)
			return
		}
		l.mu.Lock()
		l.last = err
		l.mu.Unlock()
		l.note(l.Name(), time.Since(began), err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
	}
}

func (l *launched) attempt(ctx context.Context, started *bool) error {
	ctx, cancel := context.WithTimeout(ctx, launchAttempt)
	defer cancel()
	for _, first := range l.follows {
		if err := first(ctx); err != nil {
			return err
		}
	}
	if !*started {
		if err := l.Step.Start(ctx); err != nil {
			return err
		}
		*started = true
	}
	return l.Step.Ready(ctx)
}

// await blocks until the step is ready; at the end of ctx it returns the last
// reason why it is not.
func (l *launched) await(ctx context.Context) error {
	select {
	case <-l.ready:
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		return fmt.Errorf("%s: %w", l.Name(), l.last)
	}
}

// Ready implements boot.Step: to be launched is enough.
func (*launched) Ready(context.Context) error { return nil }

// Stop implements boot.Step.
func (l *launched) Stop(ctx context.Context) error {
	l.mu.Lock()
	cancel, done := l.cancel, l.done
	l.mu.Unlock()
	if cancel == nil {
		return l.Step.Stop(ctx)
	}
	cancel()
	select {
	case <-done:
		return l.Step.Stop(ctx)
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s: still starting: %w", l.Name(), context.Cause(ctx)), l.Step.Stop(ctx))
	}
}
