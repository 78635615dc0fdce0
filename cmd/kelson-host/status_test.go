package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/status"
)

// seed writes a status file and a kubeconfig for a server at url.
func seed(t *testing.T, s status.Status, url string) dirs {
	t.Helper()
	d := dirs{Layout: datadir.Layout{Root: "/data", Run: t.TempDir()}}
	s.Kubeconfig = filepath.Join(d.Run, "kubeconfig")
	kubeconfig := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\nusers: [{name: u, user: {}}]\n", url)
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{d.statusFile(): data, s.Kubeconfig: []byte(kubeconfig)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// cluster answers the probes of status over HTTP.
func cluster(t *testing.T, nodeReady string, ready int) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	answer := func(path, format string, args ...any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, format, args...)
		})
	}
	answer("/api/v1/nodes/one", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"one"},"status":{"conditions":[{"type":"Ready","status":%q,"message":"network is not ready"}]}}`, nodeReady)
	answer("/apis/apps/v1/namespaces/kube-system/deployments", `{"apiVersion":"apps/v1","kind":"DeploymentList","items":[{"metadata":{"name":"coredns"},"spec":{"replicas":1},"status":{"readyReplicas":%d}}]}`, ready)
	answer("/apis/networking.k8s.io/v1/networkpolicies", `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicyList","items":[{"metadata":{"name":"deny","namespace":"default"}}]}`)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func TestReadReport(t *testing.T) {
	running := status.Status{
		Version: "v1", PID: os.Getpid(), StartedAt: time.Now(), State: status.Ready, DataDir: "/data", Node: "one",
		Datastore: status.Datastore{Kind: "sqlite", Durability: "fast"}, Components: []string{"coredns"},
	}
	for _, c := range []struct {
		name    string
		change  func(*status.Status)
		url     string
		healthy bool
		why     string
	}{
		{"healthy", nil, cluster(t, "True", 1), true, ""},
		{"starting", func(s *status.Status) { s.State = status.Starting }, cluster(t, "True", 1), false, "the server is starting"},
		{"failed", func(s *status.Status) { s.State, s.Reason = status.Failed, "no disk" }, cluster(t, "True", 1), false, "the server is failed: no disk"},
		{"node not ready", nil, cluster(t, "False", 1), false, "node one: network is not ready"},
		{"component not ready", nil, cluster(t, "True", 0), false, "coredns: 0 of 1 pods ready"},
		{"API server away", nil, "http://127.0.0.1:1", false, "API server: "},
		{"process gone", func(s *status.Status) { s.PID = 1 << 22 }, "", false, "process 4194304 is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := running
			if c.change != nil {
				c.change(&s)
			}
			ctx, cancel := context.WithTimeout(context.Background(), probeTime)
			defer cancel()
			r, err := readReport(ctx, seed(t, s, c.url))
			if r.Healthy != c.healthy || (err == nil) != c.healthy {
				t.Fatalf("healthy %v, %v", r.Healthy, err)
			}
			if err != nil && !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %q, want %q", err, c.why)
			}
		})
	}
}

func TestStatusTableGolden(t *testing.T) {
	s := status.Status{
		Version: "v1", PID: 42, State: status.Ready, DataDir: "/data", Kubeconfig: "/k", APIServer: "https://127.0.0.1:6443", Node: "one",
		Datastore: status.Datastore{Kind: "sqlite", Durability: "fast"},
		Plugins:   []status.Plugin{{Kind: "cni", Name: "flannel", Version: "1.0.0", Phase: "Ready", PID: 43, Restarts: 2}},
		Phases: []status.Phase{
			{Name: "storage", Steps: []status.Step{{Name: "kine", State: status.Ready, Took: 0.1234}}},
			{Name: "api", Steps: []status.Step{{Name: "apiserver", State: status.Failed, Reason: "port taken"}, {Name: "images", State: status.Pending}}},
			{Name: "node", Steps: []status.Step{
				{Name: "containerd", State: status.Ready, Took: 2, Reason: "snapshotter native: overlayfs is missing"},
				{Name: "kubelet", State: status.Launched, Reason: "not registered yet"},
			}},
		},
	}
	up := statusReport{Running: true, Uptime: "3m0s", Server: &s, Cluster: clusterReport{
		APIServer: "ready", Node: "ready", Components: []componentReport{{"coredns", 1, 1}, {"metrics-server", 0, 1}}, Policies: 2,
	}}
	for name, r := range map[string]statusReport{"up": up, "gone": {Server: &s}, "none": {}} {
		var out bytes.Buffer
		if err := r.table(&out); err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata/status", name+".txt"), out.String())
	}
}

func TestSnapshotterInEffect(t *testing.T) {
	for running, want := range map[string]string{"": "overlayfs", "native": "native"} {
		if got := inEffect(status.Status{Snapshotter: running}, "overlayfs"); got != want {
			t.Errorf("running %q: %s, want %s", running, got, want)
		}
	}
}

func TestCheckedPorts(t *testing.T) {
	cfg, err := config.Load(config.Inputs{Flags: []config.Flag{{Name: "data-dir", Value: t.TempDir()}}, Hostname: "host"})
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[int]bool{}
	for _, p := range usedPorts(cfg) {
		numbers[p.Number] = true
	}
	if numbers[cfg.Supervisor.Port] || !numbers[6443] || !numbers[10250] {
		t.Errorf("checked ports %v", numbers)
	}
}

func TestReport(t *testing.T) {
	plain := fmt.Errorf("do: %w", os.ErrNotExist)
	for _, c := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"done", nil, 0, ""},
		{"failed", plain, 1, "kelson: do: file does not exist\n"},
		{"hint", fmt.Errorf("step: %w", config.Hinted(plain, "make it")), 1, "kelson: step: do: file does not exist\nhint: make it\n"},
		{"usage", usageError{plain}, 2, "kelson: do: file does not exist\n"},
		{"program", exitError{7, "said\n"}, 7, "said\n"},
		{"silent program", exitError{3, ""}, 3, ""},
		{"configuration", &config.UsageError{Problems: []config.Problem{
			{Source: config.Source{Kind: config.FromFile, Name: "c", Line: 3}, Key: "k", Msg: "m", Remedy: "r"},
			{Source: config.Source{Kind: config.FromFlag, Name: "f"}, Key: "f", Msg: "n"},
		}}, 2, "kelson: c:3: k: m\nhint: r\nkelson: --f: n\n"},
	} {
		var out bytes.Buffer
		if code := report(&out, c.err); code != c.code || out.String() != c.want {
			t.Errorf("%s: code %d, %q", c.name, code, out.String())
		}
	}
}
