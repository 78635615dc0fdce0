package pki

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestReissue(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   []Leaf
	}{
		{name: "nothing", change: func(*Config) {}},
		{name: "further name", change: func(c *Config) { c.TLSSan = append(c.TLSSan, "new.example.org") }, want: []Leaf{ServingKubeAPIServer}},
		{name: "name removed", change: func(c *Config) { c.TLSSan = nil }, want: []Leaf{ServingKubeAPIServer}},
		{name: "names in another order", change: func(c *Config) { slices.Reverse(c.TLSSan) }},
		{
			name: "node address", change: func(c *Config) { c.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.8")} },
			want: []Leaf{ServingKubeAPIServer, EtcdServerClient, EtcdPeerServerClient, ServingKubelet},
		},
		{
			name: "node name", change: func(c *Config) { c.NodeName = "node-2" },
			want: []Leaf{ServingKubeAPIServer, EtcdServerClient, EtcdPeerServerClient, ClientKubelet, ServingKubelet},
		},
		{name: "a month later", change: func(c *Config) { c.Now = later(30 * 24 * time.Hour) }},
		{name: "more than a third left", change: func(c *Config) { c.Now = later(242 * 24 * time.Hour) }},
		{name: "less than a third left", change: func(c *Config) { c.Now = later(244 * 24 * time.Hour) }, want: Leaves()},
		{name: "expired", change: func(c *Config) { c.Now = later(2 * leafLife) }, want: Leaves()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t, t.TempDir())
			mustBoot(t, cfg)
			key := mustRead(t, ServingKubeAPIServer.KeyFile(cfg.Layout))
			tt.change(&cfg)
			s := New(cfg)
			if err := s.EnsureAuthorities(); err != nil {
				t.Fatal(err)
			}
			issued, err := s.ensureLeaves()
			if err != nil || !slices.Equal(issued, tt.want) {
				t.Errorf("issued %v, want %v (%v)", issued, tt.want, err)
			}
			if string(mustRead(t, ServingKubeAPIServer.KeyFile(cfg.Layout))) != string(key) {
				t.Error("renewal changed the key: a reader could see a pair that does not match")
			}
		})
	}
}

func later(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }

func TestRenewer(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, dir)
		s := mustBoot(t, cfg)
		first := mustCert(t, ClientAdmin.CertFile(cfg.Layout))
		var rounds [][]Leaf
		r := Renewer{Store: s, Interval: 12 * time.Hour, Renewed: func(l []Leaf) { rounds = append(rounds, l) }}
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Renew(ctx) }()

		time.Sleep(200 * 24 * time.Hour)
		synctest.Wait()
		if len(rounds) != 0 {
			t.Errorf("renewed too early: %v", rounds)
		}
		time.Sleep(50 * 24 * time.Hour)
		synctest.Wait()
		if len(rounds) != 1 || !slices.Equal(rounds[0], Leaves()) {
			t.Errorf("rounds %v, want one of all leaves", rounds)
		}
		second := mustRead(t, ClientAdmin.CertFile(cfg.Layout))
		if mustCert(t, ClientAdmin.CertFile(cfg.Layout)).Equal(first) {
			t.Error("the certificate is the old one")
		}
		want, err := encodeKubeconfig("default", "default",
			cluster{Server: "https://127.0.0.1:6443", CertificateAuthorityData: mustRead(t, ServerCA.CertFile(cfg.Layout))},
			authInfo{ClientCertificateData: second, ClientKeyData: mustRead(t, ClientAdmin.KeyFile(cfg.Layout))})
		if err != nil || string(mustRead(t, cfg.Admin.Path)) != string(want) {
			t.Errorf("the administrator's kubeconfig does not hold the renewed certificate (%v)", err)
		}
		stop := errors.New("stop")
		cancel(stop)
		if err := <-ended; !errors.Is(err, stop) {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestRenewerRetries: a round that fails is repeated.
func TestRenewerRetries(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(t, dir)
		s := mustBoot(t, cfg)
		var mu sync.Mutex
		write, failures := s.write, 0
		s.write = func(path string, data []byte, mode os.FileMode) error {
			mu.Lock()
			defer mu.Unlock()
			if failures < 20 {
				failures++
				return errors.New("disk full")
			}
			return write(path, data, mode)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- (&Renewer{Store: s, Interval: 12 * time.Hour}).Renew(ctx) }()
		time.Sleep(250 * 24 * time.Hour)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if failures != 20 {
			t.Fatalf("%d failures", failures)
		}
		status, err := checkAt(cfg.Layout, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range status {
			if st.Status != StatusOK {
				t.Errorf("%s: %s", st.Name, st.Status)
			}
		}
	})
}

func TestCheck(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	mustBoot(t, cfg)
	other := testConfig(t, t.TempDir())
	mustBoot(t, other)
	tests := []struct {
		name   string
		after  time.Duration
		damage func(t *testing.T)
		leaf   Leaf
		want   Status
	}{
		{name: "new", leaf: ClientAdmin, want: StatusOK},
		{name: "a third left", after: 250 * 24 * time.Hour, leaf: ClientAdmin, want: StatusRenewalDue},
		{name: "expired", after: 2 * leafLife, leaf: ServingKubelet, want: StatusExpired},
		{name: "clock behind", after: -24 * time.Hour, leaf: ServingKubelet, want: StatusInvalid},
		{name: "unreadable", leaf: EtcdClient, want: StatusInvalid, damage: func(t *testing.T) {
			mustWrite(t, EtcdClient.CertFile(cfg.Layout), []byte("x"))
		}},
		{name: "no key", leaf: ClientScheduler, want: StatusInvalid, damage: func(t *testing.T) {
			if err := os.Remove(ClientScheduler.KeyFile(cfg.Layout)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "of another cluster", leaf: ClientController, want: StatusInvalid, damage: func(t *testing.T) {
			mustWrite(t, ClientController.CertFile(cfg.Layout), mustRead(t, ClientController.CertFile(other.Layout)))
			mustWrite(t, ClientController.KeyFile(cfg.Layout), mustRead(t, ClientController.KeyFile(other.Layout)))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.damage != nil {
				tt.damage(t)
			}
			status, err := checkAt(cfg.Layout, time.Now().Add(tt.after))
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(status, func(st CertStatus) bool { return st.Name == string(tt.leaf) })
			if i < 0 || status[i].Status != tt.want || (status[i].Reason == "") != (tt.want == StatusOK) {
				t.Errorf("status %+v, want %s", status[i], tt.want)
			}
		})
	}
	if _, err := Check(testConfig(t, t.TempDir()).Layout); err == nil {
		t.Error("no error for a data dir without authorities")
	}
}

func TestKubeconfigGolden(t *testing.T) {
	tests := []struct {
		name string
		c    cluster
		a    authInfo
	}{
		{name: "files", c: cluster{Server: "https://127.0.0.1:6443", CertificateAuthority: "/d/server/tls/server-ca.crt"}, a: authInfo{ClientCertificate: "/d/c.crt", ClientKey: "/d/c.key"}},
		{name: "embedded", c: cluster{Server: "https://[::1]:6443", CertificateAuthorityData: []byte("ca")}, a: authInfo{ClientCertificateData: []byte("crt"), ClientKeyData: []byte("key")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := encodeKubeconfig("default", "default", tt.c, tt.a)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tt.name+".kubeconfig")
			if *update {
				mustWrite(t, golden, got)
			}
			if want := mustRead(t, golden); string(got) != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestAdminKubeconfigShared(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root may change the group of a file")
	}
	cfg := testConfig(t, t.TempDir())
	cfg.Admin.Mode, cfg.Admin.Group, cfg.Admin.Name = 0o640, "1", "prod"
	mustBoot(t, cfg)
	info, err := os.Stat(cfg.Admin.Path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	cfg.Admin.Group = "no-such-group"
	if err := boot(New(cfg)); err == nil {
		t.Error("no error for an unknown group")
	}
}
