package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/core/internal/testkit"
)

// TestSettings boots with the administrator's own authorities and settings and
// finds each where it takes effect; the service manager is told of the boot and
// of the end, which an interrupt brings about as SIGTERM does.
func TestSettings(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, append(bare,
		"--kubelet-arg", "max-pods=42", "--node-label", "example.org/rack=r7", "--node-taint", "dedicated=db:PreferNoSchedule",
		"--write-kubeconfig-mode", "0640")...)
	s.SetKubeconfig(filepath.Join(s.Base, "admin", "config"))
	told := serviceManager(t, s)
	authorities := customAuthorities(t, s)
	s.Start(t)
	s.WaitNode(t, booted)
	runPod(t, s, "configured")

	t.Run("node", func(t *testing.T) { checkNodeSettings(t, nodeOf(t, s)) })
	t.Run("kubeconfig", func(t *testing.T) { checkKubeconfig(t, s) })
	t.Run("authorities", func(t *testing.T) {
		for path, want := range authorities {
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s was replaced (%v)", path, err)
			}
		}
	})
	told.wait(t, "READY=1")
	s.Signal(t, syscall.SIGINT)
	if code := s.WaitExit(t, 20*time.Second); code != 0 {
		t.Errorf("exit code %d after SIGINT\n%s", code, s.Tail(20))
	}
	told.wait(t, "STOPPING=1")
	// Neither a component nor a child speaks in the host's name.
	if got := told.all(); !slices.Equal(got, []string{"READY=1", "STOPPING=1"}) {
		t.Errorf("the service manager was told %q", got)
	}
}

func checkNodeSettings(t *testing.T, node testkit.Node) {
	t.Helper()
	if got := node.Status.Capacity["pods"]; got != "42" {
		t.Errorf("capacity of %s pods, want 42", got)
	}
	if got := node.Meta.Labels["example.org/rack"]; got != "r7" {
		t.Errorf("labels %v", node.Meta.Labels)
	}
	if !slices.Contains(node.Spec.Taints, struct{ Key, Value, Effect string }{"dedicated", "db", "PreferNoSchedule"}) {
		t.Errorf("taints %v", node.Spec.Taints)
	}
}

func checkKubeconfig(t *testing.T, s *testkit.Server) {
	t.Helper()
	st, err := os.Stat(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o640 {
		t.Errorf("mode %04o, want 0640", st.Mode().Perm())
	}
	if _, err := os.Stat(filepath.Join(s.Data, "etc", "kelson.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the default kubeconfig was written, too: %v", err)
	}
	for field, want := range map[string]string{
		"{.clusters[0].cluster.certificate-authority-data}": "custom-server-ca",
		"{.users[0].user.client-certificate-data}":          "custom-client-ca",
	} {
		encoded := s.Kubectl(t, "config", "view", "--raw", "-o", "jsonpath="+field)
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		if block == nil {
			t.Fatalf("%s: no certificate", field)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || cert.Issuer.CommonName != want {
			t.Errorf("%s: issued by %v (%v), want %s", field, cert.Issuer, err, want)
		}
	}
}

// customAuthorities places all of them and returns their files.
func customAuthorities(t *testing.T, s *testkit.Server) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{"client-ca", "server-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca"} {
		dir := filepath.Join(s.Data, "server", "tls", filepath.Dir(name))
		writeAuthority(t, dir, filepath.Base(name), time.Now().AddDate(0, 0, -1))
		for _, ext := range []string{".crt", ".key"} {
			path := filepath.Join(dir, filepath.Base(name)+ext)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[path] = raw
		}
	}
	return files
}

// messages is what a service manager was told.
type messages struct {
	mu    sync.Mutex
	lines []string
}

// serviceManager listens where sd_notify sends to.
func serviceManager(t *testing.T, s *testkit.Server) *messages {
	t.Helper()
	path := filepath.Join(s.Base, "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &messages{}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return // closed
			}
			m.mu.Lock()
			m.lines = append(m.lines, strings.Split(string(buf[:n]), "\n")...)
			m.mu.Unlock()
		}
	}()
	s.SetEnv("NOTIFY_SOCKET=" + path)
	return m
}

func (m *messages) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines)
}

func (m *messages) wait(t *testing.T, line string) {
	t.Helper()
	testkit.Eventually(t, soon, line+" at the service manager", func(context.Context) error {
		if got := m.all(); !slices.Contains(got, line) {
			return fmt.Errorf("told %q", got)
		}
		return nil
	})
}
