package deploy

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// State is how far an addon has come.
type State string

// The states of an addon. Both pending and failed ones are tried again.
const (
	StatePending  State = "pending"  // not applied yet; Reason, if any, may pass by itself
	StateApplied  State = "applied"  // every object is in the cluster
	StateFailed   State = "failed"   // Reason names what must be changed in its files
	StateSkipped  State = "skipped"  // a .skip file says so
	StateRemoving State = "removing" // disabled, not gone yet
)

// Status is what the engine knows of one addon.
type Status struct {
	Addon    string
	Packaged bool
	State    State
	Objects  int           // how many it brings
	Reason   string        // why it is not applied, "" if it is
	Took     time.Duration // of the apply that succeeded last
}

// board holds the status of every addon and tells waiters of changes.
type board struct {
	mu      sync.Mutex
	rows    map[string]Status
	changed chan struct{} // closed and replaced at each change
}

func newBoard() *board {
	return &board{rows: map[string]Status{}, changed: make(chan struct{})}
}

// set changes one row; change gets the old one.
func (b *board) set(addon string, change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	row := b.rows[addon]
	row.Addon = addon
	change(&row)
	b.rows[addon] = row
	b.wake()
}

func (b *board) drop(addon string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rows, addon)
	b.wake()
}

func (b *board) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) list() []Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	var rows []Status
	for _, addon := range sortedKeys(b.rows) {
		rows = append(rows, b.rows[addon])
	}
	return rows
}

// wait returns when each addon is applied or skipped; when ctx ends, the
// reason of the first that is not.
func (b *board) wait(ctx context.Context, addons []string) error {
	for {
		b.mu.Lock()
		missing, changed := b.missing(addons), b.changed
		b.mu.Unlock()
		if missing == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return missing
		}
	}
}

func (b *board) missing(addons []string) error {
	for _, addon := range addons {
		row := b.rows[addon]
		if row.State == StateApplied || row.State == StateSkipped {
			continue
		}
		if row.Reason == "" {
			return fmt.Errorf("addon %s is not applied yet", addon)
		}
		return fmt.Errorf("addon %s: %s", addon, row.Reason)
	}
	return nil
}
