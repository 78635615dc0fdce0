package cnitest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni"
	"github.com/kelson-io/kelson/sdk/cni/ipam"
	"github.com/kelson-io/kelson/sdk/plugintest"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

const (
	callTime   = 60 * time.Second // of a call, generously: a limit, not a budget
	settleTime = 10 * time.Second // unless Config.Settle says otherwise
	statusTime = 2 * time.Second  // of STATUS through the shim, whatever the plugin does
	podsAtOnce = 32

	nodeAddress = "192.0.2.1/24"
	nodeRouter  = "192.0.2.254"
)

// Config is what is judged, and what it is judged with.
type Config struct {
	// Program is started, killed and started again.
	Program plugintest.Program
	// Socket is the gRPC socket of a plugin that runs already, instead of a
	// Program; it must have been configured. It works in its own network
	// namespace, and the checks that end it are left out.
	Socket string
	// Shim is the path of kelson-cni; without it, the checks that need it are
	// left out.
	Shim string
	// BinDirs have the standard CNI plugins, for those that delegate.
	BinDirs []string
	// Path is the search path for ip and nft, for the kit too; the test's own by
	// default.
	Path string
	// PodCIDRs are the node's, 10.244.77.0/24 by default.
	PodCIDRs []netip.Prefix
	// ClusterCIDRs are the cluster's, 10.244.0.0/16 by default.
	ClusterCIDRs []netip.Prefix
	// IPTables tells the plugin that the kernel has no nftables.
	IPTables bool
	// Settle is how long to wait for what was removed to be gone and for pods to
	// be reachable, 10 s by default. Only what fails takes so long.
	Settle time.Duration
}

// Conform judges a plugin. Its subtests build on each other: after a failure the
// later ones may fail for the same reason.
func Conform(t *testing.T, c Config) {
	k := newKit(t, c)
	for _, check := range []struct {
		name  string
		needs need
		judge func(*testing.T, *kit)
	}{
		{"preflight", 0, preflight},
		{"start", 0, start},
		{"topology", 0, topology},
		{"attach-1.0.0", 0, func(t *testing.T, k *kit) { attachAndDetach(t, k, "1.0.0") }},
		{"attach-1.1.0", 0, func(t *testing.T, k *kit) { attachAndDetach(t, k, "1.1.0") }},
		{"check-finds-damage", 0, checkFindsDamage},
		{"refuses", 0, refuses},
		{"silent-clients", 0, silentClients},
		{"parallel", 0, parallel},
		{"collect", 0, collect},
		{"shim", aShim, throughShim},
		{"status-while-stopped", aShim | aProcess, statusWhileStopped},
		{"journal", aShim | aProcess, journal},
		{"restart-keeps-pods", aProcess, restartKeepsPods},
		{"crash-leaks-nothing", aProcess, crashLeaksNothing},
		{"teardown", 0, teardown},
	} {
		t.Run(check.name, func(t *testing.T) {
			if check.needs&aShim != 0 && c.Shim == "" {
				t.Skip("needs the shim")
			}
			if check.needs&aProcess != 0 && c.Socket != "" {
				t.Skip("needs a program of its own")
			}
			check.judge(t, k)
		})
	}
}

// need is what a check cannot do without.
type need int

const (
	aShim need = 1 << iota
	aProcess
)

// kit is one judgement under way.
type kit struct {
	Config

	dir     string     // of all files
	node    *namespace // of the plugin
	process *process   // nil with Config.Socket
	network cniv1.NetworkClient
	setup   *cniv1.SetupRequest
	store   *ipam.Store
	before  string // snapshot
	pods    int    // made so far
}

func newKit(t *testing.T, c Config) *kit {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if c.Path == "" {
		c.Path = os.Getenv("PATH")
	}
	if len(c.PodCIDRs) == 0 {
		c.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.77.0/24")}
	}
	if len(c.ClusterCIDRs) == 0 {
		c.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	}
	if c.Settle == 0 {
		c.Settle = settleTime
	}
	k := &kit{Config: c}
	var err error
	if k.dir, err = os.MkdirTemp("", "cnitest"); err != nil { //nolint:usetesting // socket paths are short
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(k.dir) })
	for _, dir := range []string{"attachments", "journal", "cache", "networks", "netns", "state", "run"} {
		if err := os.Mkdir(filepath.Join(k.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	k.makeNode(t)
	if k.store, err = ipam.Open(filepath.Join(k.dir, "networks"), c.PodCIDRs); err != nil {
		t.Fatal(err)
	}
	k.setup = &cniv1.SetupRequest{
		Node:         &cniv1.Node{Name: "node-1", Addresses: []string{netip.MustParsePrefix(nodeAddress).Addr().String()}, PodCidrs: texts(c.PodCIDRs)},
		ClusterCidrs: texts(c.ClusterCIDRs), ServiceCidrs: []string{"10.96.0.0/16"}, Mtu: 1500,
		Socket: k.path("a.sock"), IpamDir: k.path("networks"), BinDirs: c.BinDirs, CacheDir: k.path("cache"),
		Path: c.Path, Nftables: !c.IPTables,
	}
	k.before = k.snapshot(t)
	if c.Socket != "" {
		conn := connect(t, c.Socket)
		t.Cleanup(func() { conn.Close() })
		k.network = cniv1.NewNetworkClient(conn)
		return k
	}
	t.Cleanup(func() { k.kill() })
	k.launch(t)
	return k
}

// makeNode makes the node's namespace: lo, an uplink to a router, a default
// route.
func (k *kit) makeNode(t *testing.T) {
	t.Helper()
	var err error
	if k.Socket != "" {
		k.node, err = ownNamespace()
	} else {
		k.node, err = newNamespace()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.node.close)
	if k.Socket != "" {
		return
	}
	router, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(router.close)
	for _, c := range []struct {
		in   *namespace
		args []string
	}{
		{k.node, []string{"link", "set", "lo", "up"}},
		{k.node, []string{"link", "add", "uplink0", "type", "veth", "peer", "name", "router0", "netns", router.descriptor()}},
		{k.node, []string{"link", "set", "uplink0", "addrgenmode", "none"}},
		{k.node, []string{"addr", "add", nodeAddress, "dev", "uplink0"}},
		{router, []string{"addr", "add", nodeRouter + "/24", "dev", "router0"}},
		{router, []string{"link", "set", "router0", "up"}},
		{k.node, []string{"link", "set", "uplink0", "up"}},
		{k.node, []string{"route", "add", "default", "via", nodeRouter}},
	} {
		if out, err := k.run(c.in, "ip", c.args...); err != nil {
			t.Fatalf("ip %v: %v: %s", c.args, err, out)
		}
	}
}

func (k *kit) path(name string) string { return filepath.Join(k.dir, name) }

// launch starts the program and configures it, as the host does.
func (k *kit) launch(t *testing.T) {
	t.Helper()
	p, err := startProcess(k.Program, k.node, k.path("run"))
	if err != nil {
		t.Fatal(err)
	}
	k.process = p
	p.conn = connect(t, p.socket)
	k.network = cniv1.NewNetworkClient(p.conn)
	ctx, cancel := call(t)
	defer cancel()
	secrets := map[string][]byte{}
	for name, text := range k.Program.Secrets {
		secrets[name] = fmt.Appendf(nil, "%q", text)
	}
	_, err = pluginv1.NewPluginClient(p.conn).Configure(ctx, &pluginv1.ConfigureRequest{
		Config: k.Program.Config, Secrets: secrets, Generation: 1,
		Host: &pluginv1.HostInfo{Version: "v0", NodeName: "node-1", StateDir: k.path("state"), RunDir: k.path("run")},
	})
	if err != nil {
		t.Fatalf("configure: %v\n%s", err, p.output.String())
	}
}

func (k *kit) kill() {
	if k.process != nil {
		k.process.kill()
		k.process = nil
	}
}

// begin is Setup and Start.
func (k *kit) begin(t *testing.T) *cniv1.StartResponse {
	t.Helper()
	ctx, cancel := call(t)
	defer cancel()
	if _, err := k.network.Setup(ctx, k.setup); err != nil {
		t.Fatalf("setup: %v", err)
	}
	reply, err := k.network.Start(ctx, &cniv1.StartRequest{})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return reply
}

// again kills the program and brings it back as the host does.
func (k *kit) again(t *testing.T) {
	t.Helper()
	k.kill()
	k.launch(t)
	k.begin(t)
}

// collect has the plugin remove all but the pods.
func (k *kit) collect(t *testing.T, valid ...*pod) []cni.Attachment {
	t.Helper()
	ctx, cancel := call(t)
	defer cancel()
	r := &cniv1.CollectRequest{}
	for _, p := range valid {
		r.Valid = append(r.Valid, &cniv1.Attachment{ContainerId: p.id, Ifname: ifname})
	}
	reply, err := k.network.Collect(ctx, r)
	if err != nil {
		t.Fatalf("collect: %v", err)
	}
	var out []cni.Attachment
	for _, a := range reply.GetRemoved() {
		out = append(out, cni.Attachment{ContainerID: a.GetContainerId(), IfName: a.GetIfname()})
	}
	return out
}

// eventually polls until what is wrong no longer is.
func (k *kit) eventually(t *testing.T, wrong func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(k.Settle); ; <-tick.C {
		err := wrong()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Errorf("after %v still: %v", k.Settle, err)
			return
		}
	}
}

func texts(prefixes []netip.Prefix) (out []string) {
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

// links are the names of the node's interfaces.
func (k *kit) links() (out []string, err error) {
	err = k.node.do(func() error {
		list, err := net.Interfaces()
		for _, i := range list {
			out = append(out, i.Name)
		}
		return err
	})
	return out, err
}
