package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// TestWorkloads runs everything that one default server must carry, on one
// server: the subtests share it and use names of their own.
func TestWorkloads(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{})
	s.Start(t)
	s.WaitNode(t, booted)
	s.WaitPods(t, booted, "kube-system", "", systemPods)
	runPod(t, s, "client")
	t.Run("persistent volume over restart", func(t *testing.T) { persistentVolume(t, s) })
	for name, test := range map[string]func(*testing.T, *testkit.Server){
		"deployment and services": services,
		"dns":                     dns,
		"logs exec cp":            logsExecCopy,
		"port-forward":            portForward,
		"top":                     top,
		"job":                     job,
		"cronjob":                 cronJob,
		"daemonset":               daemonSet,
		"init container":          initContainer,
		"liveness":                liveness,
		"oom":                     oomKill,
		"seccomp":                 seccomp,
		"network policy":          networkPolicy,
		"rbac":                    rbac,
		"version and status":      versionAndStatus,
		"image list":              imageList,
		"image archives":          imageArchives,
		"secrets encrypted":       secretsEncrypted,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

func services(t *testing.T, s *testkit.Server) {
	s.Apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: pair}
spec:
  replicas: 2
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: %s
        command: [sh, -c, "mkdir /w && hostname > /w/index.html && exec httpd -f -p 8080 -h /w"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: pair}
spec: {type: NodePort, selector: {app: pair}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
`, busybox))
	pods := s.WaitPods(t, soon, "default", "app=pair", 2)
	if pods[0].Status.IP == pods[1].Status.IP {
		t.Fatalf("both pods have %s", pods[0].Status.IP)
	}
	names := map[string]bool{pods[0].Meta.Name: true, pods[1].Meta.Name: true}
	ip := s.Kubectl(t, "get", "service", "pair", "-o", "jsonpath={.spec.clusterIP}")
	for what, dial := range map[string]func() (string, error){
		"ClusterIP from a pod": func() (string, error) {
			r := s.TryExec(t, "default", "client", "timeout", "5", "wget", "-q", "-O", "-", "http://"+ip+"/")
			return r.Stdout, errIf(r)
		},
		"ClusterIP from the node": func() (string, error) { return fetch(s.Net.Dial, net.JoinHostPort(ip, "80")) },
		"NodePort from outside": func() (string, error) {
			return fetch(s.Net.DialOutside, net.JoinHostPort(s.Net.Addr().String(), "30080"))
		},
		"NodePort from the node": func() (string, error) {
			return fetch(s.Net.Dial, net.JoinHostPort(s.Net.Addr().String(), "30080"))
		},
	} {
		testkit.Eventually(t, soon, what, func(context.Context) error {
			got, err := dial()
			if err == nil && !names[strings.TrimSpace(got)] {
				err = fmt.Errorf("answer %q, want one of %v", got, names)
			}
			return err
		})
	}
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// fetch is one HTTP GET over a connection made by dial.
func fetch(dial dialer, addr string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func errIf(r testkit.Result) error {
	if r.Code != 0 {
		return fmt.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	return nil
}

func dns(t *testing.T, s *testkit.Server) {
	s.WaitPods(t, soon, "kube-system", "k8s-app=kube-dns", 1)
	for name, want := range map[string]string{
		"kubernetes.default.svc.cluster.local": "10.43.0.1",
		"kubernetes.default":                   "10.43.0.1",
		outside:                                outsideAddr.String(),
	} {
		testkit.Eventually(t, soon, "lookup of "+name, func(context.Context) error {
			// ping resolves through /etc/resolv.conf and its search list, as programs do.
			r := s.TryExec(t, "default", "client", "ping", "-c", "1", "-W", "1", name)
			if !strings.Contains(r.Stdout, "("+want+")") {
				return fmt.Errorf("got %q %s, want %s", r.Stdout, r.Stderr, want)
			}
			return nil
		})
	}
	r := s.TryExec(t, "default", "client", "nslookup", "no-such-name.kelson.example")
	says(t, r.Stdout+r.Stderr, "NXDOMAIN|can't resolve|can't find")
}

func persistentVolume(t *testing.T, s *testkit.Server) {
	s.Apply(t, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
`)
	pod := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: keeper, labels: {app: keeper}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: %s, command: [sleep, "86400"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
`, busybox)
	s.Apply(t, pod)
	s.WaitPods(t, booted, "default", "app=keeper", 1)
	s.Exec(t, "default", "keeper", "sh", "-c", "echo precious > /v/file && sync")
	s.Kubectl(t, "delete", "pod", "keeper", "--wait=true")
	s.Stop(t, 20*time.Second)
	s.Start(t)
	s.WaitNode(t, booted)
	s.Apply(t, pod)
	s.WaitPods(t, soon, "default", "app=keeper", 1)
	if got := s.Exec(t, "default", "keeper", "cat", "/v/file"); got != "precious\n" {
		t.Fatalf("volume holds %q after pod and server restart", got)
	}
	found := false
	_ = filepath.WalkDir(filepath.Join(s.Data, "storage"), func(p string, _ os.DirEntry, _ error) error {
		found = found || filepath.Base(p) == "file"
		return nil
	})
	if !found {
		t.Errorf("the volume's file is not below %s/storage", s.Data)
	}
}

func logsExecCopy(t *testing.T, s *testkit.Server) {
	s.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: %s, command: [sh, -c, "echo first words; exec sleep 86400"]}]
`, busybox))
	s.WaitPods(t, soon, "default", "app=talker", 1)
	testkit.Eventually(t, soon, "logs", func(context.Context) error {
		if got := s.Kubectl(t, "logs", "talker"); got != "first words\n" {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
	if r := s.TryExec(t, "default", "talker", "sh", "-c", "exit 7"); r.Code != 7 {
		t.Errorf("exec's exit code %d, want 7", r.Code)
	}
	if r := s.Run(t, "over stdin", s.Bin, "kubectl", "exec", "-i", "talker", "--", "cat"); r.Stdout != "over stdin" {
		t.Errorf("exec -i: %+v", r)
	}
	dir := t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	content := strings.Repeat("0123456789abcdef", 64<<10)
	if err := os.WriteFile(there, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Kubectl(t, "cp", there, "talker:/tmp/copied")
	s.Kubectl(t, "cp", "talker:/tmp/copied", back)
	if got, err := os.ReadFile(back); err != nil || string(got) != content {
		t.Errorf("copied there and back: %d bytes, %v", len(got), err)
	}
}

func portForward(t *testing.T, s *testkit.Server) {
	s.Apply(t, webManifest("forwarded", "SingleStack"))
	s.WaitPods(t, soon, "default", "app=forwarded", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := s.Command(ctx, s.Bin, "kubectl", "port-forward", "pod/forwarded", "18080:8080")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	testkit.Eventually(t, soon, "port-forward", func(context.Context) error {
		got, err := fetch(s.Net.Dial, "127.0.0.1:18080")
		if err == nil && strings.TrimSpace(got) != "forwarded-ok" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
}

func top(t *testing.T, s *testkit.Server) {
	for _, what := range []string{"node", "pod"} {
		testkit.Eventually(t, 2*time.Minute, "top "+what, func(context.Context) error {
			r := s.Kelson(t, "kubectl", "top", what, "--no-headers")
			if r.Code != 0 || !strings.Contains(r.Stdout, "Mi") {
				return fmt.Errorf("%q %s", r.Stdout, r.Stderr)
			}
			return nil
		})
	}
}

func job(t *testing.T, s *testkit.Server) {
	s.Kubectl(t, "create", "job", "once", "--image="+busybox, "--", "sh", "-c", "echo done")
	s.Kubectl(t, "wait", "--for=condition=complete", "job/once", "--timeout=60s")
	if got := s.Kubectl(t, "logs", "job/once"); got != "done\n" {
		t.Errorf("job's log %q", got)
	}
}

func cronJob(t *testing.T, s *testkit.Server) {
	s.Kubectl(t, "create", "cronjob", "every", "--image="+busybox, "--schedule=* * * * *", "--", "true")
	s.Await(t, 2*time.Minute, "a run of the CronJob", func(ctx context.Context, a *testkit.API) error {
		var c struct {
			Status struct {
				Last string `json:"lastSuccessfulTime"`
			} `json:"status"`
		}
		if err := a.Get(ctx, "/apis/batch/v1/namespaces/default/cronjobs/every", &c); err != nil {
			return err
		}
		if c.Status.Last == "" {
			return fmt.Errorf("no successful run yet")
		}
		return nil
	})
	s.Kubectl(t, "delete", "cronjob", "every")
}

func daemonSet(t *testing.T, s *testkit.Server) {
	s.Apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: %s, command: [sleep, "86400"]}]
`, busybox))
	s.WaitPods(t, soon, "default", "app=everywhere", 1)
}

func initContainer(t *testing.T, s *testkit.Server) {
	s.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: prepared, labels: {app: prepared}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - {name: prepare, image: %[1]s, command: [sh, -c, "echo ready > /s/file"], volumeMounts: [{name: s, mountPath: /s}]}
  containers:
  - {name: main, image: %[1]s, command: [sleep, "86400"], volumeMounts: [{name: s, mountPath: /s}]}
  volumes: [{name: s, emptyDir: {}}]
`, busybox))
	s.WaitPods(t, soon, "default", "app=prepared", 1)
	if got := s.Exec(t, "default", "prepared", "cat", "/s/file"); got != "ready\n" {
		t.Errorf("init container left %q", got)
	}
}

func liveness(t *testing.T, s *testkit.Server) {
	s.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: sickly, labels: {app: sickly}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: %s
    command: [sleep, "86400"]
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
`, busybox))
	s.Await(t, soon, "liveness restart", func(ctx context.Context, a *testkit.API) error {
		pods, err := a.Pods(ctx, "default", "app=sickly")
		if err != nil || len(pods) != 1 || len(pods[0].Status.Containers) != 1 || pods[0].Status.Containers[0].Restarts == 0 {
			return errors.Join(err, fmt.Errorf("not restarted: %+v", pods))
		}
		return nil
	})
	s.Kubectl(t, "delete", "pod", "sickly", "--wait=false")
}

func oomKill(t *testing.T, s *testkit.Server) {
	s.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: greedy, labels: {app: greedy}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: %s
    command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=200M count=1"]
    resources: {limits: {memory: 32Mi}}
`, busybox))
	s.Await(t, soon, "OOM kill", func(ctx context.Context, a *testkit.API) error {
		pods, err := a.Pods(ctx, "default", "app=greedy")
		if err != nil || len(pods) != 1 || len(pods[0].Status.Containers) != 1 {
			return errors.Join(err, errors.New("no status"))
		}
		state := pods[0].Status.Containers[0].State["terminated"]
		if state["reason"] != "OOMKilled" {
			return fmt.Errorf("state %v", pods[0].Status.Containers[0].State)
		}
		return nil
	})
}

func seccomp(t *testing.T, s *testkit.Server) {
	for profile, want := range map[string]string{"RuntimeDefault": "2", "Unconfined": "0"} {
		name := "seccomp-" + strings.ToLower(profile)
		s.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {seccompProfile: {type: %[3]s}}
  containers: [{name: main, image: %[2]s, command: [sleep, "86400"]}]
`, name, busybox, profile))
		s.WaitPods(t, soon, "default", "app="+name, 1)
		got := s.Exec(t, "default", name, "grep", "^Seccomp:", "/proc/1/status")
		if f := strings.Fields(got); len(f) != 2 || f[1] != want {
			t.Errorf("%s: %q, want %s", profile, got, want)
		}
	}
}

func networkPolicy(t *testing.T, s *testkit.Server) {
	s.Apply(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress]}
`)
	s.Kubectl(t, "get", "networkpolicy", "closed")
}

func rbac(t *testing.T, s *testkit.Server) {
	s.Kubectl(t, "create", "serviceaccount", "plain")
	as := "--as=system:serviceaccount:default:plain"
	r := s.Kelson(t, "kubectl", "get", "secrets", as)
	if r.Code == 0 {
		t.Error("a plain service account reads secrets")
	}
	says(t, r.Stderr, "forbidden")
	// With its own token, too, not only by impersonation.
	token := strings.TrimSpace(s.Kubectl(t, "create", "token", "plain"))
	anonymous := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(anonymous, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = s.Run(t, "", s.Bin, "kubectl", "--kubeconfig", anonymous, "--server", "https://127.0.0.1:6443",
		"--insecure-skip-tls-verify", "--token", token, "get", "secrets")
	says(t, r.Stderr, "forbidden", "system:serviceaccount:default:plain")
}

func versionAndStatus(t *testing.T, s *testkit.Server) {
	r := s.Kelson(t, "version", "-o", "json")
	var v struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil || !strings.Contains(v.Version, "+kelson") {
		t.Fatalf("version: %+v %v", r, err)
	}
	if got := kubelet(t, s); got != v.Version {
		t.Errorf("node says %s, the file %s", got, v.Version)
	}
	for _, args := range [][]string{{"status"}, {"status", "-o", "json"}, {"boot"}, {"boot", "-o", "json"}, {"boot", "-o", "svg"}, {"certificate", "check"}, {"config", "show"}} {
		if r := s.Kelson(t, args...); r.Code != 0 || len(r.Stdout) < 20 {
			t.Errorf("kelson %v: exit code %d, %d bytes: %s", args, r.Code, len(r.Stdout), r.Stderr)
		}
	}
}

func imageList(t *testing.T, s *testkit.Server) {
	for _, verb := range [][]string{{"images", "list"}, {"crictl", "images"}, {"ctr", "-n", "k8s.io", "images", "ls", "-q"}} {
		r := s.Kelson(t, verb...)
		if r.Code != 0 || !strings.Contains(r.Stdout, "kelson/pause") {
			t.Errorf("kelson %v: %d %s%s", verb, r.Code, r.Stdout, r.Stderr)
		}
	}
}

func secretsEncrypted(t *testing.T, s *testkit.Server) {
	const marker = "plain-text-marker-4711"
	s.Kubectl(t, "create", "secret", "generic", "hidden", "--from-literal=k="+marker)
	files, _ := filepath.Glob(filepath.Join(s.Data, "server", "db", "state.db*"))
	if len(files) == 0 {
		t.Fatal("no state.db")
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), marker) {
			t.Errorf("the secret lies in clear in %s", f)
		}
	}
}
