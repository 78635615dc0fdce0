package node

import (
	"context"

	"github.com/kelson-io/kelson/core/boot"
)

// launched puts only the launch of a step into its phase; a later phase waits
// for it with awaited. It stops with its own phase.
type launched struct{ boot.Step }

func launch(s boot.Step) boot.Step { return launched{s} }

// Ready implements boot.Step: launching is enough.
func (launched) Ready(context.Context) error { return nil }

// Exited implements boot.Watched when the wrapped step does; a nil channel
// never yields.
func (l launched) Exited() <-chan error { return exited(l.Step) }

// following starts a step only when others are ready, without holding up
// the other steps of its phase.
type following struct {
	boot.Step
	first []boot.Step
}

func after(s boot.Step, first ...boot.Step) boot.Step { return following{s, first} }

// Start implements boot.Step.
func (f following) Start(ctx context.Context) error {
	for _, s := range f.first {
		if err := s.Ready(ctx); err != nil {
			return err
		}
	}
	return f.Step.Start(ctx)
}

// Exited implements boot.Watched when the wrapped step does.
func (f following) Exited() <-chan error { return exited(f.Step) }

func exited(s boot.Step) <-chan error {
	if w, ok := s.(boot.Watched); ok {
		return w.Exited()
	}
	return nil
}

// step is a boot.Step made of functions; a nil one does nothing.
type step struct {
	name               string
	start, ready, stop func(context.Context) error
}

func (s step) Name() string                    { return s.name }
func (s step) Start(ctx context.Context) error { return call(ctx, s.start) }
func (s step) Ready(ctx context.Context) error { return call(ctx, s.ready) }
func (s step) Stop(ctx context.Context) error  { return call(ctx, s.stop) }

func call(ctx context.Context, f func(context.Context) error) error {
	if f == nil {
		return nil
	}
	return f(ctx)
}
