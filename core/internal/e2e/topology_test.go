package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// systemPods is how many pods the packaged components run.
const systemPods = 3

func TestTwoServersOnOneHost(t *testing.T) {
	one, two := newServer(t, testkit.NetworkConfig{}), newServer(t, testkit.NetworkConfig{})
	one.Start(t)
	two.Start(t)
	for _, s := range []*testkit.Server{one, two} {
		s.WaitNode(t, 2*booted)
		runPod(t, s, "alone")
	}
	for _, s := range []*testkit.Server{one, two} {
		s.WaitPods(t, booted, "kube-system", "", systemPods)
		if got := s.WaitPods(t, soon, "default", "", 1); got[0].Meta.Name != "alone" {
			t.Errorf("pods of the other server are seen: %+v", got)
		}
	}
	// Same CIDR, separate IPAM: both start to count at the same address.
	for _, s := range []*testkit.Server{one, two} {
		if strings.TrimSpace(s.Exec(t, "default", "alone", "cat", "/proc/sys/kernel/hostname")) != "alone" {
			t.Error("exec reached another pod")
		}
	}
	// One server's end is not the other's.
	one.Stop(t, 20*time.Second)
	runPod(t, two, "second")
}

func TestDualStack(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{Families: testkit.DualStack},
		"--cluster-cidr", "10.42.0.0/16,fd42::/56", "--service-cidr", "10.43.0.0/16,fd43::/112")
	s.Start(t)
	s.WaitNode(t, booted)
	pod := runPod(t, s, "dual")
	families := map[bool]bool{}
	for _, ip := range pod.Status.IPs {
		families[netip.MustParseAddr(ip.IP).Is6()] = true
	}
	if len(families) != 2 {
		t.Fatalf("pod addresses %v, want both families", pod.Status.IPs)
	}
	s.Apply(t, webManifest("web", "PreferDualStack"))
	s.WaitPods(t, soon, "default", "app=web", 1)
	var svc struct {
		Spec struct {
			IPs []string `json:"clusterIPs"`
		} `json:"spec"`
	}
	s.Await(t, soon, "service addresses", func(ctx context.Context, a *testkit.API) error {
		return a.Get(ctx, "/api/v1/namespaces/default/services/web", &svc)
	})
	if len(svc.Spec.IPs) != 2 {
		t.Fatalf("service addresses %v", svc.Spec.IPs)
	}
	for _, ip := range svc.Spec.IPs {
		eventuallyFetches(t, s, "dual", ip, "web-ok")
	}
}

func TestIPv6Only(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{Families: testkit.IPv6},
		"--cluster-cidr", "fd42::/56", "--service-cidr", "fd43::/112")
	s.Start(t)
	s.WaitNode(t, booted)
	pod := runPod(t, s, "six")
	if !netip.MustParseAddr(pod.Status.IP).Is6() {
		t.Fatalf("pod address %s", pod.Status.IP)
	}
	s.Apply(t, webManifest("web", "SingleStack"))
	s.WaitPods(t, soon, "default", "app=web", 1)
	s.WaitPods(t, booted, "kube-system", "k8s-app=kube-dns", 1)
	eventuallyFetches(t, s, "six", "web.default.svc.cluster.local", "web-ok")
}

// TestNoDefaultRoute: everything boots on a host that leads nowhere.
func TestNoDefaultRoute(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{NoRoute: true})
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "isolated")
	s.WaitPods(t, booted, "kube-system", "", systemPods)
	for _, a := range nodeOf(t, s).Status.Addresses {
		if a.Type == "InternalIP" && a.Address != s.Net.Addr4.String() {
			t.Errorf("node address %s, want the only global one %s", a.Address, s.Net.Addr4)
		}
	}
}

// TestNoHostTools boots with a PATH that has the shell's tools but none that
// Kubernetes calls: they come from the payload.
func TestNoHostTools(t *testing.T) {
	t.Parallel()
	missing := map[string]bool{}
	for name := range strings.FieldsSeq("nft iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore ip mount umount modprobe conntrack nsenter sysctl losetup blkid tc ipset ss ethtool runc containerd socat kubectl") {
		missing[name] = true
	}
	bin := t.TempDir()
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if missing[e.Name()] {
				continue
			}
			if err := os.Symlink(filepath.Join(dir, e.Name()), filepath.Join(bin, e.Name())); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
		}
	}
	s := newServer(t, testkit.NetworkConfig{})
	s.SetEnv("PATH=" + bin)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "toolless")
	s.Apply(t, webManifest("web", "SingleStack"))
	s.WaitPods(t, soon, "default", "app=web", 1)
	s.WaitPods(t, booted, "kube-system", "k8s-app=kube-dns", 1)
	eventuallyFetches(t, s, "toolless", "web", "web-ok")
}

// webManifest is a web server that answers "NAME-ok" and its service.
func webManifest(name, families string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: %[2]s
    command: [sh, -c, "mkdir /w && echo %[1]s-ok > /w/index.html && exec httpd -f -p 8080 -h /w"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {app: %[1]s}, ipFamilyPolicy: %[3]s, ports: [{port: 80, targetPort: 8080}]}
`, name, busybox, families)
}

// eventuallyFetches asks host over HTTP from inside a pod.
func eventuallyFetches(t *testing.T, s *testkit.Server, pod, host, want string) {
	t.Helper()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	testkit.Eventually(t, soon, "HTTP answer of "+host, func(context.Context) error {
		r := s.TryExec(t, "default", pod, "timeout", "5", "wget", "-q", "-O", "-", "http://"+host+"/")
		if strings.TrimSpace(r.Stdout) != want {
			return fmt.Errorf("got %q %s", r.Stdout, r.Stderr)
		}
		return nil
	})
}
