package cni

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"k8s.io/client-go/kubernetes"

	"github.com/kelson-io/kelson/core/boot"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

const (
	upkeepMinPause = 250 * time.Millisecond
	upkeepMaxPause = 15 * time.Second
)

// UpkeepDeps is what NewUpkeep needs.
type UpkeepDeps struct {
	Network *Network
	Client  func() (kubernetes.Interface, error) // may read and patch nodes
	Runtime string                               // containerd's socket
	Log     hclog.Logger
}

// Upkeep is the step that keeps a network plugin informed of the cluster's
// nodes, cleans up behind it (at the start, after each new start of the plugin,
// and every 15 minutes), and says that network policies are not enforced.
type Upkeep struct {
	network *Network
	deps    UpkeepDeps

	mu     sync.Mutex
	cancel context.CancelFunc
	group  *sync.WaitGroup
}

var _ boot.Step = (*Upkeep)(nil)

// NewUpkeep returns the step. It does no I/O.
func NewUpkeep(deps UpkeepDeps) *Upkeep { return &Upkeep{network: deps.Network, deps: deps} }

// Name implements boot.Step.
func (*Upkeep) Name() string { return "network-upkeep" }

// Start implements boot.Step: the work goes on in the background, and what
// fails is tried again.
func (u *Upkeep) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	u.mu.Lock()
	u.cancel, u.group = cancel, &sync.WaitGroup{}
	u.mu.Unlock()
	u.group.Go(func() { u.perPlugin(ctx, "tell the network plugin of the nodes", u.tell) })
	u.group.Go(func() { u.perPlugin(ctx, "collect attachments", u.collect) })
	u.group.Go(func() { u.perPlugin(ctx, "warn of network policies", u.warn) })
	return nil
}

// Ready implements boot.Step.
func (*Upkeep) Ready(context.Context) error { return nil }

// Stop implements boot.Step.
func (u *Upkeep) Stop(ctx context.Context) error {
	u.mu.Lock()
	cancel, group := u.cancel, u.group
	u.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// perPlugin runs work for each plugin process that was set up, and again when
// it fails, until ctx ends. An error is logged once until it changes.
func (u *Upkeep) perPlugin(ctx context.Context, what string, work func(context.Context) error) {
	last, pause := "", upkeepMinPause
	for ctx.Err() == nil {
		_, ready, changed := u.network.snapshot()
		if !ready {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		began := time.Now()
		err := until(ctx, changed, work)
		if err != nil && ctx.Err() == nil && err.Error() != last {
			u.deps.Log.Debug(what, "err", err)
			last = err.Error()
		}
		if time.Since(began) > time.Minute {
			pause = upkeepMinPause
		}
		select {
		case <-ctx.Done():
		case <-changed:
			pause = upkeepMinPause
		case <-time.After(pause):
			pause = min(2*pause, upkeepMaxPause)
		}
	}
}

// until runs work, and ends it when another plugin process has been set up.
func until(ctx context.Context, changed <-chan struct{}, work func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return work(ctx)
}

func (u *Upkeep) client(ctx context.Context) (cniv1.NetworkClient, error) {
	conn, err := u.network.supervise().Conn(ctx)
	if err != nil {
		return nil, err
	}
	return cniv1.NewNetworkClient(conn), nil
}

func (u *Upkeep) tell(ctx context.Context) error {
	nodes, err := u.deps.Client()
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	info, err := u.network.deps.Info()
	if err != nil {
		return fmt.Errorf("identify node: %w", err)
	}
	published, _, _ := u.network.snapshot()
	if err := publish(ctx, nodes, info.Name, published); err != nil {
		return err
	}
	client, err := u.client(ctx)
	if err != nil {
		return err
	}
	return u.follow(ctx, nodes, client)
}

func (u *Upkeep) collect(ctx context.Context) error {
	c := &collector{paths: u.network.paths, runtime: u.deps.Runtime, missing: map[string]time.Time{}, now: time.Now}
	for {
		client, err := u.client(ctx)
		if err != nil {
			return err
		}
		removed, again, err := c.pass(ctx, client)
		if err != nil {
			return err
		}
		if removed > 0 {
			u.deps.Log.Info("attachments of pods that are gone removed", "count", removed)
		}
		wait := collectEvery
		if again {
			wait = goneFor
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}
