package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// Status is the state of a certificate.
type Status string

// The states of a certificate.
const (
	StatusOK         Status = "ok"
	StatusRenewalDue Status = "renewal due"
	StatusExpired    Status = "expired"
	StatusInvalid    Status = "invalid"
)

// CertStatus describes one certificate on disk. JSON names are stable.
type CertStatus struct {
	Name      string        `json:"name"`
	File      string        `json:"file"`
	Authority bool          `json:"authority"`
	Subject   string        `json:"subject,omitempty"`
	Issuer    string        `json:"issuer,omitempty"`
	NotBefore time.Time     `json:"notBefore,omitzero"`
	NotAfter  time.Time     `json:"notAfter,omitzero"`
	Remaining time.Duration `json:"remaining"` // nanoseconds; negative once expired
	Status    Status        `json:"status"`
	Reason    string        `json:"reason,omitempty"` // why it is not ok
}

// Leaves returns every leaf that a server may have, in a fixed order.
func Leaves() []Leaf {
	return []Leaf{
		ClientAdmin, ClientSupervisor, ClientController, ClientScheduler, ClientCloudController, ClientKubeAPIServer,
		ClientAuthProxy, ServingKubeAPIServer, EtcdClient, EtcdServerClient, EtcdPeerServerClient,
		ClientKubelet, ClientKubeProxy, ServingKubelet,
	}
}

// Check reports on the authorities and then the leaves of a data dir, judged
// by the clock of this machine. It changes nothing. A leaf that does not exist
// is left out; without any authority the error says that there is no cluster.
func Check(l datadir.Layout) ([]CertStatus, error) { return checkAt(l, time.Now()) }

func checkAt(l datadir.Layout, now time.Time) ([]CertStatus, error) {
	var out []CertStatus
	var authorities []*x509.Certificate
	for _, name := range Authorities() {
		st, cert, err := inspect(string(name), name.CertFile(l), name.KeyFile(l), now)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		st.Authority = true
		if cert != nil {
			authorities = append(authorities, cert)
			st.judgeAuthority(cert, now)
		}
		out = append(out, st)
	}
	if len(out) == 0 {
		return nil, config.Hinted(fmt.Errorf("check certificates: %s holds no authority", l.TLS()), "start the server first, or name its --data-dir")
	}
	for _, name := range Leaves() {
		st, cert, err := inspect(string(name), name.CertFile(l), name.KeyFile(l), now)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if cert != nil && st.Status == StatusOK {
			st.judgeLeaf(cert, authorities, now)
		}
		out = append(out, st)
	}
	return out, nil
}

// inspect reads one pair. The certificate is nil when it cannot be read.
func inspect(name, certFile, keyFile string, now time.Time) (CertStatus, *x509.Certificate, error) {
	st := CertStatus{Name: name, File: certFile, Status: StatusOK}
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return st, nil, fmt.Errorf("check certificate %s: %w", name, err)
	}
	certs, err := parseCerts(certPEM)
	if err != nil {
		st.Status, st.Reason = StatusInvalid, err.Error()
		return st, nil, nil //nolint:nilerr // that it cannot be read is the answer
	}
	cert := certs[0]
	st.Subject, st.Issuer = subject(cert), "CN="+cert.Issuer.CommonName
	st.NotBefore, st.NotAfter, st.Remaining = cert.NotBefore, cert.NotAfter, cert.NotAfter.Sub(now)
	keyPEM, err := readOptional(keyFile)
	if err != nil {
		return st, nil, fmt.Errorf("check certificate %s: %w", name, err)
	}
	if key, err := parseKey(keyPEM); err != nil {
		st.Status, st.Reason = StatusInvalid, fmt.Sprintf("key %s: %v", keyFile, err)
	} else if !samePublic(cert.PublicKey, key.Public()) {
		st.Status, st.Reason = StatusInvalid, fmt.Sprintf("key %s does not belong to it", keyFile)
	}
	return st, cert, nil
}

func (st *CertStatus) judgeAuthority(cert *x509.Certificate, now time.Time) {
	switch {
	case st.Status != StatusOK:
	case !cert.IsCA:
		st.Status, st.Reason = StatusInvalid, "not an authority: basic constraints do not say CA:TRUE"
	case now.Before(cert.NotBefore):
		st.Status, st.Reason = StatusInvalid, "not valid yet: the clock is or was wrong"
	case now.After(cert.NotAfter):
		st.Status, st.Reason = StatusExpired, "expired; replace it with kelson certificate rotate-ca"
	case cert.NotAfter.Sub(now) < authorityWarning:
		st.Status, st.Reason = StatusRenewalDue, "authorities are not renewed by themselves; replace it with kelson certificate rotate-ca"
	}
}

func (st *CertStatus) judgeLeaf(cert *x509.Certificate, authorities []*x509.Certificate, now time.Time) {
	if st.Status, st.Reason = lifetime(cert, now); st.Status != StatusOK && st.Status != StatusRenewalDue {
		return
	}
	for _, ca := range authorities {
		if cert.CheckSignatureFrom(ca) == nil {
			return
		}
	}
	st.Status, st.Reason = StatusInvalid, "no authority of this cluster signed it"
}
