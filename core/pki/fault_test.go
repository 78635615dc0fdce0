package pki

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/datadir"
)

var errKilled = errors.New("killed")

// killer writes files until its budget is used up, and then ends the process
// for good, as far as the store can tell.
type killer struct {
	mu     sync.Mutex
	left   int
	writes int
	last   func(path string, data []byte) error // what the write that is hit leaves behind
}

func (k *killer) write(path string, data []byte, mode os.FileMode) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left--
	switch {
	case k.left > 0:
		k.writes++
		return os.WriteFile(path, data, mode)
	case k.left == 0 && k.last != nil:
		return errors.Join(errKilled, k.last(path, data))
	}
	return errKilled
}

func checkPairs(t *testing.T, l datadir.Layout) {
	t.Helper()
	status, err := Check(l)
	if err != nil {
		t.Fatal(err)
	}
	if want := len(Authorities()) + len(Leaves()); len(status) != want {
		t.Errorf("%d certificates, want %d", len(status), want)
	}
	for _, st := range status {
		if st.Status != StatusOK {
			t.Errorf("%s: %s: %s", st.Name, st.Status, st.Reason)
		}
	}
	for _, leaf := range Leaves() {
		if _, err := tls.LoadX509KeyPair(leaf.CertFile(l), leaf.KeyFile(l)); err != nil {
			t.Errorf("%s: %v", leaf, err)
		}
	}
}

func TestKilledAtEachWrite(t *testing.T) {
	count := &killer{left: 1 << 30}
	s := New(testConfig(t, t.TempDir()))
	s.write = count.write
	if err := boot(s); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		last func(path string, data []byte) error
	}{
		{name: "before", last: nil},
		{name: "after", last: func(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }},
		{name: "temporary file left", last: func(path string, data []byte) error {
			tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp-123")
			old := time.Now().Add(-2 * sweepAge)
			return errors.Join(os.WriteFile(tmp, data[:20], 0o600), os.Chtimes(tmp, old, old))
		}},
		{name: "contents lost", last: func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) }},
	}
	for _, tt := range tests {
		for n := 1; n <= count.writes; n++ {
			t.Run(fmt.Sprintf("%s/%d", tt.name, n), func(t *testing.T) {
				cfg := testConfig(t, t.TempDir())
				s := New(cfg)
				s.write = (&killer{left: n, last: tt.last}).write
				if err := boot(s); !errors.Is(err, errKilled) {
					t.Fatalf("first start: %v", err)
				}
				before := snapshot(t, cfg.Layout.TLS())
				s = New(cfg)
				s.write = (&killer{left: 1 << 30}).write
				if err := boot(s); err != nil {
					t.Fatalf("second start: %v", err)
				}
				checkPairs(t, cfg.Layout)
				after := snapshot(t, cfg.Layout.Root)
				for path := range after {
					if strings.Contains(path, ".tmp-") && strings.HasPrefix(path, cfg.Layout.Server()) {
						t.Errorf("left over: %s", path)
					}
				}
				for _, a := range Authorities() {
					crt, key := before[a.CertFile(cfg.Layout)], before[a.KeyFile(cfg.Layout)]
					if crt != "" && key != "" && (after[a.CertFile(cfg.Layout)] != crt || after[a.KeyFile(cfg.Layout)] != key) {
						t.Errorf("a complete authority was replaced: %s", a)
					}
				}
			})
		}
	}
}

// TestDamagedLeaf damages each file of each leaf of a cluster in use.
func TestDamagedLeaf(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	mustBoot(t, cfg)
	damages := map[string]func(path string) error{
		"missing":   os.Remove,
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"truncated": func(path string) error { return os.Truncate(path, 60) },
		"garbage":   func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"another's": func(path string) error {
			data, err := os.ReadFile(cfg.Layout.TLS("client-scheduler" + filepath.Ext(path)))
			if strings.Contains(path, "client-scheduler") {
				data, err = os.ReadFile(cfg.Layout.TLS("client-controller" + filepath.Ext(path)))
			}
			return errors.Join(err, os.WriteFile(path, data, 0o600))
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			for _, leaf := range Leaves() {
				for _, path := range []string{leaf.CertFile(cfg.Layout), leaf.KeyFile(cfg.Layout)} {
					if err := damage(path); err != nil {
						t.Fatal(err)
					}
					s := New(cfg)
					s.write = (&killer{left: 1 << 30}).write
					if err := boot(s); err != nil {
						t.Fatalf("%s: %v", path, err)
					}
				}
			}
			checkPairs(t, cfg.Layout)
		})
	}
}

// TestHalfAuthorityInUse removes half of an authority that leaves depend on.
func TestHalfAuthorityInUse(t *testing.T) {
	for _, a := range Authorities() {
		for _, ext := range []string{".crt", ".key"} {
			t.Run(string(a)+ext, func(t *testing.T) {
				cfg := testConfig(t, t.TempDir())
				mustBoot(t, cfg)
				lost := cfg.Layout.TLS(string(a) + ext)
				if err := os.Remove(lost); err != nil {
					t.Fatal(err)
				}
				before := snapshot(t, cfg.Layout.Root)
				wantRefused(t, New(cfg), before, lost, "restore "+lost)
			})
		}
	}
}

// wantRefused asserts that the authorities are refused with the text in the
// error and the remedy in its hint, and that no file was touched.
func wantRefused(t *testing.T, s *Store, before map[string]string, text, remedy string) {
	t.Helper()
	err := s.EnsureAuthorities()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v, want it to contain %q", err, text)
	}
	var h interface{ Hint() string }
	if !errors.As(err, &h) || !strings.Contains(h.Hint(), remedy) {
		t.Errorf("error %v: no hint with %q (%v)", err, remedy, h)
	}
	after := snapshot(t, s.cfg.Layout.Root)
	for path, data := range before {
		if after[path] != data {
			t.Errorf("%s was changed", path)
		}
	}
}

func TestClock(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	mustBoot(t, cfg)
	before := snapshot(t, cfg.Layout.Root)
	tests := []struct {
		name     string
		now      time.Time
		earliest time.Time
		text     string
	}{
		{name: "before the authorities", now: time.Unix(0, 0), text: "is valid from"},
		{name: "after the authorities", now: time.Now().Add(authorityLife + time.Hour), text: "expired at"},
		{name: "before the build", now: time.Now(), earliest: time.Now().Add(24 * time.Hour), text: "before this program was built"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := cfg
			cfg.Now = func() time.Time { return tt.now }
			cfg.Earliest = tt.earliest
			wantRefused(t, New(cfg), before, tt.text, "clock")
		})
	}
}

func TestClockBeforeBuildOnFirstStart(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	cfg.Now = func() time.Time { return time.Unix(100, 0) }
	cfg.Earliest = time.Now()
	wantRefused(t, New(cfg), nil, "the clock says 1970-01-01", "clock")
	if files := snapshot(t, cfg.Layout.Root); len(files) > 0 {
		t.Errorf("files were written: %v", files)
	}
}

// TestClockWasAhead: leaves that a clock running ahead has issued are replaced
// once the clock is right again.
func TestClockWasAhead(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	mustBoot(t, cfg)
	ahead := cfg
	ahead.Now = func() time.Time { return time.Now().Add(3 * leafLife) }
	mustBoot(t, ahead)
	if cert := mustCert(t, ClientAdmin.CertFile(cfg.Layout)); !cert.NotBefore.After(time.Now()) {
		t.Fatal("the clock ahead has issued nothing")
	}
	mustBoot(t, cfg)
	checkPairs(t, cfg.Layout)
}

// TestWriteUnderWay: a temporary file of another writer stays.
func TestWriteUnderWay(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	tmp := cfg.Layout.Cred(".encryption-config.json.tmp-1")
	mustWrite(t, tmp, []byte("half"))
	mustBoot(t, cfg)
	mustRead(t, tmp)
}

func TestFullDisk(t *testing.T) {
	cfg := testConfig(t, t.TempDir())
	s := New(cfg)
	s.write = func(path string, _ []byte, _ os.FileMode) error {
		return fmt.Errorf("write %s: no space left on device", path)
	}
	if err := s.EnsureAuthorities(); err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("error %v", err)
	}
	if len(snapshot(t, cfg.Layout.Root)) != 0 {
		t.Error("files were left")
	}
}
