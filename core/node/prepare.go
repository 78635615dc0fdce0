package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/kelson-io/kelson/core/agent"
	"github.com/kelson-io/kelson/core/bootstrap"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/controlplane"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/datastore"
	"github.com/kelson-io/kelson/core/deploy"
)

// The free space that a server refuses to start without: what a new cluster
// needs at once, and what a running one needs to come up again.
const (
	newClusterNeed = 512 << 20
	restartNeed    = 32 << 20
)

func spaceNeeded(layout datadir.Layout) int64 {
	if hasDatabase(layout) {
		return restartNeed
	}
	return newClusterNeed
}

func hasDatabase(layout datadir.Layout) bool {
	_, err := os.Stat(layout.Server("db", "state.db"))
	return err == nil
}

// prepared is what is known, held and validated before the first step runs.
type prepared struct {
	config    config.Server
	deps      Deps
	layout    datadir.Layout
	lock      *datadir.Held
	listener  net.Listener
	info      agent.NodeInfo
	token     bootstrap.Token
	key       func() (*bootstrap.Key, error) // of a new cluster's bootstrap data; nil if there is one already
	runner    controlplane.Runner
	store     *datastore.Kine
	args      arguments
	values    map[string]string // of the tokens in packaged manifests
	encrypted bool              // secrets at rest
	service   []netip.Addr      // first address of each service range
}

type arguments struct{ apiserver, scheduler, controllers []string }

// prepare refuses whatever can be refused while nothing has been changed yet:
// privileges, data dir, a second instance, the port, the node's address, the
// arguments, the token. It is undone by close.
func prepare(ctx context.Context, cfg config.Server, deps Deps) (_ *prepared, err error) {
	if os.Geteuid() != 0 {
		return nil, config.Hinted(errors.New("a server needs root privileges"), "run it as root: sudo kelson server")
	}
	layout, err := datadir.New(cfg.DataDir, cfg.EtcDir)
	if err != nil {
		return nil, err
	}
	if err := datadir.Check(layout.Root, spaceNeeded(layout)); err != nil {
		return nil, err
	}
	p := &prepared{config: cfg, deps: deps, layout: layout}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.info, err = agent.Detect(cfg.Node, cfg.Network.ClusterCIDR); err != nil {
		return nil, err
	}
	if p.listener, err = listen(cfg.API.BindAddress, cfg.Network.ClusterCIDR, cfg.API.Port); err != nil {
		return nil, err
	}
	if err = p.validate(); err != nil {
		return nil, err
	}
	return p, p.claim(ctx)
}

// validate checks the components' arguments together.
func (p *prepared) validate() (err error) {
	c := p.config
	p.store = datastore.New(p.layout, c.Datastore, p.deps.Log.Named("datastore"))
	if err := agent.CheckProxyArgs(c.Node.KubeProxyArgs); err != nil {
		return err
	}
	if err := p.deps.KubeletArgs(c.Node.KubeletArgs); err != nil {
		return config.Hinted(err, "check the kubelet-arg settings; kelson config show says where each comes from")
	}
	p.encrypted = p.secretsEncrypted()
	advertise := c.API.AdvertiseAddress
	if !advertise.IsValid() {
		advertise = p.info.IPs[0]
	}
	p.args.apiserver, err = controlplane.APIServerArgs(controlplane.APIServerConfig{
		Layout: p.layout, API: c.API, Network: c.Network, Encrypted: p.encrypted,
		Advertise: advertise, Datastore: p.store.Endpoint(),
	})
	if err != nil {
		return err
	}
	if p.args.scheduler, err = controlplane.SchedulerArgs(p.layout, c.Scheduler); err != nil {
		return err
	}
	if p.args.controllers, err = controlplane.ControllerManagerArgs(p.layout, c.Network, c.Controller); err != nil {
		return err
	}
	if p.runner, err = p.deps.Runner(p.args.apiserver, p.args.scheduler, p.args.controllers); err != nil {
		return config.Hinted(err, "check the kube-…-arg settings; kelson config show says where each comes from")
	}
	if p.values, err = deploy.Values(c.Network, c.Addons.LocalStoragePath); err != nil {
		return err
	}
	for _, cidr := range c.Network.ServiceCIDR {
		p.service = append(p.service, cidr.Masked().Addr().Next())
	}
	return nil
}

// secretsEncrypted says whether the API server gets an encryption configuration.
// One that exists is always used: without it, the secrets written under it could
// not be read.
func (p *prepared) secretsEncrypted() bool {
	if p.config.Secrets.Encryption {
		return true
	}
	if _, err := os.Stat(bootstrap.EncryptionPath(p.layout)); err != nil {
		return false
	}
	p.deps.Log.Warn("secrets of this cluster are encrypted and stay so: secrets-encryption=false is for new clusters")
	return true
}

// claim takes the data dir: from here on files are written.
func (p *prepared) claim(ctx context.Context) (err error) {
	for _, dir := range []string{p.layout.Server(), p.layout.TLS("etcd"), p.layout.Cred(), p.layout.Agent()} {
		if err := datadir.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for _, dir := range []string{filepath.Dir(p.layout.Run), p.layout.Etc} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create %s: %w", dir, err)
		}
	}
	if err := datadir.MkdirAll(p.layout.Run, 0o700); err != nil {
		return err
	}
	if p.lock, err = datadir.Lock(p.layout.Server(".lock")); err != nil {
		return err
	}
	if err = p.activate(ctx); err != nil {
		return err
	}
	if p.token, err = bootstrap.LoadToken(p.layout, p.config.Token); err != nil {
		return err
	}
	if !hasDatabase(p.layout) {
		p.key = bootstrap.StartKey(p.token.Password)
	}
	return nil
}

// activate makes the running payload the data dir's current one.
func (p *prepared) activate(ctx context.Context) error {
	version := filepath.Dir(p.layout.Bin)
	if filepath.Dir(version) != filepath.Join(p.layout.Root, "data") {
		return nil // a host that was not started by the launcher
	}
	return datadir.Activate(ctx, p.layout.Root, filepath.Base(version), p.deps.Log)
}

// close releases what prepare took.
func (p *prepared) close() error {
	var errs []error
	if p.listener != nil {
		if err := p.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close listener: %w", err))
		}
	}
	if p.lock != nil {
		errs = append(errs, p.lock.Unlock())
	}
	return errors.Join(errs...)
}

// localURL is how this host's components reach the API server.
func (p *prepared) localURL() string {
	host := "127.0.0.1"
	switch bind := p.config.API.BindAddress; {
	case bind.IsValid() && !bind.IsUnspecified():
		host = bind.String()
	case p.info.IPs[0].Is6():
		host = "::1"
	}
	return "https://" + net.JoinHostPort(host, fmt.Sprint(p.config.API.Port))
}
