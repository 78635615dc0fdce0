package node

import (
	"context"
	"errors"
	"time"

	"github.com/kelson-io/kelson/core/boot"
)

// toleratedWait is how long the boot waits for what it can go without.
const toleratedWait = 90 * time.Second

// tolerated is a step whose failure degrades the server but does not end the
// boot: the API server stays up, and the reason is noted.
type tolerated struct {
	boot.Step
	note func(step string, took time.Duration, err error)
}

var _ boot.Step = tolerated{}

func tolerate(s boot.Step, note func(string, time.Duration, error)) boot.Step {
	return tolerated{s, note}
}

// Start implements boot.Step.
func (t tolerated) Start(ctx context.Context) error {
	return t.forgive(ctx, time.Now(), t.Step.Start(ctx))
}

// Ready implements boot.Step.
func (t tolerated) Ready(ctx context.Context) error {
	began := time.Now()
	wait, cancel := context.WithTimeout(ctx, toleratedWait)
	defer cancel()
	return t.forgive(ctx, began, t.Step.Ready(wait))
}

// forgive notes err, but passes on that the boot was cancelled.
func (t tolerated) forgive(ctx context.Context, began time.Time, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return err
	}
	t.note(t.Name(), time.Since(began), err)
	return nil
}
