package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

const (
	followMinPause = 100 * time.Millisecond // after a watch that ended
	configureEvery = 5 * time.Second        // a try, while the network cannot be configured
)

// PodNetworkDeps is what NewPodNetwork needs.
type PodNetworkDeps struct {
	Layout     datadir.Layout
	Network    Network // what connects pods, NewBridge by default
	Cluster    config.Network
	Info       func() (NodeInfo, error)
	Kubeconfig string // may read and patch nodes (the administrator's); read when the API is asked
	// First tells that this boot makes a new cluster of which this node is the
	// first, so that its pod range is known before the API server is.
	First func() bool
	Log   hclog.Logger
}

// PodNetwork keeps the node's network configured for the pod range that its
// Node object says.
//
// How the range is found, fastest first; whatever the Node object says wins in
// the end, and the network is configured anew when that differs:
//
//  1. the range of the last run, kept in agent/cni/node.json. A restart waits
//     for nothing.
//  2. on the first node of a new cluster, the first range of the cluster CIDR,
//     which is what kube-controller-manager gives to the first node. The network
//     is configured before the API server answers, so that kubelet's very first
//     status can say Ready.
//  3. otherwise what kube-controller-manager writes into the Node object.
//
// In the first two cases the step also claims the range: as soon as the Node
// object exists without one, it is written there (if no other node has it).
// kube-controller-manager accepts that, and a range once set cannot be changed,
// so whoever is second changes nothing. Thereby a node that was deleted and
// registers again keeps the range in which its pods still run.
type PodNetwork struct {
	deps PodNetworkDeps

	mu         sync.Mutex
	current    []netip.Prefix // configured
	known      []netip.Prefix // to be claimed
	reason     error          // why it is not configured yet
	answered   bool           // the API has taken a watch
	configured chan struct{}
	cancel     context.CancelFunc
	done       chan struct{}
}

var _ boot.Step = (*PodNetwork)(nil)

// NewPodNetwork returns the step. It does no I/O.
func NewPodNetwork(deps PodNetworkDeps) *PodNetwork {
	return &PodNetwork{deps: deps, configured: make(chan struct{}), reason: errors.New("the node has no pod CIDR yet")}
}

// Name implements boot.Step.
func (p *PodNetwork) Name() string { return "network" }

// Start configures the network if the range is known, and follows the Node
// object from then on. It needs neither the API nor the administrator's
// credentials, only First to be decided. What fails is tried again in the
// background and never an error here: Ready tells the reason.
func (p *PodNetwork) Start(ctx context.Context) error {
	known := p.remembered()
	if known == nil && p.deps.First != nil && p.deps.First() {
		known = FirstPodCIDRs(p.deps.Cluster.ClusterCIDR)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.mu.Lock()
	p.known, p.cancel, p.done = known, cancel, make(chan struct{})
	p.mu.Unlock()
	p.configureKnown(life)
	go p.follow(life)
	return nil
}

// Ready waits until pods can be connected.
func (p *PodNetwork) Ready(ctx context.Context) error {
	select {
	case <-p.configured:
		return p.deps.Network.Status(ctx)
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("network not configured: %w", p.reason)
	}
}

// Stop ends following the Node object; pods keep their network.
func (p *PodNetwork) Stop(ctx context.Context) error {
	p.mu.Lock()
	cancel, done := p.cancel, p.done
	p.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PodCIDRs are the ranges that pods of this node get, nil while unknown.
func (p *PodNetwork) PodCIDRs() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.current)
}

// FirstPodCIDRs are the ranges that kube-controller-manager gives to the first
// node: the first /24 of an IPv4 range, the first /64 of an IPv6 range.
func FirstPodCIDRs(cluster []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, cidr := range cluster {
		bits := 24
		if cidr.Addr().Is6() {
			bits = 64
		}
		if cidr.Bits() > bits {
			return nil // kube-controller-manager refuses this; let it say so
		}
		out = append(out, netip.PrefixFrom(cidr.Masked().Addr(), bits))
	}
	return out
}

func (p *PodNetwork) configure(ctx context.Context, cidrs []netip.Prefix) error {
	info, err := p.deps.Info()
	if err != nil {
		return p.because(fmt.Errorf("identify node: %w", err))
	}
	node := NodeNetwork{NodeName: info.Name, PodCIDRs: cidrs, ClusterCIDRs: p.deps.Cluster.ClusterCIDR, MTU: info.MTU}
	if err := p.deps.Network.Configure(ctx, node); err != nil {
		return p.because(err)
	}
	if err := p.remember(cidrs); err != nil {
		return p.because(fmt.Errorf("remember the pod CIDR: %w", err))
	}
	p.mu.Lock()
	first := p.current == nil
	p.current = cidrs
	p.mu.Unlock()
	if first {
		close(p.configured)
	}
	p.deps.Log.Info("network configured", "pod-cidr", join(cidrs), "mtu", info.MTU)
	return nil
}

// because keeps err as the reason for Ready.
func (p *PodNetwork) because(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reason = err
	return err
}

type rememberedNode struct {
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs"`
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
}

func (p *PodNetwork) stateFile() string { return p.deps.Layout.Agent("cni", "node.json") }

// remembered returns the range of the last run, unless the cluster's range has
// been changed since.
func (p *PodNetwork) remembered() []netip.Prefix {
	raw, err := os.ReadFile(p.stateFile())
	if err != nil {
		return nil
	}
	var state rememberedNode
	if json.Unmarshal(raw, &state) != nil || !slices.Equal(state.ClusterCIDRs, p.deps.Cluster.ClusterCIDR) || len(state.PodCIDRs) == 0 {
		return nil
	}
	return state.PodCIDRs
}

func (p *PodNetwork) remember(cidrs []netip.Prefix) error {
	if slices.Equal(p.remembered(), cidrs) {
		return nil
	}
	raw, err := json.Marshal(rememberedNode{ClusterCIDRs: p.deps.Cluster.ClusterCIDR, PodCIDRs: cidrs})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.deps.Layout.Agent("cni", "networks"), 0o700); err != nil {
		return err
	}
	return datadir.WriteFile(p.stateFile(), append(raw, '\n'), 0o600)
}

// configureKnown tries the known range while nothing is configured; false if
// that failed.
func (p *PodNetwork) configureKnown(ctx context.Context) bool {
	p.mu.Lock()
	known, pending := p.known, p.current == nil && p.known != nil
	p.mu.Unlock()
	if !pending {
		return true
	}
	p.mu.Lock()
	before := p.reason
	p.mu.Unlock()
	if err := p.configure(ctx, known); err != nil {
		if before == nil || before.Error() != err.Error() {
			p.deps.Log.Error("network not configured, trying again", "pod-cidr", join(known), "err", err)
		}
		return false
	}
	return true
}

// follow watches the Node object until ctx ends, through restarts of the API.
// While the network cannot be configured the watch is kept short.
func (p *PodNetwork) follow(ctx context.Context) {
	defer close(p.done)
	pause, configured := followMinPause, p.PodCIDRs() != nil
	for ctx.Err() == nil {
		began := time.Now()
		limited, cancel := ctx, context.CancelFunc(func() {})
		if !configured && p.hasKnown() {
			limited, cancel = context.WithTimeout(ctx, configureEvery)
		}
		err := p.watchOnce(limited)
		cancel()
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		if err != nil && p.current == nil && p.known == nil {
			p.reason = err
		}
		answered := p.answered
		p.mu.Unlock()
		p.deps.Log.Debug("watch of the node ended", "err", err)
		if time.Since(began) > time.Minute {
			pause = followMinPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		configured = p.configureKnown(ctx) && p.PodCIDRs() != nil
		pause = min(2*pause, 5*time.Second)
		if !configured || !answered {
			pause = min(pause, 500*time.Millisecond) // somebody waits for it
		}
	}
}

func (p *PodNetwork) hasKnown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known != nil
}

func (p *PodNetwork) watchOnce(ctx context.Context) error {
	info, err := p.deps.Info()
	if err != nil {
		return fmt.Errorf("identify node: %w", err)
	}
	rest, err := clientcmd.BuildConfigFromFlags("", p.deps.Kubeconfig)
	if err != nil {
		return err
	}
	rest.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	watcher, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", info.Name).String(),
	})
	if err != nil {
		return fmt.Errorf("watch node %s: %w", info.Name, err)
	}
	defer watcher.Stop()
	p.mu.Lock()
	p.answered = true
	p.mu.Unlock()
	for event := range watcher.ResultChan() {
		node, ok := event.Object.(*corev1.Node)
		if !ok {
			return fmt.Errorf("watch node %s: %v", info.Name, event.Object)
		}
		if event.Type == watch.Deleted {
			p.deps.Log.Warn("node object deleted; it registers again when kubelet is restarted", "node", info.Name)
			continue
		}
		if err := p.observe(ctx, client, node); err != nil {
			return err
		}
	}
	return errors.New("watch closed")
}

// observe acts on one version of the Node object.
func (p *PodNetwork) observe(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	if len(node.Spec.PodCIDRs) == 0 {
		return p.claim(ctx, client, node)
	}
	var cidrs []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("pod CIDR of node %s: %w", node.Name, err)
		}
		cidrs = append(cidrs, cidr)
	}
	have := p.PodCIDRs()
	if slices.Equal(have, cidrs) {
		return nil
	}
	if have != nil {
		p.deps.Log.Warn("node has another pod CIDR: new pods get addresses of it, running ones keep theirs", "from", join(have), "to", join(cidrs))
	}
	p.mu.Lock()
	p.known = cidrs
	p.mu.Unlock()
	return p.configure(ctx, cidrs)
}

// claim writes the known range into a Node object that has none.
func (p *PodNetwork) claim(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	p.mu.Lock()
	known := p.known
	p.mu.Unlock()
	if known == nil {
		return nil
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, other := range nodes.Items {
		for _, text := range other.Spec.PodCIDRs {
			taken, err := netip.ParsePrefix(text)
			if err == nil && other.Name != node.Name && slices.ContainsFunc(known, taken.Overlaps) {
				p.deps.Log.Warn("pod CIDR of this node belongs to another node now", "pod-cidr", text, "node", other.Name)
				return nil
			}
		}
	}
	var list []string
	for _, cidr := range known {
		list = append(list, cidr.String())
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": list[0], "podCIDRs": list}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		// Someone was faster; the next event says what they wrote.
		p.deps.Log.Debug("pod CIDR not claimed", "err", err)
	}
	return nil
}
