package bridge

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kelson-io/kelson/plugins/internal/podnet"
	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/plugin"
)

// name of the plugin, in its objects' names too.
const name = "bridge"

// mendEvery is how often the plugin looks whether others removed anything.
const mendEvery = 30 * time.Second

// Plugin is the network plugin. Make it with New.
type Plugin struct {
	*podnet.Pods // Add, Del, Check, Collect

	info   plugin.Info
	log    *slog.Logger
	health plugin.Health

	mu     sync.Mutex
	config Config
	others map[string]bool // other nodes
	stop   func()          // ends mending
}

var (
	_ plugin.Typed[Config] = (*Plugin)(nil)
	_ cni.Network          = (*Plugin)(nil)
)

// New returns the plugin.
func New(version string, log *slog.Logger) *Plugin {
	p := &Plugin{Pods: podnet.NewPods(name), log: log, others: map[string]bool{}}
	p.info = plugin.Info{
		Kind: plugin.KindCNI, Name: name, Version: version, Protocols: []uint32{1},
		Summary: "Connects the pods of one node by a bridge.",
	}
	return p
}

// Info implements plugin.Typed.
func (p *Plugin) Info() plugin.Info { return p.info }

// Health implements plugin.Typed.
func (p *Plugin) Health() *plugin.Health { return &p.health }

// Configure implements plugin.Typed: settings take effect with the next Start.
func (p *Plugin) Configure(_ context.Context, c Config, _ plugin.Host) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = c
	if p.stop == nil {
		p.health.Unready("NotStarted", "waiting to be started on the node")
	}
	return nil
}

// Preflight implements cni.Control.
func (*Plugin) Preflight(_ context.Context, node cni.Node) ([]cni.Problem, error) {
	return podnet.Preflight(node)
}

// Setup implements cni.Control.
func (p *Plugin) Setup(_ context.Context, s cni.Setup) error { return p.Pods.Setup(s) }

// Start implements cni.Control.
func (p *Plugin) Start(ctx context.Context) (cni.Started, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.Node()
	if err != nil {
		return cni.Started{}, err
	}
	mtu := p.config.MTU
	if mtu == 0 {
		mtu = s.MTU
	}
	if err := p.Pods.Start(ctx, podnet.Options{Bridge: p.config.Name, Hairpin: p.config.Hairpin}, mtu); err != nil {
		return cni.Started{}, err
	}
	p.report()
	if p.stop == nil {
		p.stop = p.mending(ctx)
	}
	return cni.Started{MTU: mtu}, nil
}

// Topology implements cni.Control: there is no way to other nodes, and the
// health says so.
func (p *Plugin) Topology(_ context.Context, change cni.Topology) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop == nil {
		return errors.New("not started")
	}
	if change.Complete {
		p.others = map[string]bool{}
	}
	for _, node := range change.Nodes {
		p.others[node.Name] = true
	}
	for _, gone := range change.Removed {
		delete(p.others, gone)
	}
	p.report()
	return nil
}

// report sets the health of a started plugin; mu is held.
func (p *Plugin) report() {
	if len(p.others) == 0 {
		p.health.Ready()
		return
	}
	p.health.Degraded("NodesUnreachable", "pods of other nodes cannot be reached (%s): a cluster of several nodes needs another network plugin, such as flannel",
		strings.Join(slices.Sorted(maps.Keys(p.others)), ", "))
}

// mending puts back, from time to time, what others have removed; it outlives
// ctx. The returned function ends it.
func (p *Plugin) mending(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(mendEvery):
			}
			p.mend(ctx)
		}
	}()
	return func() { cancel(); <-done }
}

func (p *Plugin) mend(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	mended, err := p.Mend(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		p.health.Unready("NotMended", "%v", err)
	default:
		if mended {
			p.log.Warn("bridge or rules had been changed by somebody: made again")
		}
		p.report()
	}
}

// Status implements cni.Control.
func (p *Plugin) Status(context.Context) error { return p.Pods.Status() }

// Teardown implements cni.Control.
func (p *Plugin) Teardown(ctx context.Context, all bool) error {
	p.mu.Lock()
	stop := p.stop
	p.stop = nil
	p.mu.Unlock()
	if stop != nil {
		stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	inUse, err := p.Pods.Teardown(ctx, all)
	if err != nil {
		return err
	}
	if inUse {
		if stop != nil {
			p.stop = p.mending(ctx)
		}
		return nil
	}
	p.health.Unready("TornDown", "the network was removed from the node")
	return nil
}
