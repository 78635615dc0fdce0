// Package pki makes and keeps the cluster's certificates: five self-signed
// authorities, the service-account key, one leaf certificate per component,
// and the kubeconfigs that point at them.
//
// Invariants. An authority or the service-account key that exists is never
// overwritten: it is used, or the boot is refused with the file's name and a
// remedy. A leaf is a derived file: what is missing, unreadable, not issued by
// the present authority, not for the present names, or near its end is issued
// again. Every write is atomic, and a private key is on disk before the
// certificate that needs it, so that a crash leaves at most a key without a
// certificate. A renewed certificate keeps its private key, so that no reader
// ever sees a pair that does not match.
//
// Half an authority. A key without a certificate that nothing depends on (no
// leaf of that authority exists) is what a first start leaves when it is
// killed: the certificate is made from the key. If leaves exist, the missing
// half is named and has to be restored, because a new one would cut off
// whoever trusts the old one. Files that the bootstrap data holds are restored
// before this package looks.
//
// Concurrency: a Store may be used by several goroutines; its operations run
// one at a time, and work on their files in parallel inside.
package pki

import (
	"crypto"
	"crypto/x509"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/datadir"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour

	// backdate is how far before its making a certificate is valid, so that
	// nodes whose clocks lag a little accept it.
	backdate = 5 * time.Minute
)

// Config says what a Store issues, and for whom.
type Config struct {
	Layout        datadir.Layout
	NodeName      string       // empty: no kubelet and kube-proxy certificates
	NodeIPs       []netip.Addr // every address the node is reached at, external ones included
	ServiceIPs    []netip.Addr // the address of the Service kubernetes, one per family
	ClusterDomain string       // default cluster.local
	TLSSan        []string     // further names and addresses of the API server
	Admin         AdminKubeconfig

	// Earliest is a time that has certainly passed, such as the date of the
	// build: a clock before it is wrong. Zero: not checked.
	Earliest time.Time
	Now      func() time.Time // default time.Now
	Log      hclog.Logger     // default: none
}

// AdminKubeconfig is where the administrator's kubeconfig goes, and how.
type AdminKubeconfig struct {
	Path  string      // empty: not written
	Mode  os.FileMode // default 0600
	Group string      // name or number of the owning group; empty: unchanged
	Name  string      // of cluster, context and user; default "default"
}

// Store is the certificates of one data dir.
type Store struct {
	cfg   Config
	write func(path string, data []byte, mode os.FileMode) error

	mu          sync.Mutex
	authorities map[Authority]*authority // as loaded by EnsureAuthorities
	server      string                   // of the kubeconfigs, once they were written
}

// authority is a certificate authority that can sign.
type authority struct {
	name  Authority
	cert  *x509.Certificate
	chain []*x509.Certificate // cert and what follows it in the file
	key   crypto.Signer
	pem   []byte // the file
}

// New returns the store of a data dir. It touches no file.
func New(cfg Config) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.Admin.Name == "" {
		cfg.Admin.Name = "default"
	}
	if cfg.Admin.Mode == 0 {
		cfg.Admin.Mode = 0o600
	}
	return &Store{cfg: cfg, write: datadir.WriteFile}
}

// parallel runs every function and returns the first error in list order.
func parallel(work []func() error) error {
	errs := make([]error, len(work))
	var wg sync.WaitGroup
	for i, f := range work {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
