package pki

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"slices"
	"testing"
	"time"
)

type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// custom makes a certificate of an administrator's own authority.
func custom(t *testing.T, cn string, parent *pair, change func(*x509.Certificate)) *pair {
	t.Helper()
	key, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return customWith(t, key, cn, parent, change)
}

func customWith(t *testing.T, key crypto.Signer, cn string, parent *pair, change func(*x509.Certificate)) *pair {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(900 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if change != nil {
		change(template)
	}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	cert, err := sign(template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{cert: cert, key: key}
}

func (p *pair) keyPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func place(t *testing.T, cfg Config, a Authority, key *pair, chain ...*pair) {
	t.Helper()
	var certs []*x509.Certificate
	for _, p := range chain {
		certs = append(certs, p.cert)
	}
	mustWrite(t, a.CertFile(cfg.Layout), encodeCerts(certs...))
	mustWrite(t, a.KeyFile(cfg.Layout), key.keyPEM(t))
}

func TestCustomAuthorities(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	root := custom(t, "Example Root", nil, nil)
	middle := custom(t, "Example Kubernetes", root, nil)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	single := customWith(t, rsaKey, "Example RSA", nil, nil)
	place(t, cfg, ServerCA, middle, middle, root)
	place(t, cfg, ClientCA, single, single)
	if err := os.Chmod(ClientCA.KeyFile(cfg.Layout), 0o644); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, cfg.Layout.TLS())
	mustBoot(t, cfg)
	after := snapshot(t, cfg.Layout.TLS())
	for path, data := range before {
		if after[path] != data {
			t.Errorf("%s was changed", path)
		}
	}
	checkPairs(t, cfg.Layout)
	checkModes(t, cfg.Layout.Root)

	chain, err := parseCerts(mustRead(t, ServingKubeAPIServer.CertFile(cfg.Layout)))
	if err != nil || len(chain) != 2 || !chain[1].Equal(middle.cert) {
		t.Fatalf("the serving file holds %d certificates, want the leaf and the intermediate (%v)", len(chain), err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.cert)
	intermediates.AddCert(chain[1])
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: "kubernetes"}); err != nil {
		t.Errorf("who trusts only the root: %v", err)
	}
	if certs, err := parseCerts(mustRead(t, ServerCA.NoChainFile(cfg.Layout))); err != nil || len(certs) != 1 || !certs[0].Equal(middle.cert) {
		t.Errorf("nochain file: %d certificates, %v", len(certs), err)
	}
	if err := handshake(t, cfg.Layout, ServingKubeAPIServer, ClientAdmin, ServerCA, ClientCA, "kubernetes"); err != nil {
		t.Errorf("handshake: %v", err)
	}
}

type refusal struct {
	name   string
	place  func(t *testing.T, cfg Config)
	text   string
	remedy string
}

func TestRefusedAuthorities(t *testing.T) {
	for _, tt := range slices.Concat(refusedPairs(t), refusedFiles(t)) {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir())
			tt.place(t, cfg)
			wantRefused(t, New(cfg), snapshot(t, cfg.Layout.Root), tt.text, tt.remedy)
		})
	}
}

// refusedPairs are readable pairs that cannot be an authority.
func refusedPairs(t *testing.T) []refusal {
	t.Helper()
	good := custom(t, "Good", nil, nil)
	other := custom(t, "Other", nil, nil)
	return []refusal{
		{
			name: "key of another certificate", text: "server-ca.key does not belong", remedy: "matching pair",
			place: func(t *testing.T, cfg Config) { place(t, cfg, ServerCA, other, good) },
		},
		{
			name: "chain in the wrong order", text: "does not belong to the first certificate", remedy: "the signing certificate first",
			place: func(t *testing.T, cfg Config) {
				middle := custom(t, "Middle", good, nil)
				place(t, cfg, ServerCA, middle, good, middle)
			},
		},
		{
			name: "not an authority", text: "is not an authority", remedy: "matching pair",
			place: func(t *testing.T, cfg Config) {
				p := custom(t, "Leaf", nil, func(c *x509.Certificate) { c.IsCA = false })
				place(t, cfg, ServerCA, p, p)
			},
		},
		{
			name: "may not sign", text: "may not sign", remedy: "matching pair",
			place: func(t *testing.T, cfg Config) {
				p := custom(t, "NoSign", nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
				place(t, cfg, ServerCA, p, p)
			},
		},
		{
			name: "expired", text: "expired at", remedy: "rotate-ca",
			place: func(t *testing.T, cfg Config) {
				p := custom(t, "Old", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
				place(t, cfg, ServerCA, p, p)
			},
		},
		{
			name: "valid from tomorrow on", text: "is valid from", remedy: "clock",
			place: func(t *testing.T, cfg Config) {
				p := custom(t, "New", nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(24 * time.Hour) })
				place(t, cfg, ServerCA, p, p)
			},
		},
		{
			name: "foreign chain", text: "do not form a chain", remedy: "matching pair",
			place: func(t *testing.T, cfg Config) {
				middle := custom(t, "Middle", good, nil)
				place(t, cfg, ServerCA, middle, middle, other)
			},
		},
	}
}

// refusedFiles are files that are incomplete, unreadable or of the wrong kind.
func refusedFiles(t *testing.T) []refusal {
	t.Helper()
	good := custom(t, "Good", nil, nil)
	return []refusal{
		{
			name: "certificate without key", text: "put there by someone else", remedy: "restore",
			place: func(t *testing.T, cfg Config) { mustWrite(t, ServerCA.CertFile(cfg.Layout), encodeCerts(good.cert)) },
		},
		{
			name: "no PEM", text: "no certificate in PEM form", remedy: "matching pair",
			place: func(t *testing.T, cfg Config) {
				place(t, cfg, ServerCA, good, good)
				mustWrite(t, ServerCA.CertFile(cfg.Layout), []byte("hello"))
			},
		},
		{
			name: "encrypted key", text: "encrypted", remedy: "matching pair",
			place: func(t *testing.T, cfg Config) {
				place(t, cfg, ServerCA, good, good)
				mustWrite(t, ServerCA.KeyFile(cfg.Layout), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
			},
		},
		{
			name: "one authority for clients and the front proxy", text: "are the same", remedy: "two different",
			place: func(t *testing.T, cfg Config) {
				place(t, cfg, ClientCA, good, good)
				place(t, cfg, RequestHeaderCA, good, good)
			},
		},
		{
			name: "service-account key of a kind that cannot sign tokens", text: "service.key", remedy: "restore the file",
			place: func(t *testing.T, cfg Config) {
				_, key, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				mustWrite(t, ServiceKeyFile(cfg.Layout), (&pair{key: key}).keyPEM(t))
			},
		},
	}
}

// TestReplacedAuthority: leaves follow an authority that was exchanged.
func TestReplacedAuthority(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	mustBoot(t, cfg)
	fresh := custom(t, "Fresh", nil, nil)
	place(t, cfg, ServerCA, fresh, fresh)
	untouched := mustRead(t, ClientAdmin.CertFile(cfg.Layout))
	mustBoot(t, cfg)
	checkPairs(t, cfg.Layout)
	if got := mustCert(t, ServingKubelet.CertFile(cfg.Layout)).Issuer.CommonName; got != "Fresh" {
		t.Errorf("issuer %s", got)
	}
	if string(mustRead(t, ClientAdmin.CertFile(cfg.Layout))) != string(untouched) {
		t.Error("a leaf of another authority was issued again")
	}
}
