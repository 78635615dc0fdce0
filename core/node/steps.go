package node

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"k8s.io/client-go/kubernetes"

	"github.com/kelson-io/kelson/core/agent"
	"github.com/kelson-io/kelson/core/agent/images"
	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/bootstrap"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/controlplane"
	"github.com/kelson-io/kelson/core/datastore"
	"github.com/kelson-io/kelson/core/deploy"
	"github.com/kelson-io/kelson/core/pki"
	"github.com/kelson-io/kelson/core/pluginhost"
	"github.com/kelson-io/kelson/core/status"
	"github.com/kelson-io/kelson/core/version"
)

// server holds the steps of one server by what they are.
type server struct {
	*prepared
	log   hclog.Logger
	watch *watch

	host        *agent.Host
	datastore   boot.Step
	containerd  *launched
	plugin      *launched // the network's
	network     *launched
	upkeep      *launched // of the network
	former      *launched // ends networks of an earlier choice
	images      *launched
	kubelet     *launched
	identity    *identity
	apiserver   *controlplane.APIServer
	scheduler   *controlplane.Restarted
	controllers *controlplane.Restarted
	endpoint    *endpoint
	addons      boot.Step
	nodeReady   boot.Step

	child       *agent.NodeChild // the step inside kubelet
	plugins     *pluginhost.Host
	snapshotter func() string
	addresses   latest // of the node
}

// newServer makes the steps. It does no I/O.
func newServer(p *prepared, w *watch) *server {
	s := &server{prepared: p, log: p.deps.Log, watch: w, datastore: p.store}
	s.addresses.set(p.info.IPs)
	s.newIdentity()
	s.newNode()
	s.newControlPlane()
	for _, l := range s.launches() {
		w.launched[l.Name()] = true
	}
	w.begin(s.initialStatus())
	return s
}

func (s *server) newControlPlane() {
	s.apiserver = controlplane.NewAPIServer(s.runner, s.args.apiserver, s.listener, s.probe(s.localURL()+"/readyz"), s.log)
	s.scheduler = controlplane.NewScheduler(s.runner, s.args.scheduler, s.probe("https://127.0.0.1:10259/healthz"), s.log)
	s.controllers = controlplane.NewControllerManager(s.runner, s.args.controllers, s.probe("https://127.0.0.1:10257/healthz"), s.log)
	s.endpoint = &endpoint{client: s.client, port: s.config.API.Port, addr: s.advertised}
	s.addons = tolerate(deploy.New(deploy.Config{
		Layout: s.layout, Disable: s.config.Addons.Disable, Packaged: s.deps.Manifests, Values: s.values,
		RESTConfig: s.restConfig, Log: s.log,
	}), s.watch.note)
	s.nodeReady = tolerate(step{name: "node-ready", ready: s.awaitNode}, s.watch.note)
}

func (s *server) probe(url string) controlplane.Probe {
	return controlplane.HTTPProbe(url, pki.ServerCA.CertFile(s.layout), pki.ClientAdmin.CertFile(s.layout), pki.ClientAdmin.KeyFile(s.layout))
}

func (s *server) newIdentity() {
	built, err := time.Parse(time.RFC3339, version.Get().BuildDate)
	if err != nil {
		built = time.Time{} // a build without a date has nothing to compare the clock with
	}
	k := s.config.Kubeconfig
	certs := pki.New(pki.Config{
		Layout: s.layout, NodeName: s.info.Name, NodeIPs: s.certified(s.info.IPs),
		ServiceIPs: s.service, ClusterDomain: s.config.Network.ClusterDomain, TLSSan: s.config.API.TLSSan,
		Admin:    pki.AdminKubeconfig{Path: k.Path, Mode: os.FileMode(k.Mode), Group: k.Group, Name: k.Name},
		Earliest: built, Log: s.log,
	})
	s.identity = &identity{
		layout: s.layout, config: s.config, encrypted: s.encrypted, certs: certs, server: s.localURL(), log: s.log,
		created: s.store.MarkCreated,
		shared: bootstrap.NewStore(bootstrap.StoreConfig{
			KV: datastore.KV{Client: s.store.Client}, Layout: s.layout, Token: s.token, Files: sharedFiles(s.encrypted),
			Exclusive: true, Key: s.key, Log: s.log,
		}),
	}
}

func (s *server) newNode() {
	search := kernel.SearchPath(s.layout.Bin, nodePath(), s.config.PreferBundledBin)
	executable := filepath.Join(s.layout.Bin, "kelson-host")
	note := s.watch.note
	s.host = agent.NewHost(agent.HostDeps{
		Layout: s.layout, Node: s.config.Node, IPv6: hasIPv6(s.config.Network), Search: search, Log: s.log,
	})
	containerd := agent.NewContainerd(agent.ContainerdDeps{
		Layout: s.layout, Node: s.config.Node, Debug: s.config.Log.Debug, Path: executable, Search: search, Facts: s.host.Facts, Log: s.log,
	})
	s.snapshotter = containerd.Snapshotter
	s.containerd = launch(containerd, note)
	s.newNetwork(containerd.Socket(), search)
	s.images = launch(images.New(images.Deps{
		Socket: containerd.Socket(), Snapshotter: containerd.Snapshotter, Payload: s.layout.Images(),
		User: s.layout.Agent("images"), Index: s.layout.Agent("containerd", "images.json"), Log: s.log,
	}), note, s.containerd.await, s.answering)
	s.child = agent.NewNodeChild(agent.NodeDeps{
		Layout: s.layout, Node: s.config.Node, Network: s.config.Network, Logging: s.config.Log,
		Credentials: agent.Credentials{
			ClientCA:    pki.ClientCA.CertFile(s.layout),
			ServingCert: pki.ServingKubelet.CertFile(s.layout), ServingKey: pki.ServingKubelet.KeyFile(s.layout),
			Kubeconfig: pki.KubeconfigKubelet.File(s.layout), ProxyKubeconfig: pki.KubeconfigKubeProxy.File(s.layout),
		},
		Path: executable, Search: search, Facts: s.host.Facts, Info: s.detect, Known: s.info.IPs, OnAddresses: s.moved, Log: s.log,
	})
	s.kubelet = launch(s.child, note, s.containerd.await, s.answering)
}

// enabled leaves out what the configuration turns off.
func (s *server) enabled(seq boot.Sequence) boot.Sequence {
	off := map[string]bool{
		s.scheduler.Name():   s.config.Scheduler.Disabled,
		s.controllers.Name(): s.config.Controller.Disabled,
	}
	off[s.nodeReady.Name()] = s.config.Node.Disabled
	for _, step := range s.launches() {
		off[step.Name()] = s.config.Node.Disabled
	}
	for i := range seq {
		seq[i].Steps = slices.DeleteFunc(seq[i].Steps, func(step boot.Step) bool {
			l, ok := step.(*launched)
			return ok && l == nil || off[step.Name()]
		})
	}
	return seq
}

// launches are the steps of the node.
func (s *server) launches() []*launched {
	all := []*launched{s.containerd, s.plugin, s.network, s.images, s.kubelet, s.upkeep, s.former}
	return slices.DeleteFunc(all, func(l *launched) bool { return l == nil })
}

func (s *server) detect() (agent.NodeInfo, error) {
	return agent.Detect(s.config.Node, s.config.Network.ClusterCIDR)
}

// client is the host's own access to the cluster.
func (s *server) client() (kubernetes.Interface, error) {
	cfg, err := s.restConfig()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

func hasIPv6(n config.Network) bool {
	return slices.ContainsFunc(n.ClusterCIDR, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func (s *server) initialStatus() status.Status {
	return status.Status{
		Version: version.Get().Version, PID: os.Getpid(), StartedAt: time.Now(), State: status.Starting,
		DataDir: s.layout.Root, Kubeconfig: s.config.Kubeconfig.Path, APIServer: s.localURL(), Node: s.info.Name,
		Datastore:  status.Datastore{Kind: s.config.Datastore.Name, Durability: s.config.Datastore.Durability},
		Components: s.components(),
		Phases:     phasesOf(s.sequence()),
	}
}

// components are the packaged components that this server deploys.
func (s *server) components() []string {
	entries, err := fs.ReadDir(s.deps.Manifests, ".")
	if err != nil {
		return nil // the addon engine reports it
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(s.config.Addons.Disable, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}
