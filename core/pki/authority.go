package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kelson-io/kelson/core/config"
)

// EnsureAuthorities loads the authorities and the service-account key, making
// those that do not exist. Authorities that were put in place before the first
// start are used as they are.
func (s *Store) EnsureAuthorities() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.cfg.Now(); now.Before(s.cfg.Earliest) {
		return clockError(fmt.Errorf("the clock says %s, which is before this program was built (%s)", stamp(now), stamp(s.cfg.Earliest)))
	}
	if err := s.makeFolders(); err != nil {
		return err
	}
	names := Authorities()
	loaded := make([]*authority, len(names))
	work := []func() error{s.ensureServiceKey}
	for i, name := range names {
		work = append(work, func() (err error) {
			loaded[i], err = s.ensureAuthority(name)
			return err
		})
	}
	if err := parallel(work); err != nil {
		return err
	}
	all := make(map[Authority]*authority, len(names))
	for _, a := range loaded {
		all[a.name] = a
	}
	if samePublic(all[ClientCA].cert.PublicKey, all[RequestHeaderCA].cert.PublicKey) {
		return config.Hinted(
			fmt.Errorf("authorities client-ca and request-header-ca in %s are the same: whoever holds a client certificate could act as anyone", s.cfg.Layout.TLS()),
			"use two different authorities, or remove request-header-ca.crt and .key to have one made")
	}
	s.authorities = all
	return nil
}

// ServerCABundle returns the certificates that clients verify the API server
// and the join API with.
func (s *Store) ServerCABundle() ([]byte, error) {
	path := ServerCA.CertFile(s.cfg.Layout)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read authority server-ca: %w", err)
	}
	return data, nil
}

// ensureAuthority returns the authority, made when neither half exists, and
// completed when the half that exists is not yet depended on.
func (s *Store) ensureAuthority(name Authority) (*authority, error) {
	certFile, keyFile := name.CertFile(s.cfg.Layout), name.KeyFile(s.cfg.Layout)
	certPEM, err := readOptional(certFile)
	if err != nil {
		return nil, fmt.Errorf("read authority %s: %w", name, err)
	}
	keyPEM, err := readOptional(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read authority %s: %w", name, err)
	}
	var a *authority
	switch {
	case len(certPEM) > 0 && len(keyPEM) > 0:
		a, err = s.loadAuthority(name, certPEM, keyPEM)
	case len(certPEM) == 0 && len(keyPEM) == 0:
		a, err = s.createAuthority(name, nil)
	default:
		a, err = s.completeAuthority(name, certPEM, keyPEM)
	}
	if err != nil {
		return nil, err
	}
	return a, s.restrict(keyFile)
}

// completeAuthority handles half a pair; the other half is missing or empty.
func (s *Store) completeAuthority(name Authority, certPEM, keyPEM []byte) (*authority, error) {
	present, absent := name.KeyFile(s.cfg.Layout), name.CertFile(s.cfg.Layout)
	if len(keyPEM) == 0 {
		present, absent = absent, present
	}
	refuse := func(why string) error {
		return config.Hinted(fmt.Errorf("authority %s is incomplete: %s exists, %s does not, and %s", name, present, absent, why),
			fmt.Sprintf("restore %s from a backup or another server; nothing was changed", absent))
	}
	if used := s.leafOf(name); used != "" {
		return nil, refuse(fmt.Sprintf("certificates of it are in use (%s)", used))
	}
	if len(keyPEM) > 0 {
		key, err := parseKey(keyPEM)
		if err != nil {
			return nil, fmt.Errorf("authority %s: read %s: %w", name, present, err)
		}
		s.cfg.Log.Warn("authority has a key but no certificate, as a killed first start leaves it: making the certificate", "authority", string(name), "key", present)
		return s.createAuthority(name, key)
	}
	certs, err := parseCerts(certPEM)
	if err != nil || !strings.HasPrefix(certs[0].Subject.CommonName, name.commonNamePrefix()) {
		return nil, refuse("the certificate was put there by someone else")
	}
	s.cfg.Log.Warn("authority has a certificate but no key and was never used: making both anew", "authority", string(name), "certificate", present)
	return s.createAuthority(name, nil)
}

// leafOf returns the file of a leaf that belongs to the authority, or "".
func (s *Store) leafOf(name Authority) string {
	for _, spec := range s.specs() {
		file := spec.leaf.CertFile(s.cfg.Layout)
		if info, err := os.Stat(file); spec.authority == name && err == nil && info.Size() > 0 {
			return file
		}
	}
	return ""
}

// createAuthority makes a self-signed authority, with the given key or a new one.
func (s *Store) createAuthority(name Authority, key crypto.Signer) (*authority, error) {
	if key == nil {
		made, keyPEM, err := newKey()
		if err != nil {
			return nil, fmt.Errorf("authority %s: %w", name, err)
		}
		if err := s.write(name.KeyFile(s.cfg.Layout), keyPEM, 0o600); err != nil {
			return nil, fmt.Errorf("authority %s: %w", name, err)
		}
		key = made
	}
	now := s.cfg.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name.commonNamePrefix() + strconv.FormatInt(now.Unix(), 10)},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(authorityLife).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	data := encodeCerts(cert)
	if err := s.write(name.CertFile(s.cfg.Layout), data, 0o600); err != nil {
		return nil, fmt.Errorf("authority %s: %w", name, err)
	}
	s.cfg.Log.Info("generated self-signed CA certificate CN="+cert.Subject.CommonName, "notBefore", stamp(cert.NotBefore), "notAfter", stamp(cert.NotAfter))
	return &authority{name: name, cert: cert, chain: []*x509.Certificate{cert}, key: key, pem: data}, nil
}

func (s *Store) loadAuthority(name Authority, certPEM, keyPEM []byte) (*authority, error) {
	certFile, keyFile := name.CertFile(s.cfg.Layout), name.KeyFile(s.cfg.Layout)
	const remedy = "put a matching pair in place (the signing certificate first, then its chain), or, on a new cluster, remove both files to have one made; nothing was changed"
	certs, err := parseCerts(certPEM)
	if err != nil {
		return nil, config.Hinted(fmt.Errorf("authority %s: read %s: %w", name, certFile, err), remedy)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, config.Hinted(fmt.Errorf("authority %s: read %s: %w", name, keyFile, err), remedy)
	}
	if !samePublic(certs[0].PublicKey, key.Public()) {
		return nil, config.Hinted(fmt.Errorf("authority %s: the key in %s does not belong to the first certificate in %s (CN=%s)", name, keyFile, certFile, certs[0].Subject.CommonName), remedy)
	}
	if err := checkAuthority(certs, s.cfg.Now()); err != nil {
		hint := config.Hint(err)
		if hint == "" {
			hint = remedy
		}
		return nil, config.Hinted(fmt.Errorf("authority %s: %s: %w", name, certFile, err), hint)
	}
	return &authority{name: name, cert: certs[0], chain: certs, key: key, pem: certPEM}, nil
}

// checkAuthority says why the first certificate cannot sign now.
func checkAuthority(certs []*x509.Certificate, now time.Time) error {
	cert := certs[0]
	cn := cert.Subject.CommonName
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return fmt.Errorf("its first certificate (CN=%s) is not an authority: basic constraints do not say CA:TRUE", cn)
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("its first certificate (CN=%s) may not sign certificates: key usage lacks Certificate Sign", cn)
	case now.Before(cert.NotBefore):
		return clockError(fmt.Errorf("its first certificate (CN=%s) is valid from %s on, and the clock says %s", cn, stamp(cert.NotBefore), stamp(now)))
	case now.After(cert.NotAfter):
		return config.Hinted(fmt.Errorf("its first certificate (CN=%s) expired at %s, and the clock says %s", cn, stamp(cert.NotAfter), stamp(now)),
			"check the clock of this machine (date); if it is right, replace the authority (kelson certificate rotate-ca); nothing was changed")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	selfSigned := false
	for _, c := range certs {
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			roots.AddCert(c)
			selfSigned = true
		} else {
			intermediates.AddCert(c)
		}
	}
	if !selfSigned {
		roots.AddCert(certs[len(certs)-1])
	}
	opt := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := cert.Verify(opt); err != nil {
		return fmt.Errorf("its certificates do not form a chain: %w", err)
	}
	return nil
}

func clockError(err error) error {
	return config.Hinted(err, "check the clock of this machine (date; timedatectl), set it and start again; nothing was changed")
}
