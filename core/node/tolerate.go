package node

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot"
)

// toleratedWait is how long the boot waits for what it can go without.
const toleratedWait = 90 * time.Second

// tolerated is several steps whose failure degrades the node but does not end
// the boot: the API server stays up, and the reason is logged.
type tolerated struct {
	log   hclog.Logger
	steps []boot.Step
}

func tolerate(log hclog.Logger, steps ...boot.Step) boot.Step { return tolerated{log, steps} }

// Name implements boot.Step.
func (tolerated) Name() string { return "node-ready" }

// Start implements boot.Step.
func (t tolerated) Start(ctx context.Context) error {
	t.each(ctx, "start", boot.Step.Start)
	return nil
}

// Ready implements boot.Step.
func (t tolerated) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, toleratedWait)
	defer cancel()
	t.each(ctx, "not ready", boot.Step.Ready)
	return nil
}

// Stop implements boot.Step.
func (t tolerated) Stop(ctx context.Context) error {
	t.each(ctx, "stop", boot.Step.Stop)
	return nil
}

func (t tolerated) each(ctx context.Context, op string, do func(boot.Step, context.Context) error) {
	var wg sync.WaitGroup
	for _, s := range t.steps {
		wg.Go(func() {
			if err := do(s, ctx); err != nil && context.Cause(ctx) != context.Canceled {
				t.log.Warn("the node is degraded", "step", s.Name(), "op", op, "err", err)
			}
		})
	}
	wg.Wait()
}

// awaited is only the wait for a step that was launched in an earlier phase.
type awaited struct{ of boot.Step }

func awaitReady(s boot.Step) boot.Step { return awaited{s} }

func (a awaited) Name() string                    { return a.of.Name() }
func (awaited) Start(context.Context) error       { return nil }
func (a awaited) Ready(ctx context.Context) error { return a.of.Ready(ctx) }
func (awaited) Stop(context.Context) error        { return nil }
