package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// stock is a cluster of separate processes on one data folder.
type stock struct {
	net     *testkit.Network
	dir     string // data, configuration, logs
	bin     string // the built binaries
	payload string // bin folder of Kelson's payload: containerd, runc, shim, cni
	images  string
	pki     *stockPKI
	running []*exec.Cmd
	ended   []chan struct{}
}

// buildStock builds the stock programs from the main module, once a run.
func buildStock(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	packages := []string{"github.com/kelson-io/kelson/core/internal/bench/stock/etcd"}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"} {
		packages = append(packages, "k8s.io/kubernetes/cmd/"+name)
	}
	cmd := exec.Command("go", append([]string{"build", "-ldflags", "-s -w", "-o", dir + "/"}, packages...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build the stock programs: %v\n%s", err, out)
	}
	return dir
}

// newStock prepares everything that needs no running process.
func newStock(b *testing.B, bin, payload string) *stock {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "kt-") //nolint:usetesting // t.TempDir is too long for sockets
	if err != nil {
		b.Fatal(err)
	}
	s := &stock{
		net: testkit.NewNetwork(b, testkit.NetworkConfig{}), dir: dir, bin: bin,
		payload: filepath.Join(payload, "bin"), images: filepath.Join(payload, "images"),
	}
	testkit.CleanUp(b, s.net, dir)
	b.Cleanup(func() { s.stop(b) })
	s.pki = newStockPKI(b, dir, s.net.Addr().String())
	for name, text := range s.files() {
		s.write(b, name, text)
	}
	s.cgroups(b)
	return s
}

func (s *stock) write(b *testing.B, name, text string) {
	b.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// cgroups makes the kubelet's root cgroup in every hierarchy.
func (s *stock) cgroups(b *testing.B) {
	b.Helper()
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if len(roots) == 0 {
		roots = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, r := range roots {
		group := filepath.Join(filepath.Dir(r), filepath.Base(s.dir))
		if err := os.Mkdir(group, 0o755); err != nil && !os.IsExist(err) {
			b.Logf("cgroup %s: %v", group, err)
			continue
		}
		// A new cpuset is unusable until it has CPUs and memory nodes.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if v, err := os.ReadFile(filepath.Join(filepath.Dir(r), f)); err == nil {
				_ = os.WriteFile(filepath.Join(group, f), v, 0o644)
			}
		}
	}
}

// importImages runs containerd alone and gives it the payload's images.
func (s *stock) importImages(b *testing.B) {
	b.Helper()
	s.launch(b, filepath.Join(s.payload, "containerd"), s.containerdArgs()...)
	tars, err := filepath.Glob(filepath.Join(s.images, "*.tar"))
	if err != nil || len(tars) == 0 {
		b.Fatalf("no images in %s: %v", s.images, err)
	}
	for _, tar := range tars {
		until(b, "import "+tar, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, filepath.Join(s.payload, "ctr"), "--address", s.dir+"/c.sock", "-n", "k8s.io", "images", "import", tar).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	s.stop(b)
}

// start launches everything at once.
func (s *stock) start(b *testing.B) {
	b.Helper()
	s.launch(b, filepath.Join(s.payload, "containerd"), s.containerdArgs()...)
	for _, argv := range s.commands() {
		if argv[0] == "kubelet" { // it ends for good when containerd does not answer at once
			until(b, "containerd", func(ctx context.Context) error {
				conn, err := new(net.Dialer).DialContext(ctx, "unix", s.dir+"/c.sock")
				if err != nil {
					return err
				}
				return conn.Close()
			})
		}
		s.launch(b, filepath.Join(s.bin, argv[0]), argv[1:]...)
	}
}

// launch runs a program that must go on; those that wait for the API server by
// ending are started again at once.
func (s *stock) launch(b *testing.B, path string, args ...string) {
	b.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, filepath.Base(path)+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	cmd := s.net.Command(context.Background(), path, args...)
	cmd.Env = append(os.Environ(), "PATH="+s.payload+":"+os.Getenv("PATH")+":"+s.payload+"/aux")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	s.running, s.ended = append(s.running, cmd), append(s.ended, done)
}

func (s *stock) stop(b *testing.B) {
	b.Helper()
	for _, cmd := range slices.Backward(s.running) {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	for i, done := range s.ended {
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = s.running[i].Process.Kill()
			<-done
		}
	}
	s.running, s.ended = nil, nil
}

func (s *stock) api() (*testkit.API, error) {
	cert, err := tls.LoadX509KeyPair(s.dir+"/admin.crt", s.dir+"/admin.key")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.pki.ca)
	return s.net.NewAPI("https://127.0.0.1:6443", &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}), nil
}

// logs is the end of each log, for a failure.
func (s *stock) logs() string {
	var text strings.Builder
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		fmt.Fprintf(&text, "== %s\n%s\n", filepath.Base(f), raw[max(0, len(raw)-1500):])
	}
	return text.String()
}

func measureStock(b *testing.B, p plan, f figures) {
	b.Helper()
	payload := os.Getenv("KELSON_PAYLOAD")
	if payload == "" {
		payload = filepath.Join(filepath.Dir(testkit.Binary(b, "KELSON")), "payload")
	}
	bin := buildStock(b)
	for range p.boots {
		b.Run("cold", func(b *testing.B) {
			s := newStock(b, bin, payload)
			s.importImages(b)
			s.boot(b, f, coldAPI, coldNode, coldPod, "", 0)
		})
	}
	s := newStock(b, bin, payload)
	s.importImages(b)
	s.boot(b, figures{}, coldAPI, coldNode, coldPod, "", 0)
	for i := range p.boots {
		beat := ""
		until(b, "node", withAPI(s.api, func(ctx context.Context, a *testkit.API) error {
			node, err := a.Node(ctx)
			beat = heartbeat(node)
			return err
		}))
		s.stop(b)
		s.boot(b, f, warmAPI, warmNode, warmPod, beat, i+1)
	}
	<-time.After(p.settle)
	var all []testkit.Process
	var core []int
	for _, cmd := range s.running {
		all = append(all, testkit.Process{PID: cmd.Process.Pid, Args: cmd.Args[3:]})
		switch filepath.Base(cmd.Args[3]) {
		case "containerd", "kubelet", "kube-proxy":
		default:
			core = append(core, cmd.Process.Pid)
		}
	}
	idle(b, f, all, core, s.dir, p.idle)
}

// boot starts everything and takes the three marks.
func (s *stock) boot(b *testing.B, f figures, api, node, pod, beat string, round int) {
	b.Helper()
	defer func() {
		if b.Failed() {
			b.Log(s.logs())
		}
	}()
	client := keep(s.api)
	begun := time.Now()
	s.start(b)
	until(b, api, apiReady(client))
	f.took(api, time.Since(begun))
	var rest sync.WaitGroup
	rest.Go(func() {
		until(b, node, nodeReady(client, beat, begun))
		f.took(node, time.Since(begun))
	})
	name := fmt.Sprintf("pod-%d", round)
	until(b, "create pod", createPod(client, podJSON(name, "exec sleep 86400")))
	until(b, pod, podRunning(client, name))
	took := time.Since(begun)
	rest.Wait()
	f.took(pod, took)
}
