package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/go-hclog"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/boot/boottest"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("%s differs from what was rendered; run with -update and look at the difference", path)
	}
}

// store is a cluster in memory: it keeps what was applied, in order, and
// refuses what deny names.
type store struct {
	mu      sync.Mutex
	deny    func(*unstructured.Unstructured) error
	objects map[ref]*unstructured.Unstructured
	log     []string
}

func newStore() *store { return &store{objects: map[ref]*unstructured.Unstructured{}} }

func (s *store) Apply(_ context.Context, addon string, u *unstructured.Unstructured) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deny != nil {
		if err := s.deny(u); err != nil {
			return err
		}
	}
	s.objects[refOf(u)] = u
	s.log = append(s.log, addon+" "+refOf(u).String())
	return nil
}

func (s *store) Remove(_ context.Context, addon string, r ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.objects[r]; u != nil && u.GetLabels()[labelAddon] == addon {
		delete(s.objects, r)
		s.log = append(s.log, "remove "+r.String())
	}
	return nil
}

func (s *store) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.objects {
		if r.Name == name {
			return true
		}
	}
	return false
}

func (s *store) setDeny(deny func(*unstructured.Unstructured) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deny = deny
}

const dnsManifest = `apiVersion: v1
kind: ConfigMap
metadata: {name: dns, namespace: kube-system}
data: {domain: "%{CLUSTER_DOMAIN}%"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: dns-server, namespace: kube-system}
`

func newEngine(t *testing.T, root string, s *store, disable ...string) *Engine {
	t.Helper()
	e := New(Config{
		Layout:   datadir.Layout{Root: root},
		Disable:  disable,
		Packaged: fstest.MapFS{"dns/dns.yaml": {Data: []byte(dnsManifest)}},
		Values:   map[string]string{"CLUSTER_DOMAIN": "cluster.local"},
		Log:      hclog.New(&hclog.LoggerOptions{Output: testWriter{t}, Level: hclog.Debug}),
	})
	e.connect = func() (cluster, error) { return s, nil }
	return e
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, e *Engine) {
	t.Helper()
	ctx := limit(t)
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := e.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits for a status that fits.
func until(t *testing.T, e *Engine, what string, fits func(map[string]Status) bool) {
	t.Helper()
	ctx := limit(t)
	for {
		e.board.mu.Lock()
		changed := e.board.changed
		e.board.mu.Unlock()
		rows := map[string]Status{}
		for _, s := range e.Status() {
			rows[s.Addon] = s
		}
		if fits(rows) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: last status %+v", what, rows)
		}
	}
}

func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, "server", "manifests", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n"
}

func TestEngineAppliesPackagedAndUserAddons(t *testing.T) {
	root, s := t.TempDir(), newStore()
	write(t, root, "mine.yaml", configMap("mine"))
	write(t, root, "folder/a.yml", configMap("a"))
	write(t, root, "folder/deep/b.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`)
	write(t, root, "folder/.hidden.yaml", configMap("hidden"))
	write(t, root, "broken.yaml", configMap("left-out")+"---\nkind: [\n")
	write(t, root, "later.yaml", configMap("later"))
	write(t, root, "later.yaml.skip", "")
	e := newEngine(t, root, s)
	start(t, e)

	until(t, e, "all settled", func(rows map[string]Status) bool {
		return rows["mine"].State == StateApplied && rows["folder"].Objects == 2 && rows["folder"].State == StateApplied &&
			rows["later"].State == StateSkipped && rows["dns"].Packaged && rows["dns"].State == StateApplied &&
			rows["broken"].State == StateFailed && strings.Contains(rows["broken"].Reason, "broken.yaml:") &&
			strings.Contains(rows["broken"].Reason, "document 2")
	})
	for name, want := range map[string]bool{"mine": true, "a": true, "b": true, "hidden": false, "left-out": false, "later": false} {
		if s.has(name) != want {
			t.Errorf("object %s in the cluster: %t, want %t", name, !want, want)
		}
	}
	dns := s.objects[ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "kube-system", Name: "dns"}]
	domain, _, err := unstructured.NestedString(dns.Object, "data", "domain")
	if err != nil || domain != "cluster.local" || dns.GetLabels()[labelAddon] != "dns" {
		t.Errorf("packaged object %v, %v: want token filled in and label set", dns.Object, err)
	}
	info, err := os.Stat(filepath.Join(root, "server", "manifests", "dns", "dns.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("staged file: %v, %v; want mode 0600", info, err)
	}
}

func TestEngineFollowsChangedFiles(t *testing.T) {
	root, s := t.TempDir(), newStore()
	e := newEngine(t, root, s)
	start(t, e)
	write(t, root, "one.yaml", "kind: ConfigMap\n")
	until(t, e, "broken file seen", func(rows map[string]Status) bool { return rows["one"].State == StateFailed })
	write(t, root, "one.yaml", configMap("one"))
	until(t, e, "mended file applied", func(rows map[string]Status) bool { return rows["one"].State == StateApplied })
	write(t, root, "new/folder.yaml", configMap("two"))
	until(t, e, "new folder applied", func(rows map[string]Status) bool { return rows["new"].State == StateApplied })
	write(t, root, "new/folder.yaml", configMap("two")+"---\n"+configMap("three"))
	until(t, e, "file in the new folder applied again", func(rows map[string]Status) bool {
		return rows["new"].State == StateApplied && rows["new"].Objects == 2
	})
	if err := os.Remove(filepath.Join(root, "server", "manifests", "one.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, e, "removed file forgotten", func(rows map[string]Status) bool { _, there := rows["one"]; return !there })
	if !s.has("one") {
		t.Error("removing a file removed its object")
	}
}

func TestEngineRetriesAndKeepsTheReason(t *testing.T) {
	root, s := t.TempDir(), newStore()
	s.deny = func(u *unstructured.Unstructured) error {
		if u.GetKind() == "Deployment" {
			return errors.New("namespaces \"kube-system\" not found")
		}
		return nil
	}
	e := newEngine(t, root, s)
	if err := e.Start(limit(t)); err != nil {
		t.Fatal(err)
	}
	until(t, e, "reason kept", func(rows map[string]Status) bool { return rows["dns"].Reason != "" })
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	err := e.Ready(ended)
	if err == nil || !strings.Contains(err.Error(), `dns/dns.yaml:6: apply Deployment kube-system/dns-server: namespaces "kube-system" not found`) {
		t.Errorf("Ready: got %v, want place, object and reason", err)
	}
	s.setDeny(nil)
	if err := e.Ready(limit(t)); err != nil {
		t.Error(err)
	}
	if err := e.Stop(limit(t)); err != nil {
		t.Error(err)
	}
	if got := strings.Join(s.log, ", "); got != "dns ConfigMap kube-system/dns, dns Deployment kube-system/dns-server" {
		t.Errorf("applied %s: each object once", got)
	}
}

func TestDisableRemovesWhatWasBrought(t *testing.T) {
	root, s := t.TempDir(), newStore()
	first := newEngine(t, root, s)
	start(t, first)
	if err := first.Stop(limit(t)); err != nil {
		t.Fatal(err)
	}
	// Someone else has taken over one of the names.
	taken := s.objects[ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "kube-system", Name: "dns"}]
	taken.SetLabels(map[string]string{labelAddon: "other"})

	write(t, root, "dns.yaml", configMap("own-dns"))
	second := newEngine(t, root, s, "dns")
	start(t, second)
	until(t, second, "own addon of that name applied", func(rows map[string]Status) bool { return rows["dns"].State == StateApplied })
	if s.has("dns-server") || !s.has("dns") || !s.has("own-dns") {
		t.Errorf("cluster holds %v: want the Deployment gone, the taken ConfigMap and the own one there", s.log)
	}
	if _, err := os.Stat(filepath.Join(root, "server", "manifests", "dns")); !os.IsNotExist(err) {
		t.Errorf("staged folder of a disabled component: %v", err)
	}
	if err := second.Stop(limit(t)); err != nil {
		t.Fatal(err)
	}
	// A later start does not take the own one for the packaged one.
	third := newEngine(t, root, s, "dns")
	start(t, third)
	until(t, third, "own addon settled", func(rows map[string]Status) bool { return rows["dns"].State == StateApplied })
	if !s.has("own-dns") {
		t.Error("own addon was removed")
	}
}

func TestDisableAlias(t *testing.T) {
	e := New(Config{Disable: []string{"local-storage"}})
	if !e.disabled("local-path") || e.disabled("coredns") {
		t.Error("local-storage must disable local-path and nothing else")
	}
}

func TestDamagedInventoryDoesNotStopTheBoot(t *testing.T) {
	root, s := t.TempDir(), newStore()
	write(t, root, "x.yaml", configMap("x"))
	path := filepath.Join(root, "server", "addons.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, newEngine(t, root, s))
	data, err := os.ReadFile(path)
	var addons map[string]entry
	if err != nil || json.Unmarshal(data, &addons) != nil || len(addons["dns"].Objects) != 2 {
		t.Errorf("inventory after the boot: %s, %v", data, err)
	}
}

func TestStepLifeCycle(t *testing.T) {
	boottest.TestStep(t, func() boot.Step { return newEngine(t, t.TempDir(), newStore()) })
}

func TestPermanentRefusalIsFailed(t *testing.T) {
	root, s := t.TempDir(), newStore()
	s.deny = func(u *unstructured.Unstructured) error {
		if u.GetName() == "bad" {
			return apierrors.NewBadRequest("no such field")
		}
		return nil
	}
	write(t, root, "bad.yaml", configMap("bad"))
	e := newEngine(t, root, s)
	start(t, e)
	until(t, e, "refusal shown", func(rows map[string]Status) bool {
		return rows["bad"].State == StateFailed && strings.Contains(rows["bad"].Reason, "no such field")
	})
}

// TestPackagedManifests renders what a server deploys: single and dual stack.
func TestPackagedManifests(t *testing.T) {
	for name, dns := range map[string][]string{
		"ipv4": {"10.43.0.10"}, "ipv6": {"fd00:43::a"}, "dual": {"10.43.0.10", "fd00:43::a"},
	} {
		t.Run(name, func(t *testing.T) {
			network := config.Network{ClusterDomain: "cluster.local"}
			for _, a := range dns {
				network.ClusterDNS = append(network.ClusterDNS, netip.MustParseAddr(a))
			}
			values, err := Values(network, "/var/lib/kelson/storage")
			if err != nil {
				t.Fatal(err)
			}
			addons, err := packaged(os.DirFS("../../manifests"), values)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(sortedKeys(addons), " "); got != "coredns local-path metrics-server" {
				t.Errorf("packaged components: %s", got)
			}
			for addon, files := range addons {
				s := source{Addon: addon}
				for _, f := range files {
					if name == "ipv4" || addon == "coredns" {
						golden(t, filepath.Join(name, filepath.Base(f.Path)), f.Data)
					}
					s.Files = append(s.Files, sourceFile(f))
				}
				if r := render(s); len(r.Faults) > 0 {
					t.Errorf("%s: %v", addon, r.Faults)
				}
			}
		})
	}
}

func TestValuesAreChecked(t *testing.T) {
	dns := config.Network{ClusterDNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}}
	if _, err := Values(config.Network{}, "/x"); err == nil {
		t.Error("no cluster DNS was accepted")
	}
	if _, err := Values(dns, `/x"y`); err == nil {
		t.Error("a quote in the storage path was accepted")
	}
	if _, err := substitute([]byte("a: %{NOPE}%"), nil); err == nil || !strings.Contains(err.Error(), "NOPE") {
		t.Errorf("unknown token: got %v", err)
	}
}
