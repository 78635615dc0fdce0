package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/cni/record"
)

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
