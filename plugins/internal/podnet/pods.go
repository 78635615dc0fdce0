package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/cni/delegate"
	"github.com/kelson-io/kelson/sdk/cni/ipam"
)

// Options is what a plugin's configuration says of the pods' bridge.
type Options struct {
	Bridge  string // name of the link when it is made; empty: cni0 or a free name
	Hairpin bool
	Inbound bool // see Rules
}

// Pods is the bridge of a node with all that hangs on it: the part of a plugin
// that has nothing to do with other nodes. It is safe for concurrent use as the
// contract of package cni demands.
type Pods struct {
	plugin string

	mu      sync.Mutex
	options Options
	setup   *cni.Setup // nil until Setup
	running *running   // nil until Start
}

// running is what Start has made.
type running struct {
	bridge     Bridge
	attachment Attachment
	setup      cni.Setup
}

// chain is the standard plugins that attach a pod.
func (r *running) chain(ports, limits bool) (*delegate.Chain, error) {
	conflist, err := r.attachment.Conflist(ports, limits)
	if err != nil {
		return nil, err
	}
	return delegate.New(delegate.Options{Conflist: conflist, BinDirs: r.setup.BinDirs, CacheDir: r.setup.CacheDir, Path: r.setup.Path})
}

// NewPods returns the pods' side of a plugin of this name.
func NewPods(plugin string) *Pods { return &Pods{plugin: plugin} }

// Setup takes note of the node.
func (p *Pods) Setup(s cni.Setup) error {
	if len(s.Node.PodCIDRs) == 0 {
		return cni.Errorf(cni.CodeConfig, "the node has no pod range")
	}
	if s.IPAMDir == "" || s.Socket == "" {
		return cni.Errorf(cni.CodeConfig, "the address store or the socket is missing")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setup = &s
	return nil
}

// Node is what Setup was given; an error before that.
func (p *Pods) Node() (cni.Setup, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.setup == nil {
		return cni.Setup{}, errors.New("the node was not set up")
	}
	return *p.setup, nil
}

// Claim is the plugin's on this node.
func (p *Pods) Claim(s cni.Setup) Claim { return Claim{Node: NodeID(s.IPAMDir), Plugin: p.plugin} }

func (p *Pods) rules(s cni.Setup, o Options) Rules {
	return Rules{
		Claim: p.Claim(s), Tools: Tools{Path: s.Path}, NFTables: s.NFTables,
		PodCIDRs: s.Node.PodCIDRs, ClusterCIDRs: s.ClusterCIDRs, Inbound: o.Inbound,
	}
}

// Start makes or mends bridge and rules. Afterwards pods can be attached.
func (p *Pods) Start(ctx context.Context, o Options, mtu int) error {
	s, err := p.Node()
	if err != nil {
		return err
	}
	bridge := Bridge{Claim: p.Claim(s), Name: o.Bridge, MTU: mtu, PodCIDRs: s.Node.PodCIDRs}
	name, err := bridge.Ensure()
	if err != nil {
		return err
	}
	if err := p.rules(s, o).Ensure(ctx); err != nil {
		return err
	}
	r := &running{
		bridge: bridge, setup: s,
		attachment: Attachment{
			Bridge: name, MTU: mtu, Hairpin: o.Hairpin, PodCIDRs: s.Node.PodCIDRs, IPAMDir: s.IPAMDir, NFTables: s.NFTables,
		},
	}
	chain, err := r.chain(true, true)
	if err != nil {
		return err
	}
	if missing := chain.Missing(); len(missing) > 0 {
		return fmt.Errorf("standard CNI plugins are missing in %s: %s", strings.Join(s.BinDirs, ", "), strings.Join(missing, ", "))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.options, p.running = o, r
	return nil
}

// Mend puts back bridge addresses and rules that somebody has removed; mended
// says whether there was anything to do.
func (p *Pods) Mend(ctx context.Context) (mended bool, err error) {
	r, s, o := p.state()
	if r == nil {
		return false, nil
	}
	if r.bridge.Check() != nil {
		if _, err := r.bridge.Ensure(); err != nil {
			return false, err
		}
		mended = true
	}
	rules := p.rules(s, o)
	if rules.Present(ctx) {
		return mended, nil
	}
	return true, rules.Ensure(ctx)
}

// Status is nil if a pod can be attached.
func (p *Pods) Status() error {
	r, _, _ := p.state()
	if r == nil {
		return cni.Errorf(cni.CodeNotAvailable, "the network was not started")
	}
	if err := r.bridge.Check(); err != nil {
		return cni.Errorf(cni.CodeLimited, "%w", err)
	}
	return nil
}

// Teardown removes the rules, and the bridge unless another plugin claims it.
// Without all, nothing is removed while pods hang on a bridge that nobody else
// claims; inUse says so.
func (p *Pods) Teardown(ctx context.Context, all bool) (inUse bool, err error) {
	s, err := p.Node()
	if err != nil {
		return false, err
	}
	inUse, err = Bridge{Claim: p.Claim(s)}.Release(all)
	if err != nil || inUse {
		return inUse, err
	}
	rules := p.rules(s, Options{})
	if err := rules.Remove(ctx); err != nil {
		return false, err
	}
	if link, err := (Bridge{Claim: p.Claim(s)}).Find(); err != nil || link != nil {
		return false, err // another plugin goes on with it
	}
	return false, rules.Tools.removeHostPorts(ctx, s.NFTables)
}

func (p *Pods) state() (*running, cni.Setup, Options) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return nil, cni.Setup{}, Options{}
	}
	return p.running, *p.setup, p.options
}

// started are the standard plugins for one operation.
func (p *Pods) started(ports, limits bool) (*delegate.Chain, error) {
	r, _, _ := p.state()
	if r == nil {
		return nil, cni.Errorf(cni.CodeTryAgain, "the network was not started")
	}
	return r.chain(ports, limits)
}

// Add implements cni.Attacher. Plugins that have nothing to do for this pod are
// not run.
func (p *Pods) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	chain, err := p.started(wanted(r.RuntimeConfig))
	if err != nil {
		return nil, err
	}
	return chain.Add(ctx, r)
}

// Del implements cni.Attacher. The chain knows what Add has run; what it does
// not know it undoes with all of them. A path that is no network namespace any
// more is a namespace that is gone: the standard plugins would refuse it.
func (p *Pods) Del(ctx context.Context, r *cni.Request) error {
	chain, err := p.started(true, true)
	if err != nil {
		return err
	}
	if r.Netns != "" && !isNamespace(r.Netns) {
		without := *r
		without.Netns = ""
		r = &without
	}
	return chain.Del(ctx, r)
}

func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && (fs.Type == unix.NSFS_MAGIC || fs.Type == unix.PROC_SUPER_MAGIC)
}

// Check implements cni.Attacher.
func (p *Pods) Check(ctx context.Context, r *cni.Request) error {
	chain, err := p.started(wanted(r.RuntimeConfig))
	if err != nil {
		return err
	}
	return chain.Check(ctx, r)
}

// Collect implements cni.Control: what is attached, and addresses that nobody
// has any more.
func (p *Pods) Collect(ctx context.Context, valid []cni.Attachment) ([]cni.Attachment, error) {
	chain, err := p.started(true, true)
	if err != nil {
		return nil, err
	}
	removed, err := chain.Collect(ctx, valid)
	if err != nil {
		return removed, err // an address may be in use as long as its pod is attached
	}
	s, err := p.Node()
	if err != nil {
		return removed, err
	}
	store, err := ipam.Open(s.IPAMDir, s.Node.PodCIDRs)
	if err != nil {
		return removed, err
	}
	leases, err := store.Collect(valid)
	for _, lease := range leases {
		if !slices.Contains(removed, lease.Attachment) && lease.Attachment.ContainerID != "" {
			removed = append(removed, lease.Attachment)
		}
	}
	return removed, err
}

// Preflight finds what stands in the way of a bridge for the node's pods.
func Preflight(node cni.Node) ([]cni.Problem, error) {
	var out []cni.Problem
	overlapping, err := Overlapping(node.PodCIDRs)
	if err != nil {
		return nil, err
	}
	for _, what := range overlapping {
		out = append(out, cni.Problem{
			Summary: what + ", which is in the range of this node's pods",
			Hint:    "remove the link if another network left it (ip link delete NAME), or choose other pod ranges (cluster-cidr)",
		})
	}
	for _, six := range []bool{false, true} {
		if has(node.PodCIDRs, six) && !forwarding(six) {
			out = append(out, cni.Problem{
				Warning: true, Summary: fmt.Sprintf("the kernel does not forward %s packets", family(six)),
				Hint: "sysctl -w " + forwardingKey(six) + "=1",
			})
		}
	}
	return out, nil
}

func has(cidrs []netip.Prefix, six bool) bool {
	for _, cidr := range cidrs {
		if cidr.Addr().Is6() == six {
			return true
		}
	}
	return false
}

// wanted says which of the optional plugins the runtime's values need.
func wanted(runtime json.RawMessage) (ports, limits bool) {
	if len(runtime) == 0 {
		return false, false
	}
	var values struct {
		PortMappings []json.RawMessage `json:"portMappings"`
		Bandwidth    json.RawMessage   `json:"bandwidth"`
	}
	if json.Unmarshal(runtime, &values) != nil {
		return true, true
	}
	return len(values.PortMappings) > 0, len(values.Bandwidth) > 0 && string(values.Bandwidth) != "null"
}
