package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/kelson-io/kelson/core/agent/images"
	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// payload makes a data dir with the programs of KELSON_TEST_BIN.
func payload(t *testing.T) datadir.Layout {
	t.Helper()
	bin := os.Getenv("KELSON_TEST_BIN")
	if bin == "" {
		t.Skip("KELSON_TEST_BIN names no folder with containerd, runc, the shim and the CNI plugins")
	}
	root := t.TempDir()
	l := datadir.Layout{Root: root, Etc: filepath.Join(root, "etc"), Run: filepath.Join("/run/kelson", fmt.Sprintf("t%x", sha256.Sum256([]byte(root)))[:10]), Bin: filepath.Join(root, "data", "x", "bin")}
	t.Cleanup(func() { _ = os.RemoveAll(l.Run) })
	for _, dir := range []string{filepath.Dir(l.Bin), l.CNIBin(), l.Images(), l.Run} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(bin, l.Bin); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bridge", "host-local", "loopback", "portmap", "bandwidth"} {
		from := filepath.Join(bin, name)
		if !exists(from) {
			from = filepath.Join(bin, "cni")
		}
		if err := os.Symlink(from, filepath.Join(l.CNIBin(), name)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func containerdPath(l datadir.Layout) string {
	if path := filepath.Join(l.Bin, "kelson-host"); exists(path) {
		return path
	}
	return filepath.Join(l.Bin, "containerd")
}

// writeImage writes a docker archive whose one layer is podprobe.
func writeImage(t *testing.T, path, name string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "podprobe")
	build := exec.Command("go", "build", "-o", binary, "./testdata/podprobe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	layer := tarball(t, map[string][]byte{"podprobe": program}, 0o755)
	cfg, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/podprobe", "pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	manifest, _ := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err := os.WriteFile(path, tarball(t, map[string][]byte{"layer.tar": layer, "config.json": cfg, "manifest.json": manifest}, 0o644), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tarball(t *testing.T, files map[string][]byte, mode int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestPodsOnRealContainerd drives host, containerd, images and network the way
// a boot does, on a dual-stack node without a default route, through a restart
// of containerd.
func TestPodsOnRealContainerd(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l := payload(t)
	addUplink(t, "eth0", "192.0.2.10/24", "2001:db8::10/64")
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Debug})
	search := kernel.SearchPath(l.Bin, os.Getenv("PATH"), false)

	host := NewHost(HostDeps{Layout: l, IPv6: true, Search: search, Log: log})
	if err := host.Start(ctx); err != nil {
		t.Fatal(err)
	}
	facts := host.Facts()
	t.Logf("facts: %+v", facts)
	cluster := []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd77::/56")}
	info, err := Detect(config.Node{Name: "one"}, cluster)
	if err != nil {
		t.Fatal(err)
	}
	if got := join(info.IPs); got != "192.0.2.10, 2001:db8::10" || info.Uplink != "eth0" || info.MTU != 1400 {
		t.Errorf("detected %+v", info)
	}
	node := config.Node{PauseImage: "docker.io/kelson/podprobe:test", ContainerdLogSize: 50}
	newContainerd := func() *Containerd {
		return NewContainerd(ContainerdDeps{Layout: l, Node: node, Path: containerdPath(l), Search: search, Facts: host.Facts, Log: log})
	}
	engine := newContainerd()
	began := time.Now()
	start(ctx, t, engine)
	t.Logf("containerd ready after %v, rss %s", time.Since(began), rss(engine.child.PID()))
	t.Cleanup(func() { _ = engine.Stop(context.Background()) })

	writeImage(t, filepath.Join(l.Images(), "podprobe.tar"), "kelson/podprobe:test")
	importer := images.New(images.Deps{Socket: engine.Socket(), Snapshotter: engine.Snapshotter, Payload: l.Images(), User: l.Agent("images"), Index: l.Agent("images.json"), Log: log})
	start(ctx, t, importer)
	if err := importer.Stop(ctx); err != nil {
		t.Error(err)
	}

	network := NewBridge(l, kernel.Tools{Path: search}, host.Facts)
	began = time.Now()
	if err := network.Configure(ctx, NodeNetwork{NodeName: "one", PodCIDRs: FirstPodCIDRs(cluster), ClusterCIDRs: cluster, MTU: info.MTU}); err != nil {
		t.Fatal(err)
	}
	t.Logf("network configured in %v", time.Since(began))
	client := newCRI(t, engine.Socket())
	waitNetworkReady(ctx, t, client)

	began = time.Now()
	server := client.runPod(ctx, "server", node.PauseImage, "serve", &runtimeapi.PortMapping{ContainerPort: 8080, HostPort: 8088})
	t.Logf("first pod running after %v: %v", time.Since(began), server.ips)
	began = time.Now()
	caller := client.runPod(ctx, "caller", node.PauseImage, "pause")
	t.Logf("second pod running after %v: %v", time.Since(began), caller.ips)
	defer client.removeAll(context.Background())
	if len(server.ips) != 2 || len(caller.ips) != 2 {
		t.Fatalf("addresses: %v %v", server.ips, caller.ips)
	}
	for i, ip := range server.ips {
		if seen := client.get(ctx, caller, "http://"+net.JoinHostPort(ip, "8080")); seen != caller.ips[i] {
			t.Errorf("the server saw %s, the caller has %s: pod traffic was rewritten", seen, caller.ips[i])
		}
	}
	hostPort(ctx, t, client, caller)
	nodeIPs := []string{"192.0.2.10:", "[2001:db8::10]:"}
	for i, listener := range listenOutside(t, "eth0-peer", "192.0.2.20/24", "2001:db8::20/64") {
		serveCaller(t, listener)
		if seen := client.get(ctx, caller, "http://"+listener.Addr().String()); !strings.HasPrefix(seen, nodeIPs[i]) {
			t.Errorf("outside saw %s, want the node's address %s", seen, nodeIPs[i])
		}
	}

	// A containerd that ends takes no container along, and the next one finds it.
	before := pidOf(ctx, t, client, server)
	if err := engine.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before, 0); err != nil {
		t.Errorf("container process %d did not survive containerd: %v", before, err)
	}
	engine = newContainerd()
	began = time.Now()
	start(ctx, t, engine)
	t.Logf("containerd ready again after %v", time.Since(began))
	if after := pidOf(ctx, t, client, server); after != before {
		t.Errorf("container has pid %d, had %d", after, before)
	}
	again := images.New(images.Deps{Socket: engine.Socket(), Snapshotter: engine.Snapshotter, Payload: l.Images(), User: l.Agent("images"), Index: l.Agent("images.json"), Log: log})
	start(ctx, t, again)
	if err := again.Stop(ctx); err != nil {
		t.Error(err)
	}
	dropLater(ctx, t, l, engine, log)
	client.removeAll(ctx)
	if left, _ := filepath.Glob(l.Agent("cni", "networks", "kelson", "10.*")); len(left) != 0 {
		t.Errorf("addresses left: %v", left)
	}
	if err := network.Teardown(ctx); err != nil {
		t.Error(err)
	}
	if err := kernel.RemoveCgroup(facts.Cgroups, "/kelson-agent-test"); err != nil {
		t.Error(err)
	}
}

// TestImagesSurviveKilledContainerd kills containerd while the first archives are
// being imported: the import goes on with the next containerd.
func TestImagesSurviveKilledContainerd(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l := payload(t)
	search := kernel.SearchPath(l.Bin, os.Getenv("PATH"), false)
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Debug})
	host := NewHost(HostDeps{Layout: l, Search: search, Log: log})
	if err := host.Start(ctx); err != nil {
		t.Fatal(err)
	}
	engine := NewContainerd(ContainerdDeps{Layout: l, Node: config.Node{Snapshotter: "native", ContainerdLogSize: 50}, Path: containerdPath(l), Search: search, Facts: host.Facts, Log: log})
	start(ctx, t, engine)
	t.Cleanup(func() { _ = engine.Stop(context.Background()) })
	names := []string{"pause", "one", "two", "three"}
	for _, name := range names {
		writeImage(t, filepath.Join(l.Images(), name+".tar"), "kelson/"+name+":test")
	}
	importer := images.New(images.Deps{Socket: engine.Socket(), Snapshotter: engine.Snapshotter, Payload: l.Images(), User: l.Agent("images"), Index: l.Agent("images.json"), Log: log})
	if err := importer.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = importer.Stop(context.Background()) })
	err := poll(ctx, time.Millisecond, func(ctx context.Context) error {
		list, err := importer.List(ctx)
		if err == nil && len(list) == 0 {
			err = errors.New("no images")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(engine.child.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	limited, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := importer.Ready(limited); err != nil {
		t.Fatal(err)
	}
	list, err := importer.List(ctx)
	if err != nil || len(list) != len(names) {
		t.Errorf("%d images, want %d: %v", len(list), len(names), err)
	}
}

type step interface {
	Name() string
	Start(context.Context) error
	Ready(context.Context) error
}

func start(ctx context.Context, t *testing.T, s step) {
	t.Helper()
	if err := s.Start(ctx); err != nil {
		t.Fatalf("%s: %v", s.Name(), err)
	}
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.Ready(limited); err != nil {
		t.Fatalf("%s: %v", s.Name(), err)
	}
}

func rss(pid int) string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

func waitNetworkReady(ctx context.Context, t *testing.T, c *cri) {
	t.Helper()
	err := poll(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		status, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			return err
		}
		for _, condition := range status.Status.Conditions {
			if condition.Type == runtimeapi.NetworkReady && !condition.Status {
				return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// hostPort reaches the server through a port of the node, and an address
// outside the pod range from a pod, which must see the node's address.
func hostPort(ctx context.Context, t *testing.T, c *cri, caller pod) {
	t.Helper()
	if seen := c.get(ctx, caller, "http://192.0.2.10:8088"); seen == "" {
		t.Error("the host port does not answer")
	}
	listener, err := net.Listen("tcp", "192.0.2.10:8090")
	if err != nil {
		t.Fatal(err)
	}
	serveCaller(t, listener)
	if seen := c.get(ctx, caller, "http://192.0.2.10:8090"); !strings.HasPrefix(seen, caller.ips[0]) {
		t.Errorf("the node saw %s, the pod has %s", seen, caller.ips[0])
	}
}

// serveCaller answers every request with the address that it came from.
func serveCaller(t *testing.T, listener net.Listener) {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// listenOutside moves the uplink's peer into a network namespace of its own and
// listens there: a neighbour of the node that knows no route to pods.
func listenOutside(t *testing.T, peer string, addrs ...string) []net.Listener {
	t.Helper()
	link, err := netlink.LinkByName(peer)
	if err != nil {
		t.Fatal(err)
	}
	ready, moved := make(chan int), make(chan error)
	var out []net.Listener
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- -1
			done <- err
			return
		}
		ready <- unix.Gettid()
		err := <-moved
		for _, text := range addrs {
			var addr *netlink.Addr
			if addr, err = netlink.ParseAddr(text); err != nil {
				break
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err = netlink.AddrAdd(link, addr); err != nil {
				break
			}
			if err = netlink.LinkSetUp(link); err != nil {
				break
			}
			var listener net.Listener
			if listener, err = net.Listen("tcp", net.JoinHostPort(addr.IP.String(), "8091")); err != nil {
				break
			}
			out = append(out, listener)
		}
		done <- err
	}()
	if tid := <-ready; tid > 0 {
		moved <- netlink.LinkSetNsPid(link, tid)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return out
}

func pidOf(ctx context.Context, t *testing.T, c *cri, p pod) int {
	t.Helper()
	status, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: p.container, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if status.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container is %v", status.Status.State)
	}
	var verbose struct{ Pid int }
	if err := json.Unmarshal([]byte(status.Info["info"]), &verbose); err != nil {
		t.Fatal(err)
	}
	return verbose.Pid
}

// dropLater puts a good and a bad archive into agent/images while the importer
// watches.
func dropLater(ctx context.Context, t *testing.T, l datadir.Layout, engine *Containerd, log hclog.Logger) {
	t.Helper()
	importer := images.New(images.Deps{Socket: engine.Socket(), Snapshotter: engine.Snapshotter, Payload: l.Images(), User: l.Agent("images"), Index: l.Agent("images.json"), Log: log})
	start(ctx, t, importer)
	defer func() { _ = importer.Stop(ctx) }()
	if err := os.WriteFile(l.Agent("images", "bad.tar.gz"), []byte("not a gzip file"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeImage(t, l.Agent("images", "late.tar"), "late:1")
	err := poll(ctx, 100*time.Millisecond, func(ctx context.Context) error {
		list, err := importer.List(ctx)
		if err != nil {
			return err
		}
		for _, image := range list {
			if image.Name == "docker.io/library/late:1" && image.Pinned {
				return nil
			}
		}
		return fmt.Errorf("not imported: %v", list)
	})
	if err != nil {
		t.Error(err)
	}
}
