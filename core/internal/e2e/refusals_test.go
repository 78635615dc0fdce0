package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/datadir/payload"
	"github.com/kelson-io/kelson/core/internal/testkit"
)

// TestUsageErrors: exit code 2, the place, and the nearest valid name.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, config string
		args, words  []string
	}{
		{"unknown flag", "", []string{"--cluster-cdir", "10.0.0.0/16"}, []string{"--cluster-cdir", "cluster-cidr"}},
		{"unknown key", "tls-san: [a]\nclustr-domain: x\n", nil, []string{"config.yaml", "2", "clustr-domain", "cluster-domain"}},
		{"wrong type", "https-listen-port: many\n", nil, []string{"config.yaml", "1", "https-listen-port", "many"}},
		{"overlapping ranges", "", []string{"--cluster-cidr", "10.42.0.0/16", "--service-cidr", "10.42.128.0/17"}, []string{"10.42.0.0/16", "10.42.128.0/17", "overlap"}},
		{"malformed range", "", []string{"--cluster-cidr", "10.42.0.0/64"}, []string{"10.42.0.0/64", "cluster-cidr"}},
		{"bad domain", "", []string{"--cluster-domain", "Not_A.Domain"}, []string{"cluster-domain", "Not_A.Domain"}},
		{"port out of range", "", []string{"--https-listen-port", "70000"}, []string{"https-listen-port", "70000"}},
		{"setting without effect", "datastore-cafile: /ca.crt\n", nil, []string{"config.yaml:1", "datastore-cafile", "remove it"}},
		{"unknown component", "", []string{"--disable", "coredsn"}, []string{"coredsn", "coredns"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newRefused(t, testkit.NetworkConfig{})
			args := tc.args
			if tc.config != "" {
				file := filepath.Join(t.TempDir(), "config.yaml")
				if err := os.WriteFile(file, []byte(tc.config), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--config", file)
			}
			refused(t, s, 2, args, tc.words...)
			untouched(t, s)
		})
	}
}

// untouched fails t if the refused start of a new data dir left state: the
// extracted payload may be there, nothing else, and it is not current.
func untouched(t *testing.T, s *testkit.Server) {
	t.Helper()
	for _, name := range []string{"server", "agent", "storage", "plugins"} {
		if _, err := os.Stat(filepath.Join(s.Data, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s exists after a refused start: %v", name, err)
		}
	}
	if moved := links(t, s); len(moved) > 0 {
		t.Errorf("links after a refused start: %v", moved)
	}
}

func TestRefusedPortTaken(t *testing.T) {
	t.Parallel()
	s := newRefused(t, testkit.NetworkConfig{})
	s.Net.Listen(t, "tcp", ":6443")
	refused(t, s, 1, nil, "6443", "in use|taken")
	untouched(t, s)
}

func TestRefusedNotRoot(t *testing.T) {
	t.Parallel()
	bin := testkit.Binary(t, "KELSON")
	dir, err := os.MkdirTemp("/tmp", "kt-") //nolint:usetesting // another user has to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	own := filepath.Join(dir, "kelson")
	copyFile(t, bin, own)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(own, "server", "--data-dir", filepath.Join(dir, "d"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("as nobody: %v, want exit code 1", err)
	}
	says(t, string(out), "root")
	if _, err := os.Stat(filepath.Join(dir, "d")); err == nil {
		t.Error("the data dir was made all the same")
	}
}

// TestRefusedDataDir: read-only, full, and owned by somebody else.
func TestRefusedDataDir(t *testing.T) {
	t.Parallel()
	mount := func(flags uintptr, options string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		words   []string
	}{
		{"read-only", mount(unix.MS_RDONLY, "mode=0700"), []string{"read-only|not writable"}},
		{"full", mount(0, "size=24m,mode=0700"), []string{"no space|full|free"}},
		{"owner", func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Chown(dir, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}, []string{"own", "65534|nobody"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newRefused(t, testkit.NetworkConfig{})
			if err := os.MkdirAll(s.Data, 0o700); err != nil {
				t.Fatal(err)
			}
			tc.prepare(t, s.Data)
			refused(t, s, 1, nil, append(tc.words, s.Data)...)
			untouched(t, s)
			if _, err := os.Stat(filepath.Join(s.Data, "data", "current")); err == nil {
				t.Error("a payload counts as current")
			}
		})
	}
}

// TestRefusedSecondServer: also when the second one is of another version,
// which must not become the current one under the first.
func TestRefusedSecondServer(t *testing.T) {
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitAPI(t, booted)
	for _, variable := range []string{"KELSON", "KELSON_NEXT"} {
		if os.Getenv(variable) == "" {
			t.Logf("SKIPPED: %s does not name a build of a later version", variable)
			continue
		}
		other := testkit.NewServer(t, testkit.ServerConfig{Bin: testkit.Binary(t, variable), Net: testkit.NewNetwork(t, testkit.NetworkConfig{}), Borrowed: s})
		refused(t, other, 1, nil, strconv.Itoa(s.PID()))
		if !s.Alive() {
			t.Fatal("the first server ended")
		}
	}
	s.WaitNode(t, booted)
}

func TestRefusedNoAddress(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{NoRoute: true}, bare...)
	s.Net.AddAddr(t, netip.MustParsePrefix("10.98.0.2/24"))
	refused(t, s, 1, nil, "route|address", "--node-ip|node-ip")
	untouched(t, s)
	s.Start(t, "--node-ip", "10.98.0.2")
	s.WaitNode(t, booted)
}

func TestRefusedDamagedPayload(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	good := s.Bin
	s.Bin = filepath.Join(s.Base, "damaged")
	copyFile(t, good, s.Bin)
	flipByte(t, s.Bin)
	refused(t, s, 1, nil, "payload|archive", "damaged|sha256|digest|checksum|corrupt|match")
	untouched(t, s)
	if _, err := os.Stat(filepath.Join(s.Data, "data", "current")); err == nil {
		t.Fatal("the damaged payload counts as current")
	}
	s.Bin = good
	s.Start(t)
	s.WaitNode(t, booted)
	s.Stop(t, 20*time.Second)

	// A damaged file of the extracted tree is noticed and put right.
	runc := filepath.Join(s.Data, "data", link(t, s, "current"), "bin", "runc")
	whole, err := os.ReadFile(runc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(runc, int64(len(whole))/2); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	s.WaitNode(t, booted)
	says(t, s.Output(), "repairing", "bin/runc")
	if now, err := os.ReadFile(runc); err != nil || !bytes.Equal(now, whole) {
		t.Fatalf("runc has %d bytes, want the %d of before (%v)", len(now), len(whole), err)
	}
	runPod(t, s, "repaired")
}

// TestKilledWhileExtracting kills the launcher at random moments.
func TestKilledWhileExtracting(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	p, err := payload.Open(s.Bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	tree := filepath.Join(s.Data, "data", p.SHA256)
	begun := time.Now()
	s.Start(t)
	testkit.Eventually(t, booted, "extraction", func(context.Context) error {
		_, err := os.Stat(tree)
		return err
	})
	took := time.Since(begun)
	s.Kill(t)
	s.Reset(t)
	const rounds = 12
	for i := range rounds {
		s.Start(t)
		<-time.After(took * time.Duration(i+1) / (rounds - 1))
		s.Kill(t)
		if _, err := os.Stat(tree); err != nil {
			continue // nothing counts as extracted
		}
		if err := p.Check(tree); err != nil {
			t.Fatalf("round %d: a half-written tree bears a version's name: %v", i, err)
		}
		s.Reset(t)
	}
	s.Start(t)
	s.WaitNode(t, booted)
	left, err := filepath.Glob(filepath.Join(s.Data, "data", "*-tmp*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left by killed extractions: %v %v", left, err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// flipByte changes one byte at two thirds of a file: for the launcher that is
// inside the payload.
func flipByte(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at, b := info.Size()*2/3, make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x20
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedState: the datastore's file is damaged; it is named and not
// written to.
func TestRefusedState(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t)
	s.WaitNode(t, booted)
	s.Stop(t, 20*time.Second)
	db := filepath.Join(s.Data, "server", "db", "state.db")
	good, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"truncated": good[:len(good)/2],
		"corrupted": append(append(bytes.Clone(good[:8192]), bytes.Repeat([]byte{0xA5}, 16384)...), good[min(len(good), 8192+16384):]...),
		"no sqlite": bytes.Repeat([]byte("garbage "), 4096),
	} {
		if err := os.WriteFile(db, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, s, 1, nil, "state.db", "damaged|malformed|not a database|corrupt|quick", "restore|snapshot|backup|move")
		if now, err := os.ReadFile(db); err != nil || !bytes.Equal(now, damaged) {
			t.Errorf("%s: the file was written to (%v)", name, err)
		}
		for _, p := range s.Processes(t) {
			if !strings.Contains(p.Args[0], "shim") && filepath.Base(p.Args[0]) != "pause" {
				t.Errorf("%s: still running: %v", name, p)
			}
		}
	}
	if err := os.WriteFile(db, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	s.WaitNode(t, booted)
}

func TestRefusedWrongToken(t *testing.T) {
	t.Parallel()
	s := newServer(t, testkit.NetworkConfig{}, bare...)
	s.Start(t, "--token", "the-first-secret-4711")
	s.WaitAPI(t, booted)
	s.Stop(t, 20*time.Second)
	refused(t, s, 1, []string{"--token", "another-secret-0815"}, "token")
	if strings.Contains(s.Output(), "another-secret-0815") {
		t.Error("the message shows the token")
	}
	s.Start(t, "--token", "the-first-secret-4711")
	s.WaitAPI(t, booted)
}

// TestRefusedClock: authorities that are valid from next year on look like a
// clock that is behind.
func TestRefusedClock(t *testing.T) {
	t.Parallel()
	s := newRefused(t, testkit.NetworkConfig{}, bare...)
	writeAuthority(t, filepath.Join(s.Data, "server", "tls"), "server-ca", time.Now().AddDate(1, 0, 0))
	fails(t, s, 1, nil, "clock", "server-ca")
}

// TestPortsOfTheNodeTaken: the API server runs, the port is named, and the
// node comes up once the port is free.
func TestPortsOfTheNodeTaken(t *testing.T) {
	t.Parallel()
	for _, port := range []int{10250, 10256} {
		t.Run(strconv.Itoa(port), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, testkit.NetworkConfig{}, bare...)
			l := s.Net.Listen(t, "tcp", fmt.Sprintf(":%d", port))
			s.Start(t)
			s.WaitAPI(t, booted)
			testkit.Eventually(t, soon, "the port in the server's log", func(context.Context) error {
				for line := range strings.Lines(s.Output()) {
					if strings.Contains(line, strconv.Itoa(port)) && (strings.Contains(line, "in use") || strings.Contains(line, "taken")) {
						return nil
					}
				}
				return fmt.Errorf("%d is not named", port)
			})
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			s.WaitNode(t, booted)
			runPod(t, s, "late")
		})
	}
}
