package node

import (
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

// dataDirNeed is the free space that a server refuses to start without.
const dataDirNeed = 512 << 20

// prepared is what is known, held and validated before the first step runs.
type prepared struct {
	config   config.Server
	deps     Deps
	layout   datadir.Layout
	lock     *datadir.Held
	listener net.Listener
	info     agent.NodeInfo
	token    bootstrap.Token
	runner   controlplane.Runner
	store    *datastore.Kine
	args     arguments
	values   map[string]string // of the tokens in packaged manifests
	service  []netip.Addr      // first address of each service range
}

type arguments struct{ apiserver, scheduler, controllers []string }

// prepare refuses whatever can be refused while nothing has been changed yet:
// privileges, data dir, a second instance, the port, the node's address, the
// arguments, the token. It is undone by close.
func prepare(cfg config.Server, deps Deps) (_ *prepared, err error) {
	if os.Geteuid() != 0 {
		return nil, config.Hinted(errors.New("a server needs root privileges"), "run it as root: sudo kelson server")
	}
	layout, err := datadir.New(cfg.DataDir, cfg.EtcDir)
	if err != nil {
		return nil, err
	}
	if err := datadir.Check(layout.Root, dataDirNeed); err != nil {
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
	if p.listener, err = listen(cfg.API.BindAddress, p.info.IPs[0], cfg.API.Port); err != nil {
		return nil, err
	}
	if err = p.validate(); err != nil {
		return nil, err
	}
	return p, p.claim()
}

// validate checks the components' arguments together.
func (p *prepared) validate() (err error) {
	c := p.config
	p.store = datastore.New(p.layout, c.Datastore, p.deps.Log.Named("datastore"))
	advertise := c.API.AdvertiseAddress
	if !advertise.IsValid() {
		advertise = p.info.IPs[0]
	}
	p.args.apiserver, err = controlplane.APIServerArgs(controlplane.APIServerConfig{
		Layout: p.layout, API: c.API, Network: c.Network, Secrets: c.Secrets,
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

// claim takes the data dir: from here on files are written.
func (p *prepared) claim() (err error) {
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
	p.token, err = bootstrap.LoadToken(p.layout, p.config.Token)
	return err
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
