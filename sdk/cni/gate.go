package cni

import (
	"context"
	"sync"
)

// gate admits a bounded number of operations, one per container, in the order of
// arrival; close shuts all of them out. Safe for concurrent use.
type gate struct {
	turn  chan struct{} // held by whoever is next
	slots chan struct{} // one per running operation

	mu         sync.Mutex
	containers map[string]*container
}

type container struct {
	held  chan struct{}
	users int
}

func newGate(parallel int) *gate {
	return &gate{
		turn:       make(chan struct{}, 1),
		slots:      make(chan struct{}, parallel),
		containers: map[string]*container{},
	}
}

// enter waits for its turn. The container comes first, so that those who wait
// for a container hold nothing that others wait for.
func (g *gate) enter(ctx context.Context, id string) (leave func(), err error) {
	c := g.container(id)
	if err := acquire(ctx, c.held); err != nil {
		g.drop(id, c)
		return nil, err
	}
	if err := acquire(ctx, g.turn); err != nil {
		<-c.held
		g.drop(id, c)
		return nil, err
	}
	err = acquire(ctx, g.slots)
	<-g.turn
	if err != nil {
		<-c.held
		g.drop(id, c)
		return nil, err
	}
	return func() {
		<-g.slots
		<-c.held
		g.drop(id, c)
	}, nil
}

// close waits until nothing runs, and lets nothing in until open is called.
func (g *gate) close(ctx context.Context) (open func(), err error) {
	if err := acquire(ctx, g.turn); err != nil {
		return nil, err
	}
	for taken := range cap(g.slots) {
		if err := acquire(ctx, g.slots); err != nil {
			for range taken {
				<-g.slots
			}
			<-g.turn
			return nil, err
		}
	}
	return func() {
		for range cap(g.slots) {
			<-g.slots
		}
		<-g.turn
	}, nil
}

func (g *gate) container(id string) *container {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.containers[id]
	if c == nil {
		c = &container{held: make(chan struct{}, 1)}
		g.containers[id] = c
	}
	c.users++
	return c
}

func (g *gate) drop(id string, c *container) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(g.containers, id)
	}
}

func acquire(ctx context.Context, slot chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
