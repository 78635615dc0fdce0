package flannel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/lease"

	"github.com/kelson-io/kelson/plugins/internal/podnet"
	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/plugin"
)

// name of the plugin, in its objects' names too.
const name = "flannel"

const (
	mendEvery = 15 * time.Second
	mendSoon  = 2 * time.Second // while something is wrong
)

// Plugin is the network plugin. Make it with New.
type Plugin struct {
	*podnet.Pods // Add, Del, Check, Collect

	info   plugin.Info
	log    *slog.Logger
	health plugin.Health

	mu      sync.Mutex
	config  Config
	host    plugin.Host
	nodes   map[string]cni.Node // as the host told, also across sessions
	told    bool                // all nodes, once
	session *session            // nil until Start
	stop    func()              // ends mending
}

var (
	_ plugin.Typed[Config] = (*Plugin)(nil)
	_ cni.Network          = (*Plugin)(nil)
)

// New returns the plugin. From then on the process' klog goes to log.
func New(version string, log *slog.Logger) *Plugin {
	p := &Plugin{Pods: podnet.NewPods(name), log: log, nodes: map[string]cni.Node{}}
	p.info = plugin.Info{
		Kind: plugin.KindCNI, Name: name, Version: version, Protocols: []uint32{1},
		Summary: "Connects pods by a bridge, and the nodes by VXLAN, plain routes or WireGuard.",
	}
	adaptKlog(log, func() {
		p.health.Fatal("LinkWatchFailed", "the kernel's link events cannot be watched")
	})
	return p
}

// Info implements plugin.Typed.
func (p *Plugin) Info() plugin.Info { return p.info }

// Health implements plugin.Typed.
func (p *Plugin) Health() *plugin.Health { return &p.health }

// Configure implements plugin.Typed: settings take effect with the next Start.
func (p *Plugin) Configure(_ context.Context, c Config, h plugin.Host) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config, p.host = c, h
	if c.Backend == backendWireGuard {
		// A key that is made anew at each boot would be as good, but for the
		// other nodes, which would have to hear of it first.
		if err := os.Setenv("WIREGUARD_KEY_FILE", filepath.Join(h.StateDir, "wireguard.key")); err != nil { //nolint:forbidigo // flannel takes it from nowhere else
			return fmt.Errorf("name the key file: %w", err)
		}
	}
	if p.session == nil {
		p.health.Unready("NotStarted", "waiting to be started on the node")
	}
	return nil
}

// Preflight implements cni.Control.
func (p *Plugin) Preflight(_ context.Context, node cni.Node) ([]cni.Problem, error) {
	p.mu.Lock()
	c := p.config
	p.mu.Unlock()
	problems, err := podnet.Preflight(node)
	if err != nil {
		return nil, err
	}
	return append(problems, preflight(c, node)...), nil
}

// Setup implements cni.Control.
func (p *Plugin) Setup(_ context.Context, s cni.Setup) error { return p.Pods.Setup(s) }

// Start implements cni.Control.
func (p *Plugin) Start(ctx context.Context) (cni.Started, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	setup, err := p.Node()
	if err != nil {
		return cni.Started{}, err
	}
	want, err := p.spec(setup)
	if err != nil {
		return cni.Started{}, err
	}
	if err := p.run(ctx, want); err != nil {
		return cni.Started{}, err
	}
	if err := p.Pods.Start(ctx, podnet.Options{Hairpin: p.config.Hairpin, Inbound: true}, want.podMTU()); err != nil {
		return cni.Started{}, err
	}
	p.health.Ready()
	if p.told {
		p.route(ctx)
	}
	if p.stop == nil {
		p.stop = p.mending(ctx)
	}
	return cni.Started{MTU: want.podMTU(), Published: publish(p.session.manager.published(), familiesOf(want.podCIDRs))}, nil
}

// spec is what the backend is to be; mu is held.
func (p *Plugin) spec(s cni.Setup) (spec, error) {
	need := familiesOf(s.Node.PodCIDRs)
	wanted := p.config.Interface
	if wanted == "" {
		wanted = s.Interface
	}
	up, err := findUplink(wanted, s.Node.Addresses, need)
	if err != nil {
		return spec{}, err
	}
	out := spec{
		backendType: p.config.backendType(), uplink: up, mtu: up.mtu, vni: p.config.VNI, port: p.config.port(),
		directRouting: p.config.DirectRouting && p.config.Backend == backendVXLAN,
		podCIDRs:      up.reaches(s.Node.PodCIDRs), clusterCIDRs: s.ClusterCIDRs, claim: p.Claim(s),
	}
	if len(out.clusterCIDRs) == 0 {
		out.clusterCIDRs = s.Node.PodCIDRs
	}
	switch {
	case p.config.MTU > up.mtu:
		return spec{}, fmt.Errorf("mtu %d is more than the %d of %s", p.config.MTU, up.mtu, up.name)
	case p.config.MTU > 0:
		out.mtu = p.config.MTU
	case s.MTU > 0:
		out.mtu = min(s.MTU, up.mtu)
	}
	least := minMTU
	if need.v6 {
		least = minMTUv6
	}
	if out.podMTU() < least {
		return spec{}, fmt.Errorf("pods would have an MTU of %d, at least %d is needed: the backend takes %d of the %d of %s", out.podMTU(), least, out.overhead(), out.mtu, up.name)
	}
	return out, nil
}

// run makes sure that a session with the spec is there; mu is held.
func (p *Plugin) run(ctx context.Context, want spec) error {
	if p.session != nil {
		select {
		case <-p.session.done:
		default:
			if p.session.spec.equal(want) {
				return nil
			}
		}
		if err := p.session.end(ctx); err != nil {
			return err
		}
		p.session = nil
	}
	if err := eraseLinks(want.claim, want.links()); err != nil {
		return fmt.Errorf("remove devices of another backend: %w", err)
	}
	s, err := begin(ctx, want, p.log)
	if err != nil {
		return err
	}
	p.session = s
	return nil
}

// Topology implements cni.Control. What cannot be routed makes the plugin
// degraded and is tried again; the host need not.
func (p *Plugin) Topology(ctx context.Context, change cni.Topology) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session == nil {
		return errors.New("not started")
	}
	if change.Complete {
		p.nodes, p.told = map[string]cni.Node{}, true
	}
	for _, node := range change.Nodes {
		p.nodes[node.Name] = node
	}
	for _, gone := range change.Removed {
		delete(p.nodes, gone)
	}
	if p.told {
		p.route(ctx)
	}
	return nil
}

// route makes the routes those of the known nodes; mu is held.
func (p *Plugin) route(ctx context.Context) {
	leases := map[string]lease.Lease{}
	var bad []string
	for _, node := range slices.Sorted(maps.Keys(p.nodes)) {
		l, err := leaseOf(p.nodes[node], p.session.spec.backendType, familiesOf(p.session.spec.podCIDRs), p.session.spec.podCIDRs, p.session.spec.clusterCIDRs)
		switch {
		case errors.Is(err, errSilent):
			p.log.Debug("no route to a node yet", "node", node, "err", err)
		case err != nil:
			bad = append(bad, node+": "+err.Error())
		default:
			leases[node] = l
		}
	}
	if err := p.session.apply(ctx, leases); err != nil {
		bad = append(bad, err.Error())
	}
	if setup, err := p.Node(); err == nil && len(leases) > 0 && len(setup.Node.PodCIDRs) > len(p.session.spec.podCIDRs) {
		bad = append(bad, fmt.Sprintf("%s has an address of one family only: pods reach other nodes in that one", p.session.spec.uplink.name))
	}
	p.report(bad)
}

// report sets the health after work on the routes.
func (p *Plugin) report(bad []string) {
	if c, _ := p.health.Now(); c.State == plugin.Fatal {
		return
	}
	if len(bad) == 0 {
		p.health.Ready()
		return
	}
	p.health.Degraded("NodesUnreachable", "%s", strings.Join(bad, "; "))
}

// mending puts back, from time to time, what others have removed; it outlives
// ctx. The returned function ends it.
func (p *Plugin) mending(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			pause := mendEvery
			if c, _ := p.health.Now(); c.State != plugin.Ready {
				pause = mendSoon
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
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
	if mended {
		p.log.Warn("bridge or rules had been changed by somebody: made again")
	}
	if err == nil && p.session != nil {
		err = p.session.mend(ctx)
	}
	switch c, _ := p.health.Now(); {
	case ctx.Err() != nil || p.session == nil:
	case err != nil:
		p.report([]string{err.Error()})
	case c.State == plugin.Degraded && p.told:
		p.route(ctx)
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
	setup, err := p.Node()
	if err != nil {
		return err
	}
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
	var errs []error
	if p.session != nil {
		errs = append(errs, p.session.end(ctx))
		p.session = nil
	}
	errs = append(errs, eraseLinks(p.Claim(setup), nil))
	errs = append(errs, eraseRoutes(setup.ClusterCIDRs))
	p.health.Unready("TornDown", "the network was removed from the node")
	return errors.Join(errs...)
}
