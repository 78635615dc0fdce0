package preflight

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/core/config"
)

func find(results []Result, name string) Result {
	for _, r := range results {
		if r.Name == name {
			return r
		}
	}
	return Result{}
}

func TestRunOnThisHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	results := Run(t.Context(), Options{
		DataDir: filepath.Join(dir, "not", "there"), Search: os.Getenv("PATH"), Agent: true,
		Ports: []Port{{port, "test"}},
	})
	for _, r := range results {
		t.Logf("%-18s %-8s %s | %s", r.Name, r.Status, r.Detail, r.Hint)
		if r.Detail == "" || r.Status == Failed && r.Hint == "" {
			t.Errorf("%s says too little", r.Name)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	taken := find(results, "ports")
	if taken.Status != Failed || !strings.Contains(taken.Detail, "(test) by ") {
		t.Errorf("port %d: %+v", port, taken)
	}
	if find(results, "root").Status != OK {
		t.Error("root is not root")
	}
	var hint interface{ Hint() string }
	if err := Err(results); err == nil || !errors.As(err, &hint) || hint.Hint() == "" {
		t.Errorf("error %v without remedy", err)
	}
}

func TestQuickAndAgentSelectChecks(t *testing.T) {
	all := Run(t.Context(), Options{DataDir: t.TempDir(), Agent: true})
	quick := Run(t.Context(), Options{DataDir: t.TempDir(), Agent: true, Quick: true})
	control := Run(t.Context(), Options{DataDir: t.TempDir()})
	if len(quick) >= len(all) || len(control) >= len(all) {
		t.Errorf("%d checks, %d quick, %d without agent", len(all), len(quick), len(control))
	}
	if find(control, "overlayfs").Name != "" || find(quick, "swap").Name != "" || find(quick, "cgroups").Name == "" {
		t.Errorf("wrong selection: %v %v", control, quick)
	}
}

func TestErrNilWithoutFailures(t *testing.T) {
	if err := Err([]Result{{Name: "a", Status: Warning}, {Name: "b", Status: OK}}); err != nil {
		t.Error(err)
	}
}

func TestParseRelease(t *testing.T) {
	for release, want := range map[string][2]int{"6.18.44-x": {6, 18}, "5.10": {5, 10}, "4.19-rc1": {4, 19}, "6.1+": {6, 1}, "x": {0, 0}} {
		if major, minor := parseRelease(release); [2]int{major, minor} != want {
			t.Errorf("%s: %d.%d", release, major, minor)
		}
	}
}

func TestServerPorts(t *testing.T) {
	cfg := config.Server{API: config.API{Port: 6443}, Supervisor: config.Supervisor{Port: 9345}, Node: config.Node{KubeletPort: 10250}}
	full := len(ServerPorts(cfg))
	cfg.Node.KubeProxyArgs = []string{"proxy-mode=iptables", "metrics-bind-address=127.0.0.1:11249"}
	if ports := ServerPorts(cfg); ports[6].Number != 11249 || ports[7].Number != 10256 {
		t.Errorf("%v", ports)
	}
	cfg.Node.DisableKubeProxy = true
	noProxy := len(ServerPorts(cfg))
	cfg.Node.Disabled = true
	if noNode := len(ServerPorts(cfg)); full != 8 || noProxy != 6 || noNode != 4 {
		t.Errorf("%d, %d, %d ports", full, noProxy, noNode)
	}
}
