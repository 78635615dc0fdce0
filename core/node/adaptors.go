package node

import (
	"context"

	"github.com/kelson-io/kelson/core/boot"
)

// step is a boot.Step made of functions; a nil one does nothing.
type step struct {
	name               string
	start, ready, stop func(context.Context) error
}

var _ boot.Step = step{}

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
