package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// spec is what a leaf certificate has to say.
type spec struct {
	leaf      Leaf
	authority Authority
	subject   pkix.Name
	usage     []x509.ExtKeyUsage
	dns       []string
	ips       []net.IP
}

// specs lists every leaf of this node, in a fixed order.
func (s *Store) specs() []spec {
	client := func(leaf Leaf, ca Authority, cn string, org ...string) spec {
		return spec{leaf: leaf, authority: ca, subject: pkix.Name{CommonName: cn, Organization: org}, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	}
	serving := func(leaf Leaf, ca Authority, cn string, names []string, addrs []netip.Addr, usage ...x509.ExtKeyUsage) spec {
		dns, ips := s.sans(names, addrs)
		return spec{leaf: leaf, authority: ca, subject: pkix.Name{CommonName: cn}, usage: append(usage, x509.ExtKeyUsageServerAuth), dns: dns, ips: ips}
	}
	api := []string{kubernetesServiceName, "kubernetes.default", kubernetesServiceDomain, kubernetesServiceDomain + "." + s.cfg.ClusterDomain}
	apiIPs := slices.Concat(s.cfg.ServiceIPs, s.cfg.NodeIPs)
	list := []spec{
		client(ClientAdmin, ClientCA, "system:admin", organizationMasters),
		client(ClientSupervisor, ClientCA, "system:kelson-supervisor", organizationMasters),
		client(ClientController, ClientCA, "system:kube-controller-manager"),
		client(ClientScheduler, ClientCA, "system:kube-scheduler"),
		client(ClientCloudController, ClientCA, "system:cloud-controller-manager"),
		client(ClientKubeAPIServer, ClientCA, "system:apiserver", organizationMasters),
		client(ClientAuthProxy, RequestHeaderCA, "system:auth-proxy"),
		serving(ServingKubeAPIServer, ServerCA, "kube-apiserver", append(api, s.cfg.TLSSan...), apiIPs),
		client(EtcdClient, EtcdServerCA, "etcd-client"),
		serving(EtcdServerClient, EtcdServerCA, "etcd-server", nil, s.cfg.NodeIPs, x509.ExtKeyUsageClientAuth),
		serving(EtcdPeerServerClient, EtcdPeerCA, "etcd-peer", nil, s.cfg.NodeIPs, x509.ExtKeyUsageClientAuth),
	}
	if s.cfg.NodeName == "" {
		return list
	}
	return append(list,
		client(ClientKubelet, ClientCA, "system:node:"+s.cfg.NodeName, organizationNodes),
		client(ClientKubeProxy, ClientCA, "system:kube-proxy"),
		serving(ServingKubelet, ServerCA, s.cfg.NodeName, nil, s.cfg.NodeIPs),
	)
}

// sans returns the sorted names and addresses of a serving certificate: the
// given ones, this node's, and the loopback's.
func (s *Store) sans(names []string, addrs []netip.Addr) (dns []string, ips []net.IP) {
	dns = []string{"localhost"}
	all := append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, addrs...)
	for _, name := range append(names, s.cfg.NodeName) {
		name = strings.TrimSuffix(strings.TrimSpace(name), ".")
		if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
			all = append(all, addr)
		} else if name != "" {
			dns = append(dns, strings.ToLower(name))
		}
	}
	for i, addr := range all {
		all[i] = addr.Unmap().WithZone("")
	}
	slices.SortFunc(all, netip.Addr.Compare)
	for _, addr := range slices.Compact(all) {
		if addr.IsValid() && !addr.IsUnspecified() {
			ips = append(ips, addr.AsSlice())
		}
	}
	slices.Sort(dns)
	return slices.Compact(dns), ips
}

// EnsureLeaves issues every leaf certificate that is missing or no longer
// good, and writes the authorities' files without chain; EnsureAuthorities
// comes first.
func (s *Store) EnsureLeaves() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.ensureLeaves()
	return err
}

// ensureLeaves returns the leaves that it issued. The mutex is held.
func (s *Store) ensureLeaves() ([]Leaf, error) {
	if s.authorities == nil {
		return nil, errors.New("issue certificates: the authorities are not loaded")
	}
	specs := s.specs()
	done := make([]bool, len(specs))
	var work []func() error
	for i, sp := range specs {
		work = append(work, func() (err error) {
			done[i], err = s.ensureLeaf(sp)
			return err
		})
	}
	for _, name := range []Authority{ClientCA, ServerCA} {
		work = append(work, func() error {
			return s.writeIfChanged(name.NoChainFile(s.cfg.Layout), encodeCerts(s.authorities[name].cert), 0o600)
		})
	}
	err := parallel(work)
	var issued []Leaf
	for i, sp := range specs {
		if done[i] {
			issued = append(issued, sp.leaf)
		}
	}
	return issued, err
}

// ensureLeaf reports whether it had to issue the certificate.
func (s *Store) ensureLeaf(sp spec) (bool, error) {
	now := s.cfg.Now()
	ca := s.authorities[sp.authority]
	if err := checkAuthority(ca.chain, now); err != nil {
		return false, fmt.Errorf("authority %s: %s: %w", sp.authority, sp.authority.CertFile(s.cfg.Layout), err)
	}
	certFile, keyFile := sp.leaf.CertFile(s.cfg.Layout), sp.leaf.KeyFile(s.cfg.Layout)
	certPEM, err := readOptional(certFile)
	if err != nil {
		return false, fmt.Errorf("read certificate %s: %w", sp.leaf, err)
	}
	keyPEM, err := readOptional(keyFile)
	if err != nil {
		return false, fmt.Errorf("read certificate %s: %w", sp.leaf, err)
	}
	key, keyErr := parseKey(keyPEM)
	reason := "missing"
	if len(certPEM) > 0 {
		reason = sp.stale(certPEM, key, keyErr, ca, now)
	}
	if reason == "" {
		return false, s.restrict(keyFile)
	}
	if reason != "missing" {
		s.cfg.Log.Warn("certificate is issued again", "file", certFile, "reason", reason)
	}
	if keyErr != nil {
		made, data, err := newKey()
		if err != nil {
			return false, fmt.Errorf("certificate %s: %w", sp.leaf, err)
		}
		if err := s.write(keyFile, data, 0o600); err != nil {
			return false, fmt.Errorf("certificate %s: %w", sp.leaf, err)
		}
		key = made
	}
	return true, s.issue(sp, key, ca, now)
}

func (s *Store) issue(sp spec, key crypto.Signer, ca *authority, now time.Time) error {
	notBefore, notAfter := now.Add(-backdate), now.Add(leafLife)
	if notBefore.Before(ca.cert.NotBefore) {
		notBefore = ca.cert.NotBefore
	}
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	template := &x509.Certificate{
		Subject:               sp.subject,
		NotBefore:             notBefore.UTC(),
		NotAfter:              notAfter.UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           sp.usage,
		BasicConstraintsValid: true,
		DNSNames:              sp.dns,
		IPAddresses:           sp.ips,
	}
	cert, err := sign(template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", sp.leaf, err)
	}
	data := encodeCerts(append([]*x509.Certificate{cert}, ca.intermediates()...)...)
	if err := s.write(sp.leaf.CertFile(s.cfg.Layout), data, 0o600); err != nil {
		return fmt.Errorf("certificate %s: %w", sp.leaf, err)
	}
	s.cfg.Log.Info(fmt.Sprintf("certificate %s signed by CN=%s", subject(cert), ca.cert.Subject.CommonName), "notBefore", stamp(cert.NotBefore), "notAfter", stamp(cert.NotAfter))
	return nil
}

// intermediates are the certificates that a peer who trusts only the root
// needs beside the leaf.
func (a *authority) intermediates() []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range a.chain {
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			out = append(out, c)
		}
	}
	return out
}

// stale says why the certificate on disk is no good, or "".
func (sp spec) stale(certPEM []byte, key crypto.Signer, keyErr error, ca *authority, now time.Time) string {
	certs, err := parseCerts(certPEM)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	cert := certs[0]
	switch {
	case keyErr != nil:
		return "its key is unreadable: " + keyErr.Error()
	case !samePublic(cert.PublicKey, key.Public()):
		return "its key does not belong to it"
	case !bytes.Equal(cert.RawIssuer, ca.cert.RawSubject) || cert.CheckSignatureFrom(ca.cert) != nil:
		return "its authority was replaced"
	case !slices.EqualFunc(certs[1:], ca.intermediates(), (*x509.Certificate).Equal):
		return "its authority's chain changed"
	case cert.Subject.CommonName != sp.subject.CommonName || !slices.Equal(cert.Subject.Organization, sp.subject.Organization):
		return "its subject changed"
	case !sp.sameNames(cert):
		return "its names or addresses changed"
	case !slices.Equal(cert.ExtKeyUsage, sp.usage):
		return "its usage changed"
	}
	if status, reason := lifetime(cert, now); status != StatusOK {
		return reason
	}
	return ""
}

func (sp spec) sameNames(cert *x509.Certificate) bool {
	return slices.Equal(cert.DNSNames, sp.dns) &&
		slices.EqualFunc(cert.IPAddresses, sp.ips, func(a, b net.IP) bool { return a.Equal(b) })
}

// lifetime judges a leaf by the clock alone.
func lifetime(cert *x509.Certificate, now time.Time) (Status, string) {
	switch {
	case now.Before(cert.NotBefore):
		return StatusInvalid, fmt.Sprintf("valid from %s on only, and the clock says %s: the clock is or was wrong", stamp(cert.NotBefore), stamp(now))
	case now.After(cert.NotAfter):
		return StatusExpired, fmt.Sprintf("expired at %s", stamp(cert.NotAfter))
	case renewAt(cert).Before(now):
		return StatusRenewalDue, fmt.Sprintf("less than a third of its life is left (until %s)", stamp(cert.NotAfter))
	}
	return StatusOK, ""
}

// renewAt is when a third of the certificate's life is left.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

func subject(cert *x509.Certificate) string {
	out := "CN=" + cert.Subject.CommonName
	if len(cert.Subject.Organization) > 0 {
		out += ",O=" + strings.Join(cert.Subject.Organization, "+")
	}
	return out
}

// readPair loads a leaf's certificate and key as they are on disk.
func readPair(certFile, keyFile string) (certPEM, keyPEM []byte, err error) {
	if certPEM, err = os.ReadFile(certFile); err != nil {
		return nil, nil, err
	}
	keyPEM, err = os.ReadFile(keyFile)
	return certPEM, keyPEM, err
}

// SetNodeIPs replaces the node's addresses and issues the certificates that
// name them anew; what serves them reloads the files.
func (s *Store) SetNodeIPs(ips []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.NodeIPs = slices.Clone(ips)
	_, err := s.ensureLeaves()
	return err
}
