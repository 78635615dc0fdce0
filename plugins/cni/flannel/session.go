package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/backend/hostgw"
	"github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/backend/wireguard"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"

	"github.com/kelson-io/kelson/plugins/internal/podnet"
)

// Backend types as flannel names them.
const (
	typeVXLAN     = "vxlan"
	typeHostGW    = "host-gw"
	typeWireGuard = "wireguard"
)

const (
	applyPoll = 5 * time.Millisecond
	applyWait = 5 * time.Second  // for routes to appear after the backend was told
	endWait   = 10 * time.Second // for the backend to end
)

// spec is all that a session is made of: another spec, another session.
type spec struct {
	backendType   string
	uplink        uplink
	mtu           int // of the uplink, as configured
	vni           int
	port          int
	directRouting bool
	podCIDRs      []netip.Prefix // of this node, as far as the uplink has the family
	clusterCIDRs  []netip.Prefix
	claim         podnet.Claim
}

func (s spec) equal(o spec) bool {
	return s.backendType == o.backendType && s.uplink == o.uplink && s.mtu == o.mtu && s.vni == o.vni && s.port == o.port &&
		s.directRouting == o.directRouting && slices.Equal(s.podCIDRs, o.podCIDRs) && slices.Equal(s.clusterCIDRs, o.clusterCIDRs) && s.claim == o.claim
}

// overhead is what the backend takes of each packet. flannel reckons 50 bytes
// for VXLAN whatever the outer family; over IPv6 it is 70.
func (s spec) overhead() int {
	switch {
	case s.backendType == typeVXLAN && familiesOf(s.podCIDRs).v6:
		return 70
	case s.backendType == typeVXLAN:
		return 50
	case s.backendType == typeWireGuard:
		return 80
	default:
		return 0
	}
}

// podMTU is the MTU of the pods' interfaces.
func (s spec) podMTU() int { return s.mtu - s.overhead() }

// links are the names of the devices that the backend makes.
func (s spec) links() []string {
	var v4, v6 string
	switch s.backendType {
	case typeVXLAN:
		v4, v6 = fmt.Sprintf("flannel.%d", s.vni), fmt.Sprintf("flannel-v6.%d", s.vni)
	case typeWireGuard:
		v4, v6 = "flannel-wg", "flannel-wg-v6"
	default:
		return nil
	}
	var names []string
	f := familiesOf(s.podCIDRs)
	if f.v4 {
		names = append(names, v4)
	}
	if f.v6 {
		names = append(names, v6)
	}
	return names
}

// session is one backend at work.
type session struct {
	spec    spec
	manager *manager
	log     *slog.Logger
	cancel  context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex // one batch of events after the other
	leases map[string]lease.Lease
	known  bool // the host has told all nodes once
}

// begin makes the backend's devices, or takes those that are there, and starts
// it. Routes to other nodes that are in the kernel already stay.
func begin(ctx context.Context, s spec, log *slog.Logger) (*session, error) {
	if err := s.own(false); err != nil {
		return nil, err
	}
	config, own, err := s.flannel()
	if err != nil {
		return nil, err
	}
	m := newManager(config, own)
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	out := &session{spec: s, manager: m, log: log, cancel: cancel, done: make(chan struct{}), leases: map[string]lease.Lease{}}
	network, group, err := out.register(life)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("backend %s: %w", s.backendType, err)
	}
	if err := s.own(true); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(out.done)
		network.Run(life)
		group.Wait()
	}()
	return out, nil
}

// register calls the backend's constructor and lets it make its devices.
func (s *session) register(ctx context.Context) (backend.Network, *sync.WaitGroup, error) {
	// flannel subtracts 50 bytes of its own accord.
	external := s.spec.uplink.external(s.spec.mtu)
	if s.spec.backendType == typeVXLAN {
		external.Iface.MTU = s.spec.podMTU() + 50
	}
	constructors := map[string]backend.BackendCtor{typeVXLAN: vxlan.New, typeHostGW: hostgw.New, typeWireGuard: wireguard.New}
	b, err := constructors[s.spec.backendType](s.manager, external)
	if err != nil {
		return nil, nil, err
	}
	group := &sync.WaitGroup{}
	network, err := b.RegisterNetwork(ctx, group, &s.manager.config)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range s.spec.links() {
		// A device that was there already keeps the MTU it had.
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if link.Attrs().MTU != s.spec.podMTU() {
			if err := netlink.LinkSetMTU(link, s.spec.podMTU()); err != nil {
				return nil, nil, fmt.Errorf("mtu of %s: %w", name, err)
			}
		}
	}
	return network, group, nil
}

// own refuses devices of somebody else; with mark it puts the claim on ours.
func (s spec) own(mark bool) error {
	for _, name := range s.links() {
		link, err := netlink.LinkByName(name)
		if err != nil {
			if mark {
				return fmt.Errorf("%s: %w", name, err)
			}
			continue
		}
		if mark {
			if err := s.claim.Mark(link); err != nil {
				return err
			}
			continue
		}
		if own, _ := s.claim.OwnedBy(link); !own {
			return fmt.Errorf("the link %s belongs to somebody else: remove it (ip link delete %s) or choose another vni", name, name)
		}
	}
	return nil
}

// flannel is the spec as flannel's configuration and this node's lease.
func (s spec) flannel() (subnet.Config, lease.Lease, error) {
	f := familiesOf(s.podCIDRs)
	config := subnet.Config{EnableIPv4: f.v4, EnableIPv6: f.v6, BackendType: s.backendType}
	own := lease.Lease{EnableIPv4: f.v4, EnableIPv6: f.v6}
	for _, cidr := range s.podCIDRs {
		around := s.cluster(cidr)
		if cidr.Addr().Is4() {
			own.Subnet, config.Network = ip.FromIPNet(podnet.IPNet(cidr)), ip.FromIPNet(podnet.IPNet(around))
		} else {
			own.IPv6Subnet, config.IPv6Network = ip.FromIP6Net(podnet.IPNet(cidr)), ip.FromIP6Net(podnet.IPNet(around))
		}
	}
	settings := map[string]any{"Type": s.backendType}
	switch s.backendType {
	case typeVXLAN:
		settings["VNI"], settings["Port"], settings["DirectRouting"] = s.vni, s.port, s.directRouting
	case typeWireGuard:
		settings["ListenPort"], settings["ListenPortV6"] = s.port, s.port+1
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return subnet.Config{}, lease.Lease{}, fmt.Errorf("encode backend settings: %w", err)
	}
	config.Backend = raw
	return config, own, nil
}

// cluster is the cluster's range around one of this node's.
func (s spec) cluster(cidr netip.Prefix) netip.Prefix {
	for _, c := range s.clusterCIDRs {
		if c.Bits() <= cidr.Bits() && c.Contains(cidr.Addr()) {
			return c
		}
	}
	return cidr
}

// end stops the backend. What it made in the kernel stays, but for WireGuard's
// devices, which flannel takes with it.
func (s *session) end(ctx context.Context) error {
	s.mu.Lock() // no batch is under way
	defer s.mu.Unlock()
	s.cancel()
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop backend %s: %w", s.spec.backendType, context.Cause(ctx))
	}
}

// apply makes the routes of the cluster those of leases, which is all nodes by
// name. It returns when the kernel has them; the error names nodes whose routes
// could not be made.
func (s *session) apply(ctx context.Context, leases map[string]lease.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var events []lease.Event
	for _, name := range slices.Sorted(maps.Keys(s.leases)) {
		// flannel's vxlan tries for minutes to remove what is gone already, and
		// nothing else goes on meanwhile: there the sweep removes. The other
		// backends must be told, lest they put the routes back.
		now, still := leases[name]
		if s.spec.backendType != typeVXLAN && (!still || !same(now, s.leases[name])) {
			events = append(events, lease.Event{Type: lease.EventRemoved, Lease: s.leases[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(leases)) {
		if had, ok := s.leases[name]; !ok || !same(had, leases[name]) {
			events = append(events, lease.Event{Type: lease.EventAdded, Lease: leases[name]})
		}
	}
	s.leases, s.known = maps.Clone(leases), true
	return s.settle(ctx, events)
}

// mend puts back what somebody has removed from the kernel, and removes what
// leads to nodes that are gone.
func (s *session) mend(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		return nil // the kernel knows more than we do
	}
	if err := s.spec.own(true); err != nil {
		return err
	}
	absent, err := s.spec.missing(s.leases)
	if err != nil {
		return err
	}
	var events []lease.Event
	for _, name := range absent {
		s.log.Info("routes to a node were gone: made again", "node", name)
		events = append(events, lease.Event{Type: lease.EventAdded, Lease: s.leases[name]})
	}
	return s.settle(ctx, events)
}

// settle tells the backend and waits until the kernel shows it; mu is held.
func (s *session) settle(ctx context.Context, events []lease.Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, applyWait, errors.New("the backend is busy"))
	defer cancel()
	if err := s.spec.sweep(s.leases); err != nil {
		return err
	}
	if len(events) == 0 {
		return nil
	}
	select {
	case s.manager.events <- events:
	case <-s.done:
		return errors.New("the backend has ended")
	case <-ctx.Done():
		return fmt.Errorf("tell the backend: %w", context.Cause(ctx))
	}
	for {
		absent, err := s.spec.missing(s.leases)
		if err != nil {
			return err
		}
		if len(absent) == 0 {
			return s.spec.sweep(s.leases)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no routes to %s", strings.Join(absent, ", "))
		case <-time.After(applyPoll):
		}
	}
}
