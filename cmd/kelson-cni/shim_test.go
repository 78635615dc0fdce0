package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/cni/record"
)

const okResult = `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`

// TestMain is the shim when the test's program is executed as such.
func TestMain(m *testing.M) {
	if os.Getenv("KELSON_CNI_TEST_SHIM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// plugin is what answers on a socket. answer nil closes the connection.
type plugin struct {
	t      testing.TB
	path   string
	socket net.Listener

	mu       sync.Mutex
	requests []*frame.Request
	answer   func(*frame.Request) *frame.Reply
}

func (p *plugin) listen() {
	p.t.Helper()
	var err error
	if p.socket, err = net.Listen("unix", p.path); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.socket.Close() })
	go func(l net.Listener) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.converse(conn)
		}
	}(p.socket)
}

func (p *plugin) converse(conn net.Conn) {
	defer conn.Close()
	r, err := frame.ReadRequest(conn)
	if err != nil {
		return // a DEL's first look, or a shim that gave up
	}
	p.mu.Lock()
	p.requests = append(p.requests, r)
	answer := p.answer
	p.mu.Unlock()
	if reply := answer(r); reply != nil {
		raw, err := reply.Append(nil)
		if err != nil {
			p.t.Error(err)
		}
		_, _ = conn.Write(raw)
	}
}

func (p *plugin) behave(answer func(*frame.Request) *frame.Reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *plugin) request(i int) *frame.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests[i]
}

func (p *plugin) verbs() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.requests {
		out = append(out, r.Verb.String())
	}
	return out
}

func fine(r *frame.Request) *frame.Reply {
	if r.Verb == frame.Add {
		return &frame.Reply{JSON: []byte(okResult)}
	}
	return &frame.Reply{}
}

func failing(code int) func(*frame.Request) *frame.Reply {
	return func(*frame.Request) *frame.Reply {
		return &frame.Reply{Failed: true, JSON: fmt.Appendf(nil, `{"cniVersion":"1.1.0","code":%d,"msg":"no"}`, code)}
	}
}

// node is a shim's surroundings.
type node struct {
	*plugin

	dir              string
	records, journal record.Dir
	limits           limits
}

func newNode(t testing.TB) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim") //nolint:usetesting // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := usual()
	l.wait, l.lock, l.poll = 200*time.Millisecond, 200*time.Millisecond, 5*time.Millisecond
	return &node{
		plugin:  &plugin{t: t, path: filepath.Join(dir, "s"), answer: fine},
		dir:     dir,
		records: record.Dir(filepath.Join(dir, "attachments")), journal: record.Dir(filepath.Join(dir, "journal")), limits: l,
	}
}

func (n *node) conf() []byte {
	return fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":"kelson","type":"kelson-cni","secret":"s3cret","kelson":{"socket":%q,"records":%q,"journal":%q,"plugin":"p1"}}`,
		n.path, n.records, n.journal)
}

func env(command string) []string {
	return []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_NETNS=/run/netns/n1",
		"CNI_ARGS=K8S_POD_NAME=x", "CNI_PATH=/bin", "HOME=/x", "TOKEN=canary",
	}
}

func (n *node) run(command string) (string, int) { return n.runWith(env(command), n.conf()) }

func (n *node) runWith(env []string, conf []byte) (string, int) {
	var out bytes.Buffer
	s := shim{env: env, stdin: bytes.NewReader(conf), stdout: &out, limits: n.limits}
	exit := s.run()
	if strings.Contains(out.String(), "s3cret") {
		n.t.Errorf("the answer repeats the configuration: %s", out.String())
	}
	return out.String(), exit
}

func codeOf(t testing.TB, out string) int {
	t.Helper()
	var e struct {
		CNIVersion string `json:"cniVersion"`
		Code       int    `json:"code"`
		Msg        string `json:"msg"`
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.Msg == "" || e.CNIVersion == "" {
		t.Fatalf("no error object: %q, %v", out, err)
	}
	return e.Code
}

func (n *node) in(d record.Dir) []record.Record {
	n.t.Helper()
	list, err := d.List()
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

func TestAddAndDel(t *testing.T) {
	n := newNode(t)
	n.listen()
	out, exit := n.run("ADD")
	if exit != 0 || out != okResult+"\n" {
		t.Fatalf("ADD %d: %s", exit, out)
	}
	r := n.request(0)
	if !slices.Equal(r.Env, env("ADD")[:6]) || !bytes.Equal(r.Stdin, n.conf()) || r.Deadline != usual().add {
		t.Errorf("request %+v", r)
	}
	list := n.in(n.records)
	want := record.Record{Plugin: "p1", Socket: n.path, ContainerID: "c1", IfName: "eth0", Netns: "/run/netns/n1"}
	if len(list) != 1 || list[0].Time == "" {
		t.Fatalf("records %+v", list)
	}
	if list[0].Time = ""; list[0] != want {
		t.Errorf("record %+v", list[0])
	}
	for range 3 {
		if out, exit := n.runWith(slices.Delete(env("DEL"), 3, 4), n.conf()); exit != 0 || out != "" {
			t.Errorf("DEL %d: %s", exit, out)
		}
	}
	if left := append(n.in(n.records), n.in(n.journal)...); len(left) != 0 {
		t.Errorf("left %+v", left)
	}
}

// TestDelGoesToWhoAttached has another plugin configured meanwhile.
func TestDelGoesToWhoAttached(t *testing.T) {
	n := newNode(t)
	n.listen()
	if _, exit := n.run("ADD"); exit != 0 {
		t.Fatal("ADD failed")
	}
	other := newNode(t)
	other.records, other.journal = n.records, n.journal
	other.listen()
	if _, exit := other.run("DEL"); exit != 0 {
		t.Fatal("DEL failed")
	}
	if got := n.verbs(); !slices.Equal(got, []string{"ADD", "DEL"}) || len(other.verbs()) != 0 {
		t.Errorf("old %v, new %v", got, other.verbs())
	}
}

func TestDelIsJournaled(t *testing.T) {
	for name, c := range map[string]func(*node){
		"plugin was never there": func(*node) {},
		"stale socket": func(n *node) {
			n.listen()
			n.socket.(*net.UnixListener).SetUnlinkOnClose(false)
			n.socket.Close()
		},
		"plugin dies of it": func(n *node) {
			n.behave(func(*frame.Request) *frame.Reply { return nil })
			n.listen()
		},
		"plugin hangs": func(n *node) {
			n.behave(func(*frame.Request) *frame.Reply { <-n.t.(*testing.T).Context().Done(); return nil })
			n.limits.del, n.limits.grace = 20*time.Millisecond, 0
			n.listen()
		},
		"try again": func(n *node) { n.behave(failing(11)); n.listen() },
		"answers nonsense": func(n *node) {
			n.behave(func(*frame.Request) *frame.Reply { return &frame.Reply{Failed: true} })
			n.listen()
		},
		"records are locked": func(n *node) { n.listen(); lockRecords(n) },
		"no socket":          func(n *node) { os.WriteFile(n.path, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if err := n.records.Put(record.Record{Plugin: "old", Socket: n.path, ContainerID: "c1", IfName: "eth0", Netns: "/run/netns/n1"}); err != nil {
				t.Fatal(err)
			}
			c(n)
			if out, exit := n.run("DEL"); exit != 0 || out != "" {
				t.Fatalf("DEL %d: %s", exit, out)
			}
			list := n.in(n.journal)
			if len(list) != 1 || list[0].Plugin != "old" || list[0].Netns != "/run/netns/n1" {
				t.Errorf("journal %+v", list)
			}
			if left := n.in(n.records); len(left) != 0 {
				t.Errorf("records %+v", left)
			}
		})
	}
}

// lockRecords is the host that collects.
func lockRecords(n *node) {
	n.t.Helper()
	if err := os.MkdirAll(string(n.records), 0o700); err != nil {
		n.t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(string(n.records), record.LockName))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { f.Close() })
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		n.t.Fatal(err)
	}
}

func TestDelFails(t *testing.T) {
	n := newNode(t)
	n.behave(failing(5))
	n.listen()
	if out, exit := n.run("DEL"); exit != 1 || codeOf(t, out) != 5 {
		t.Errorf("refused: %d, %s", exit, out)
	}
	n.socket.Close()
	if err := os.WriteFile(string(n.journal), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, exit := n.run("DEL"); exit != 1 || codeOf(t, out) != 5 {
		t.Errorf("no journal: %d, %s", exit, out)
	}
}

func TestAddWaitsForThePlugin(t *testing.T) {
	n := newNode(t)
	n.limits.wait = 20 * time.Second
	type outcome struct {
		out  string
		exit int
	}
	done := make(chan outcome)
	go func() {
		out, exit := n.run("ADD")
		done <- outcome{out, exit}
	}()
	select {
	case got := <-done:
		t.Fatalf("did not wait: %+v", got)
	case <-time.After(50 * time.Millisecond):
	}
	n.listen()
	if got := <-done; got.exit != 0 {
		t.Errorf("ADD: %+v", got)
	}
}

func TestAddSaysTryAgain(t *testing.T) {
	for name, c := range map[string]func(*node){
		"plugin is away": func(*node) {},
		"plugin hangs": func(n *node) {
			n.behave(func(*frame.Request) *frame.Reply { <-n.t.(*testing.T).Context().Done(); return nil })
			n.limits.add, n.limits.grace = 20*time.Millisecond, 0
			n.listen()
		},
		"plugin dies twice": func(n *node) {
			n.answer = func(r *frame.Request) *frame.Reply {
				if r.Verb == frame.Add {
					return nil
				}
				return &frame.Reply{}
			}
			n.listen()
		},
		"records are locked": func(n *node) { n.listen(); lockRecords(n) },
		"plugin says so":     func(n *node) { n.behave(failing(11)); n.listen() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c(n)
			if out, exit := n.run("ADD"); exit != 1 || codeOf(t, out) != 11 {
				t.Errorf("ADD %d: %s", exit, out)
			}
			if left := n.in(n.records); len(left) != 0 {
				t.Errorf("records %+v", left)
			}
		})
	}
}

// TestAddAfterDeath has the plugin end during the first try.
func TestAddAfterDeath(t *testing.T) {
	n := newNode(t)
	var died atomic.Bool
	n.answer = func(r *frame.Request) *frame.Reply {
		if r.Verb == frame.Add && !died.Swap(true) {
			return nil
		}
		return fine(r)
	}
	n.listen()
	if out, exit := n.run("ADD"); exit != 0 || out != okResult+"\n" {
		t.Errorf("ADD %d: %s", exit, out)
	}
	if got := n.verbs(); !slices.Equal(got, []string{"ADD", "DEL", "ADD"}) {
		t.Errorf("verbs %v", got)
	}
	if r := n.request(1); r.Env[0] != "CNI_COMMAND=DEL" {
		t.Errorf("environment of the DEL: %q", r.Env)
	}
}

func TestAddWithoutRecordIsUndone(t *testing.T) {
	n := newNode(t)
	n.listen()
	if err := os.MkdirAll(filepath.Join(string(n.records), "c1-eth0.json"), 0o700); err != nil {
		t.Fatal(err) // a folder, so that no file can take its name
	}
	if out, exit := n.run("ADD"); exit != 1 || codeOf(t, out) != 5 {
		t.Errorf("ADD %d: %s", exit, out)
	}
	if got := n.verbs(); !slices.Equal(got, []string{"ADD", "DEL"}) {
		t.Errorf("verbs %v", got)
	}
}

func TestStatusInTime(t *testing.T) {
	n := newNode(t)
	n.limits.status = 100 * time.Millisecond
	if out, _ := n.run("STATUS"); codeOf(t, out) != 50 {
		t.Errorf("away: %s", out)
	}
	n.behave(func(*frame.Request) *frame.Reply { <-t.Context().Done(); return nil })
	n.listen()
	if out, _ := n.run("STATUS"); codeOf(t, out) != 50 {
		t.Errorf("hangs: %s", out)
	}
	n.behave(failing(51))
	if out, _ := n.run("STATUS"); codeOf(t, out) != 51 {
		t.Errorf("limited: %s", out)
	}
	n.behave(fine)
	if out, exit := n.run("STATUS"); exit != 0 || out != "" {
		t.Errorf("ready: %d, %s", exit, out)
	}
}

// TestFullBacklog has a plugin that was stopped: nobody accepts, and later not
// even the kernel.
func TestFullBacklog(t *testing.T) {
	n := newNode(t)
	n.limits.status = 100 * time.Millisecond
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: n.path}), syscall.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		began := time.Now()
		if out, exit := n.run("STATUS"); exit != 1 || codeOf(t, out) != 50 {
			t.Errorf("STATUS %d: %s", i, out)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("STATUS %d took %v", i, took)
		}
		if i > 2 { // keeps the backlog full
			c, err := connect(n.path, 10*time.Millisecond)
			if err == nil {
				defer c.close()
			}
		}
	}
	n.limits.del, n.limits.grace = 20*time.Millisecond, 0
	if out, exit := n.run("DEL"); exit != 0 || len(n.in(n.journal)) != 1 {
		t.Errorf("DEL: %d, %s", exit, out)
	}
}

func TestVersionCheckGC(t *testing.T) {
	n := newNode(t)
	for in, want := range map[string]string{
		``:                       `{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`,
		`{"cniVersion":"1.0.0"}`: `{"cniVersion":"1.0.0","supportedVersions":["1.0.0","1.1.0"]}`,
		`{"cniVersion":"0.4.0"}`: `{"cniVersion":"0.4.0","supportedVersions":["1.0.0","1.1.0"]}`,
	} {
		if out, exit := n.runWith([]string{"CNI_COMMAND=VERSION"}, []byte(in)); exit != 0 || out != want+"\n" {
			t.Errorf("VERSION of %s: %d, %s", in, exit, out)
		}
	}
	if out, _ := n.run("CHECK"); codeOf(t, out) != 11 {
		t.Errorf("CHECK without plugin: %s", out)
	}
	n.listen()
	for _, command := range []string{"CHECK", "GC"} {
		if out, exit := n.run(command); exit != 0 || out != "" {
			t.Errorf("%s: %d, %s", command, exit, out)
		}
	}
	if out, exit := n.runWith(nil, nil); exit != 0 || !strings.Contains(out, "1.0.0, 1.1.0") {
		t.Errorf("by hand: %d, %s", exit, out)
	}
}

func TestRefused(t *testing.T) {
	n := newNode(t)
	n.listen()
	conf := string(n.conf())
	for name, c := range map[string]struct {
		env  []string
		conf string
		want int
	}{
		"command":        {env("FLY"), conf, 4},
		"id is a path":   {append(env("DEL"), "CNI_CONTAINERID=../x"), conf, 4},
		"no id":          {append(env("ADD"), "CNI_CONTAINERID="), conf, 4},
		"interface":      {append(env("ADD"), "CNI_IFNAME=a/b"), conf, 4},
		"long interface": {append(env("ADD"), "CNI_IFNAME=abcdefghijklmnop"), conf, 4},
		"no netns":       {append(env("ADD"), "CNI_NETNS="), conf, 4},
		"long variable":  {append(env("ADD"), "CNI_ARGS="+strings.Repeat("x", maxEnv)), conf, 4},
		"many variables": {append(env("ADD"), slices.Repeat([]string{"CNI_X=1"}, frame.MaxEnv)...), conf, 4},
		"no JSON":        {env("ADD"), conf[1:], 6},
		"empty":          {env("ADD"), "", 6},
		"too long":       {env("ADD"), conf + strings.Repeat(" ", frame.Max), 7},
		"just too long":  {env("ADD"), conf + strings.Repeat(" ", frame.Max-len(conf)-10), 7},
		"old version":    {env("ADD"), strings.Replace(conf, "1.1.0", "0.4.0", 1), 1},
		"no version":     {env("ADD"), strings.Replace(conf, "cniVersion", "x", 1), 1},
		"no socket":      {env("ADD"), strings.Replace(conf, `"socket"`, `"x"`, 1), 7},
		"relative":       {env("ADD"), strings.Replace(conf, string(n.journal), "journal", 1), 7},
		"no kelson":      {env("STATUS"), `{"cniVersion":"1.0.0"}`, 7},
	} {
		t.Run(name, func(t *testing.T) {
			if out, exit := n.runWith(c.env, []byte(c.conf)); exit != 1 || codeOf(t, out) != c.want {
				t.Errorf("%d, %s; want code %d", exit, out, c.want)
			}
		})
	}
	if got := n.verbs(); len(got) != 0 {
		t.Errorf("the plugin was asked: %v", got)
	}
}

// build builds the shim as it ships.
func build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kelson-cni")
	c := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func (n *node) exec(program, id, command string) ([]byte, error) {
	c := exec.Command(program)
	c.Env = append(env(command), "CNI_CONTAINERID="+id)
	c.Stdin = bytes.NewReader(n.conf())
	return c.Output()
}

// TestProgram runs the program 32 times at once, with few file descriptors.
func TestProgram(t *testing.T) {
	program := build(t)
	n := newNode(t)
	n.listen()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			c := exec.Command("/bin/sh", "-c", "ulimit -n 6 -c 0 -s 256; exec "+program)
			c.Env = append(env("ADD"), fmt.Sprint("CNI_CONTAINERID=c", i))
			c.Stdin = bytes.NewReader(n.conf())
			if out, err := c.Output(); err != nil || string(out) != okResult+"\n" {
				t.Errorf("ADD %d: %v, %s", i, err, out)
			}
		})
	}
	wg.Wait()
	if list := n.in(n.records); len(list) != 32 {
		t.Errorf("%d records", len(list))
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("%d bytes", info.Size()); info.Size() > 3<<20 {
		t.Errorf("the shim has %d bytes, at most 3 MiB", info.Size())
	}
}

// TestSmall keeps heavy packages out.
func TestSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		for _, heavy := range []string{"net", "fmt", "encoding/json", "google.golang.org/grpc"} {
			if pkg == heavy {
				t.Errorf("the shim links %s", pkg)
			}
		}
	}
}

// BenchmarkExec is exec to reply. ADD includes the record's fsync.
func BenchmarkExec(b *testing.B) {
	program := build(b)
	for _, command := range []string{"STATUS", "ADD", "DEL"} {
		b.Run(command, func(b *testing.B) {
			n := newNode(b)
			n.listen()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if out, err := n.exec(program, "c1", command); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
