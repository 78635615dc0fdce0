package cni

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/core/agent"
	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

const (
	configureDeadline = 60 * time.Second // for the plugin to be there and to set up the node
	statusDeadline    = 2 * time.Second
	teardownDeadline  = 30 * time.Second
)

// Plugin is the supervised process of a network plugin.
type Plugin interface {
	// Conn waits until the plugin answers and returns the connection to it.
	Conn(ctx context.Context) (grpc.ClientConnInterface, error)
}

// Deps is what New needs.
type Deps struct {
	Layout  datadir.Layout
	Name    string // of the plugin
	Cluster config.Network
	// Interface is the one to the other nodes; "": that of the node's first address.
	Interface string
	Info      func() (agent.NodeInfo, error)
	Facts     func() kernel.Facts
	Path      string // search path for userspace tools
	Log       hclog.Logger
}

// Network connects pods by a plugin.
type Network struct {
	deps      Deps
	paths     paths
	supervise func() Plugin

	mu        sync.Mutex
	conn      grpc.ClientConnInterface // to the present process
	arrived   chan struct{}            // closed when there has been one
	node      *agent.NodeNetwork       // nil until a plugin has accepted one
	published map[string]string
	changed   chan struct{} // closed and replaced when a plugin was set up
}

var _ agent.Network = (*Network)(nil)

// New returns the network. The supervisor of the plugin calls its Up; plugin
// returns that supervisor, at the earliest when Configure is called.
func New(deps Deps, plugin func() Plugin) *Network {
	return &Network{deps: deps, paths: pathsOf(deps.Layout, deps.Name), supervise: plugin, arrived: make(chan struct{}), changed: make(chan struct{})}
}

// Up sets up a plugin that has just started, if the node is known already. Until
// it is, the plugin says that it is not ready, and Configure does it.
func (n *Network) Up(ctx context.Context, conn grpc.ClientConnInterface) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		close(n.arrived)
	}
	n.conn = conn
	if n.node == nil {
		return nil
	}
	return n.setUp(ctx, conn, *n.node)
}

// Configure implements agent.Network.
func (n *Network) Configure(ctx context.Context, node agent.NodeNetwork) error {
	if len(node.PodCIDRs) == 0 {
		return errors.New("configure network: no pod CIDR")
	}
	ctx, cancel := context.WithTimeout(ctx, configureDeadline)
	defer cancel()
	select {
	case <-n.arrived:
	case <-ctx.Done():
		_, err := n.supervise().Conn(ctx) // its error tells what keeps the plugin from it
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.setUp(ctx, n.conn, node); err != nil {
		return fmt.Errorf("cni(%s): %w", n.deps.Name, err)
	}
	n.node = &node
	return n.paths.announce(n.deps.Name)
}

// setUp makes the plugin ready for this node. The caller holds mu.
func (n *Network) setUp(ctx context.Context, conn grpc.ClientConnInterface, node agent.NodeNetwork) error {
	request, err := n.request(node)
	if err != nil {
		return err
	}
	if err := n.paths.make(); err != nil {
		return err
	}
	client := cniv1.NewNetworkClient(conn)
	flight, err := client.Preflight(ctx, &cniv1.PreflightRequest{Node: request.GetNode()})
	if err != nil {
		return fmt.Errorf("preflight: %w", err)
	}
	if err := n.judge(flight.GetProblems()); err != nil {
		return err
	}
	if _, err := client.Setup(ctx, request); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	started, err := client.Start(ctx, &cniv1.StartRequest{})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	n.deps.Log.Info("network plugin started", "plugin", n.deps.Name, "mtu", started.GetMtu())
	n.published = started.GetPublished()
	close(n.changed)
	n.changed = make(chan struct{})
	return nil
}

// judge logs warnings; the rest becomes the error.
func (n *Network) judge(problems []*cniv1.Problem) error {
	var errs []error
	for _, p := range problems {
		if p.GetWarning() {
			n.deps.Log.Warn(p.GetSummary(), "plugin", n.deps.Name, "hint", p.GetHint())
			continue
		}
		errs = append(errs, config.Hinted(fmt.Errorf("preflight: %s", p.GetSummary()), p.GetHint()))
	}
	return errors.Join(errs...)
}

func (n *Network) request(node agent.NodeNetwork) (*cniv1.SetupRequest, error) {
	info, err := n.deps.Info()
	if err != nil {
		return nil, fmt.Errorf("identify node: %w", err)
	}
	return &cniv1.SetupRequest{
		Node:         &cniv1.Node{Name: node.NodeName, Addresses: texts(info.IPs), PodCidrs: texts(node.PodCIDRs)},
		ClusterCidrs: texts(node.ClusterCIDRs),
		ServiceCidrs: texts(n.deps.Cluster.ServiceCIDR),
		Mtu:          uint32(max(node.MTU, 0)), //nolint:gosec // an interface's MTU
		Interface:    n.deps.Interface,
		Socket:       n.paths.socket,
		IpamDir:      n.paths.ipam,
		BinDirs:      []string{n.deps.Layout.CNIBin()},
		CacheDir:     n.paths.cache,
		Path:         n.deps.Path,
		Nftables:     n.deps.Facts().NFTables,
	}, nil
}

// Status implements agent.Network.
func (n *Network) Status(ctx context.Context) error {
	if _, err := os.Stat(n.paths.conflist); err != nil {
		return fmt.Errorf("network not configured: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, statusDeadline)
	defer cancel()
	conn, err := n.supervise().Conn(ctx)
	if err != nil {
		return err
	}
	got, err := cniv1.NewNetworkClient(conn).Status(ctx, &cniv1.StatusRequest{})
	if err != nil {
		return fmt.Errorf("cni(%s): status: %w", n.deps.Name, err)
	}
	if !got.GetReady() {
		return fmt.Errorf("cni(%s): not ready (code %d): %s", n.deps.Name, got.GetCode(), got.GetMessage())
	}
	return nil
}

// Teardown implements agent.Network: pods that still run lose their network.
func (n *Network) Teardown(ctx context.Context) error {
	err := os.Remove(n.paths.conflist)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	ctx, cancel := context.WithTimeout(ctx, teardownDeadline)
	defer cancel()
	conn, connErr := n.supervise().Conn(ctx)
	if connErr != nil {
		return errors.Join(err, connErr)
	}
	if _, callErr := cniv1.NewNetworkClient(conn).Teardown(ctx, &cniv1.TeardownRequest{All: true}); callErr != nil {
		err = errors.Join(err, fmt.Errorf("cni(%s): teardown: %w", n.deps.Name, callErr))
	}
	return err
}

// snapshot is what is published of this node, and a channel that is closed when
// a plugin has been set up anew.
func (n *Network) snapshot() (published map[string]string, ready bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.published), n.node != nil, n.changed
}

// paths are the files that host, shim and plugin meet in.
type paths struct {
	conflist, socket, ipam, records, journal, cache string
}

func pathsOf(l datadir.Layout, plugin string) paths {
	return paths{
		conflist: filepath.Join(agent.CNIConfDir(l), conflistName),
		socket:   l.RunPath("cni", plugin+".sock"),
		ipam:     l.Agent("cni", "networks"),
		records:  l.Agent("cni", "attachments"),
		journal:  l.Agent("cni", "journal"),
		cache:    l.Agent("cni", "cache"),
	}
}

// make makes the folders.
func (p paths) make() error {
	for _, dir := range []string{filepath.Dir(p.conflist), filepath.Dir(p.socket), p.ipam, p.records, p.journal, p.cache} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folders of the network: %w", err)
		}
	}
	return nil
}

func texts[T netip.Addr | netip.Prefix](values []T) []string {
	return slices.Collect(func(yield func(string) bool) {
		for _, v := range values {
			if !yield(fmt.Sprint(v)) {
				return
			}
		}
	})
}
