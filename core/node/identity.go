package node

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/bootstrap"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/pki"
)

// identity is the boot step that makes or restores what the cluster is known
// by: authorities, service-account key, encryption configuration, token; then
// this server's own leaf certificates and kubeconfigs.
type identity struct {
	layout    datadir.Layout
	config    config.Server
	encrypted bool // secrets at rest
	certs     *pki.Store
	shared    *bootstrap.Store
	created   func() error // records that the datastore now holds a cluster
	isNew     atomic.Bool  // this boot makes the cluster
	server    string       // URL that the local components use
	log       hclog.Logger
	cancel    context.CancelFunc
	renewed   chan struct{} // closed when the renewer has returned
}

// Name implements boot.Step.
func (*identity) Name() string { return "identity" }

// Start implements boot.Step.
func (i *identity) Start(ctx context.Context) error {
	loaded, err := i.shared.Load(ctx)
	if err != nil {
		return err
	}
	i.isNew.Store(loaded.New)
	if err := i.certs.EnsureAuthorities(); err != nil {
		return err
	}
	if i.encrypted {
		if err := bootstrap.EnsureEncryptionConfig(bootstrap.EncryptionPath(i.layout), i.config.Secrets.Provider); err != nil {
			return err
		}
	}
	saved := make(chan error, 1)
	go func() { saved <- i.save(ctx) }()
	err = i.issue()
	if saveErr := <-saved; err == nil {
		err = saveErr
	}
	if err != nil {
		return err
	}
	i.watchExpiry(ctx)
	return nil
}

// save stores what a second server or a restore needs.
func (i *identity) save(ctx context.Context) error {
	if err := i.shared.Save(ctx); err != nil {
		return err
	}
	if err := i.created(); err != nil {
		return err
	}
	bundle, err := i.certs.ServerCABundle()
	if err != nil {
		return err
	}
	_, err = bootstrap.EnsureToken(i.layout, i.config.Token, bundle)
	return err
}

// issue makes what belongs to this server alone.
func (i *identity) issue() error {
	if err := i.certs.EnsureLeaves(); err != nil {
		return err
	}
	if err := i.certs.Kubeconfigs(i.server); err != nil {
		return err
	}
	i.log.Info("Wrote kubeconfig " + i.config.Kubeconfig.Path)
	return nil
}

// watchExpiry renews leaves while the server runs, thus beyond ctx; components
// reload them.
func (i *identity) watchExpiry(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	i.cancel, i.renewed = cancel, make(chan struct{})
	go func() {
		defer close(i.renewed)
		renewer := pki.Renewer{Store: i.certs}
		if err := renewer.Renew(ctx); err != nil && ctx.Err() == nil {
			i.log.Error("certificate renewal ended", "err", err)
		}
	}()
}

// Ready implements boot.Step.
func (*identity) Ready(context.Context) error { return nil }

// Stop implements boot.Step.
func (i *identity) Stop(ctx context.Context) error {
	if i.cancel == nil {
		return nil
	}
	i.cancel()
	select {
	case <-i.renewed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop certificate renewal: %w", context.Cause(ctx))
	}
}

// sharedFiles are the files of the bootstrap data.
func sharedFiles(encrypted bool) []string {
	files := pki.BootstrapFiles()
	if encrypted {
		files = append(files, bootstrap.EncryptionFile)
	}
	return files
}
