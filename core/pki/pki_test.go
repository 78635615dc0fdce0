package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/datadir"
)

func testConfig(t testing.TB, dir string) Config {
	t.Helper()
	return Config{
		Layout:        datadir.Layout{Root: dir, Etc: filepath.Join(dir, "etc")},
		NodeName:      "node-1",
		NodeIPs:       []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		ServiceIPs:    []netip.Addr{netip.MustParseAddr("10.43.0.1"), netip.MustParseAddr("fd00:43::1")},
		ClusterDomain: "cluster.example",
		TLSSan:        []string{"api.example.org", "198.51.100.9", "[2001:db8::9]", "API.example.org."},
		Admin:         AdminKubeconfig{Path: filepath.Join(dir, "etc", "kelson.yaml")},
		Now:           time.Now,
		Log:           hclog.NewNullLogger(),
	}
}

// boot does what a start of the server does.
func boot(s *Store) error {
	if err := s.EnsureAuthorities(); err != nil {
		return err
	}
	if err := s.EnsureLeaves(); err != nil {
		return err
	}
	return s.Kubeconfigs("https://127.0.0.1:6443")
}

func mustBoot(t testing.TB, cfg Config) *Store {
	t.Helper()
	s := New(cfg)
	if err := boot(s); err != nil {
		t.Fatalf("boot: %v", err)
	}
	return s
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustWrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustCert(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	certs, err := parseCerts(mustRead(t, path))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return certs[0]
}

// snapshot is every file under the data dir with its contents.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[path] = string(mustRead(t, path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	cfg := testConfig(t, dir)
	cfg.Log = hclog.New(&hclog.LoggerOptions{Output: &log})
	mustBoot(t, cfg)
	l := cfg.Layout

	for _, line := range []string{
		"generated self-signed CA certificate CN=kelson-client-ca@",
		"generated self-signed CA certificate CN=kelson-etcd-peer-ca@",
		"certificate CN=system:admin,O=system:masters signed by CN=kelson-client-ca@",
		"certificate CN=kube-apiserver signed by CN=kelson-server-ca@",
		"certificate CN=system:auth-proxy signed by CN=kelson-request-header-ca@",
	} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("log lacks %q", line)
		}
	}
	subjects := map[Leaf]string{
		ClientAdmin:           "CN=system:admin,O=system:masters",
		ClientSupervisor:      "CN=system:kelson-supervisor,O=system:masters",
		ClientController:      "CN=system:kube-controller-manager",
		ClientScheduler:       "CN=system:kube-scheduler",
		ClientCloudController: "CN=system:cloud-controller-manager",
		ClientKubeAPIServer:   "CN=system:apiserver,O=system:masters",
		ClientAuthProxy:       "CN=system:auth-proxy",
		ClientKubelet:         "CN=system:node:node-1,O=system:nodes",
		ClientKubeProxy:       "CN=system:kube-proxy",
		ServingKubeAPIServer:  "CN=kube-apiserver",
		ServingKubelet:        "CN=node-1",
		EtcdClient:            "CN=etcd-client",
		EtcdServerClient:      "CN=etcd-server",
		EtcdPeerServerClient:  "CN=etcd-peer",
	}
	if len(subjects) != len(Leaves()) {
		t.Errorf("Leaves has %d entries, want %d", len(Leaves()), len(subjects))
	}
	for leaf, want := range subjects {
		cert := mustCert(t, leaf.CertFile(l))
		if got := subject(cert); got != want {
			t.Errorf("%s: subject %s, want %s", leaf, got, want)
		}
		if life := time.Until(cert.NotAfter); life < 364*24*time.Hour || life > leafLife {
			t.Errorf("%s: life %s", leaf, life)
		}
		if cert.PublicKeyAlgorithm != x509.ECDSA || cert.IsCA {
			t.Errorf("%s: algorithm %s, authority %t", leaf, cert.PublicKeyAlgorithm, cert.IsCA)
		}
	}
	for _, a := range Authorities() {
		cert := mustCert(t, a.CertFile(l))
		if life := time.Until(cert.NotAfter); life < authorityLife-time.Hour {
			t.Errorf("%s: life %s", a, life)
		}
	}
	mustCert(t, ClientCA.NoChainFile(l))
	mustCert(t, ServerCA.NoChainFile(l))
	api := mustCert(t, ServingKubeAPIServer.CertFile(l))
	for _, name := range []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.example", "localhost", "node-1", "api.example.org",
		"127.0.0.1", "::1", "192.0.2.7", "2001:db8::7", "10.43.0.1", "fd00:43::1", "198.51.100.9", "2001:db8::9",
	} {
		if err := api.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if len(api.DNSNames) != 7 || len(api.IPAddresses) != 8 {
		t.Errorf("names %v, addresses %v: want each once", api.DNSNames, api.IPAddresses)
	}
	checkModes(t, dir)
	if got := mustRead(t, filepath.Join(dir, "etc", "kelson.yaml")); !bytes.Contains(got, []byte("client-key-data")) || bytes.Contains(got, []byte(dir)) {
		t.Errorf("the administrator's kubeconfig does not stand alone:\n%s", got)
	}
	if got := mustRead(t, KubeconfigKubelet.File(l)); !bytes.Contains(got, []byte("client-key: "+ClientKubelet.KeyFile(l))) {
		t.Errorf("the kubelet's kubeconfig does not refer to its files:\n%s", got)
	}
}

// checkModes asserts that nothing below server/ can be read by others.
func checkModes(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "server"), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %s, want %s", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRestartChangesNothing(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, dir)
	mustBoot(t, cfg)
	s := New(cfg)
	s.write = func(path string, _ []byte, _ os.FileMode) error {
		t.Errorf("wrote %s", path)
		return nil
	}
	if err := boot(s); err != nil {
		t.Fatal(err)
	}
}

// TestHandshakes uses the certificates as the components do.
func TestHandshakes(t *testing.T) {
	dir := t.TempDir()
	l := mustBoot(t, testConfig(t, dir)).cfg.Layout
	tests := []struct {
		name           string
		server, client Leaf
		serverCA       Authority
		clientCA       Authority
		host           string
		wantErr        bool
	}{
		{name: "admin calls the API server", server: ServingKubeAPIServer, serverCA: ServerCA, client: ClientAdmin, clientCA: ClientCA, host: "api.example.org"},
		{name: "API server calls a kubelet", server: ServingKubelet, serverCA: ServerCA, client: ClientKubeAPIServer, clientCA: ClientCA, host: "192.0.2.7"},
		{name: "API server calls an aggregated API", server: ServingKubeAPIServer, serverCA: ServerCA, client: ClientAuthProxy, clientCA: RequestHeaderCA, host: "kubernetes"},
		{name: "etcd client", server: EtcdServerClient, serverCA: EtcdServerCA, client: EtcdClient, clientCA: EtcdServerCA, host: "127.0.0.1"},
		{name: "etcd peers", server: EtcdPeerServerClient, serverCA: EtcdPeerCA, client: EtcdPeerServerClient, clientCA: EtcdPeerCA, host: "2001:db8::7"},
		{name: "a client certificate cannot act as the front proxy", server: ServingKubeAPIServer, serverCA: ServerCA, client: ClientAdmin, clientCA: RequestHeaderCA, host: "kubernetes", wantErr: true},
		{name: "a client certificate cannot serve", server: ClientAdmin, serverCA: ClientCA, client: ClientAdmin, clientCA: ClientCA, host: "localhost", wantErr: true},
		{name: "an unknown name", server: ServingKubeAPIServer, serverCA: ServerCA, client: ClientAdmin, clientCA: ClientCA, host: "other.example.org", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := handshake(t, l, tt.server, tt.client, tt.serverCA, tt.clientCA, tt.host)
			if (err != nil) != tt.wantErr {
				t.Errorf("handshake: %v, want error %t", err, tt.wantErr)
			}
		})
	}
}

func handshake(t *testing.T, l datadir.Layout, server, client Leaf, serverCA, clientCA Authority, host string) error {
	t.Helper()
	pair := func(leaf Leaf) []tls.Certificate {
		c, err := tls.LoadX509KeyPair(leaf.CertFile(l), leaf.KeyFile(l))
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	pool := func(a Authority) *x509.CertPool {
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(mustRead(t, a.CertFile(l)))
		return p
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	serverErr := make(chan error, 1)
	go func() {
		srv := tls.Server(a, &tls.Config{Certificates: pair(server), ClientCAs: pool(clientCA), ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true})
		err := srv.Handshake()
		a.Close()
		serverErr <- err
	}()
	cli := tls.Client(b, &tls.Config{Certificates: pair(client), RootCAs: pool(serverCA), ServerName: host, MinVersion: tls.VersionTLS12})
	err := cli.Handshake()
	b.Close()
	if srvErr := <-serverErr; err == nil {
		err = srvErr
	}
	return err
}

func TestWithoutNodeName(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.NodeName = ""
	mustBoot(t, cfg)
	for _, path := range []string{ClientKubelet.CertFile(cfg.Layout), ServingKubelet.KeyFile(cfg.Layout), KubeconfigKubeProxy.File(cfg.Layout)} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s exists (%v)", path, err)
		}
	}
}

func TestBootstrapFilesExist(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	mustBoot(t, cfg)
	files := BootstrapFiles()
	if len(files) != 11 || !slices.Contains(files, "tls/etcd/peer-ca.key") || !slices.Contains(files, "tls/service.key") {
		t.Errorf("files %v", files)
	}
	for _, f := range files {
		mustRead(t, cfg.Layout.Server(f))
	}
}

func TestLeavesBeforeAuthorities(t *testing.T) {
	if err := New(testConfig(t, t.TempDir())).EnsureLeaves(); err == nil {
		t.Error("no error")
	}
}

func BenchmarkFirstStart(b *testing.B) {
	for b.Loop() {
		mustBoot(b, testConfig(b, b.TempDir()))
	}
}

func BenchmarkRestart(b *testing.B) {
	cfg := testConfig(b, b.TempDir())
	mustBoot(b, cfg)
	for b.Loop() {
		mustBoot(b, cfg)
	}
}
