package cnitest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/cni/delegate"
	"github.com/kelson-io/kelson/sdk/cni/ipam"
	"github.com/kelson-io/kelson/sdk/plugin"
)

// base is what every plugin has.
type base struct{ health plugin.Health }

type noConfig struct{}

func (*base) Info() plugin.Info {
	return plugin.Info{Kind: "cni", Name: "reference", Version: "1.0.0", Summary: "Bridges pods.", Protocols: []uint32{1}}
}

func (*base) Validate(context.Context, noConfig) plugin.Diagnostics { return nil }

func (b *base) Configure(context.Context, noConfig, plugin.Host) error {
	b.health.Ready()
	return nil
}

func (b *base) Health() *plugin.Health { return &b.health }

const refBridge = "ref0"

// reference is the smallest network that keeps the contract: the standard bridge
// plugin. broken names what it does wrong instead.
type reference struct {
	broken string

	mu    sync.Mutex
	setup cni.Setup
	chain *delegate.Chain
	store *ipam.Store
}

func (r *reference) Preflight(ctx context.Context, _ cni.Node) ([]cni.Problem, error) {
	if r.broken == "preflight" {
		_, _ = r.ip(ctx, "link", "add", refBridge, "type", "bridge")
	}
	return nil, nil
}

func (r *reference) Setup(_ context.Context, s cni.Setup) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, cidr := range s.Node.PodCIDRs {
		ranges = append(ranges, []object{{"subnet": cidr.String()}})
		routes = append(routes, object{"dst": map[bool]string{true: "0.0.0.0/0", false: "::/0"}[cidr.Addr().Is4()]})
	}
	conflist, err := json.Marshal(object{"cniVersion": "1.0.0", "name": ipam.Network, "plugins": []object{
		{
			"type": "bridge", "bridge": refBridge, "isGateway": true, "hairpinMode": true, "mtu": s.MTU,
			"ipam": object{"type": "host-local", "dataDir": s.IPAMDir, "ranges": ranges, "routes": routes},
		},
		{"type": "portmap", "capabilities": object{"portMappings": true}, "backend": "nftables"},
	}})
	if err != nil {
		return err
	}
	if r.chain, err = delegate.New(delegate.Options{Conflist: conflist, BinDirs: s.BinDirs, CacheDir: s.CacheDir, Path: s.Path}); err != nil {
		return err
	}
	if missing := r.chain.Missing(); len(missing) > 0 {
		return cni.Errorf(cni.CodeConfig, "plugins missing: %v", missing)
	}
	r.setup = s
	if r.broken == "early-socket" {
		return os.WriteFile(s.Socket, nil, 0o600)
	}
	r.store, err = ipam.Open(s.IPAMDir, s.Node.PodCIDRs)
	return err
}

func (r *reference) Start(ctx context.Context) (cni.Started, error) {
	if r.broken == "start-cuts" {
		_, _ = r.ip(ctx, "link", "del", refBridge)
	}
	return cni.Started{MTU: r.setup.MTU}, nil
}

func (*reference) Topology(context.Context, cni.Topology) error { return nil }

func (r *reference) Status(context.Context) error {
	if r.broken == "status" {
		return errors.New("never ready")
	}
	return nil
}

func (r *reference) Collect(ctx context.Context, valid []cni.Attachment) ([]cni.Attachment, error) {
	switch r.broken {
	case "collect-nothing":
		return nil, nil
	case "collect-all":
		valid = nil
	case "crash": // forgets what it had begun
		if err := os.RemoveAll(filepath.Join(r.setup.CacheDir, "begun")); err != nil {
			return nil, err
		}
		return r.chain.Collect(ctx, valid)
	}
	removed, err := r.chain.Collect(ctx, valid)
	_, storeErr := r.store.Collect(valid)
	return removed, errors.Join(err, storeErr)
}

func (r *reference) Teardown(ctx context.Context, all bool) error {
	if all && r.broken == "teardown" || !all && r.broken != "teardown-cuts" {
		return nil
	}
	if r.broken == "teardown-forgets" {
		if _, err := r.ip(ctx, "route", "add", "198.51.100.0/24", "via", nodeRouter); err != nil {
			return err
		}
	}
	if out, err := r.ip(ctx, "link", "del", refBridge); err != nil && !strings.Contains(out, "Cannot find device") {
		return fmt.Errorf("delete bridge: %w: %s", err, out)
	}
	return nil
}

func (r *reference) Add(ctx context.Context, a *cni.Request) (*cni.Result, error) {
	if r.broken == "address" { // each pod from a store of its own
		s := r.setup
		s.IPAMDir = filepath.Join(s.IPAMDir, a.ContainerID)
		other := &reference{}
		if err := other.Setup(ctx, s); err != nil {
			return nil, err
		}
		return other.chain.Add(ctx, a)
	}
	return r.chain.Add(ctx, a)
}

func (r *reference) Del(ctx context.Context, a *cni.Request) error {
	switch {
	case r.broken == "del":
		return nil
	case r.broken == "del-needs-netns" && a.Netns == "":
		return cni.Errorf(cni.CodeEnvironment, "CNI_NETNS is missing")
	}
	return r.chain.Del(ctx, a)
}

func (r *reference) Check(ctx context.Context, a *cni.Request) error {
	if r.broken == "check" {
		return nil
	}
	return r.chain.Check(ctx, a)
}

// ip runs ip in the plugin's own namespace, which is the node's.
func (r *reference) ip(ctx context.Context, args ...string) (string, error) {
	path := "/usr/sbin/ip"
	for _, dir := range filepath.SplitList(r.setup.Path) {
		if info, err := os.Stat(filepath.Join(dir, "ip")); err == nil && info.Mode().IsRegular() {
			path = filepath.Join(dir, "ip")
			break
		}
	}
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	return string(out), err
}
