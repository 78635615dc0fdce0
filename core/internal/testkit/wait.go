package testkit

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// pollEvery is short against what is waited for and long against a poll.
const pollEvery = 100 * time.Millisecond

// Poll calls cond until it returns nil. When the deadline passes first, the
// error tells what was waited for and cond's last reason.
func Poll(ctx context.Context, within time.Duration, what string, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := errors.New("never tried")
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v: %w", what, within, last)
		case <-tick.C:
		}
	}
}

// Eventually is Poll for tests: it fails t at once.
func Eventually(t testing.TB, within time.Duration, what string, cond func(context.Context) error) {
	t.Helper()
	if err := Poll(context.Background(), within, what, cond); err != nil {
		t.Fatal(err)
	}
}
