package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kelson-io/kelson/sdk/cni"
)

// rig is a chain of two plugins that are shell scripts. Each writes what it got
// to calls, and does then what the file behave.<type> says.
type rig struct {
	*Chain

	t   *testing.T
	dir string
}

const script = `#!/bin/sh
conf=$(cat)
echo "$(basename $0) $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_ARGS" >> DIR/calls
env > DIR/env.$CNI_COMMAND
echo "$conf" > DIR/conf.$(basename $0).$CNI_COMMAND
[ -f DIR/behave.$(basename $0) ] && . DIR/behave.$(basename $0)
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.0.0.5/24"}]}'
exit 0
`

const list = `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"one","mark":"MARK"},{"type":"two","capabilities":{"portMappings":true}}]}`

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	for _, name := range []string{"one", "two"} {
		text := strings.ReplaceAll(script, "DIR", r.dir)
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.configure("first")
	return r
}

func (r *rig) configure(mark string) {
	r.t.Helper()
	var err error
	r.Chain, err = New(Options{
		Conflist: []byte(strings.Replace(list, "MARK", mark, 1)),
		BinDirs:  []string{filepath.Join(r.dir, "none"), r.dir}, CacheDir: filepath.Join(r.dir, "cache"), Path: "/usr/bin:/bin",
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) behave(plugin, what string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, "behave."+plugin), []byte(what), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) file(name string) string {
	raw, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return string(raw)
}

// calls are those since the last time.
func (r *rig) calls() []string {
	out := strings.Fields(strings.ReplaceAll(strings.TrimSpace(r.file("calls")), " ", "_"))
	os.Remove(filepath.Join(r.dir, "calls"))
	return out
}

// left are the files of the cache.
func (r *rig) left() (out []string) {
	r.t.Helper()
	err := filepath.WalkDir(filepath.Join(r.dir, "cache"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, filepath.Base(filepath.Dir(path))+"/"+d.Name())
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return out
}

func request(id string) *cni.Request {
	return &cni.Request{
		Attachment: cni.Attachment{ContainerID: id, IfName: "eth0"}, Netns: "/ns/" + id, Args: "A=1;B=2", CNIVersion: "1.1.0",
		RuntimeConfig: json.RawMessage(`{"portMappings":[{"hostPort":8080}],"bandwidth":{"ingressRate":1}}`),
	}
}

func TestAddDel(t *testing.T) {
	t.Setenv("CANARY", "secret")
	r := newRig(t)
	result, err := r.Add(t.Context(), request("c"))
	if err != nil {
		t.Fatal(err)
	}
	if result.IPs[0].Address.String() != "10.0.0.5/24" {
		t.Errorf("result %+v", result)
	}
	if got, want := r.calls(), []string{"one_ADD_c_/ns/c_A=1;B=2", "two_ADD_c_/ns/c_A=1;B=2"}; !slices.Equal(got, want) {
		t.Errorf("calls %q", got)
	}
	if conf := r.file("conf.two.ADD"); !strings.Contains(conf, `"runtimeConfig":{"portMappings":[{"hostPort":8080}]}`) || !strings.Contains(conf, "prevResult") {
		t.Errorf("configuration of the second: %s", conf)
	}
	if env := r.file("env.ADD"); strings.Contains(env, "CANARY") || !strings.Contains(env, "PATH=/usr/bin:/bin\n") {
		t.Errorf("environment:\n%s", env)
	}
	if got := r.left(); !slices.Equal(got, []string{"results/net-c-eth0"}) {
		t.Errorf("cache %q", got)
	}
	r.configure("second")
	del := &cni.Request{Attachment: request("c").Attachment, CNIVersion: "1.1.0"} // the netns has gone
	for range 3 {
		if err := r.Del(t.Context(), del); err != nil {
			t.Fatal(err)
		}
	}
	calls := r.calls()
	if want := []string{"two_DEL_c__A=1;B=2", "one_DEL_c__A=1;B=2"}; len(calls) != 6 || !slices.Equal(calls[:2], want) {
		t.Errorf("calls %q", calls)
	}
	if got := r.left(); len(got) != 0 {
		t.Errorf("cache %q", got)
	}
}

func TestDelAsAdded(t *testing.T) {
	r := newRig(t)
	if _, err := r.Add(t.Context(), request("c")); err != nil {
		t.Fatal(err)
	}
	r.configure("second")
	if err := r.Del(t.Context(), &cni.Request{Attachment: request("c").Attachment}); err != nil {
		t.Fatal(err)
	}
	if conf := r.file("conf.one.DEL"); !strings.Contains(conf, `"mark":"first"`) {
		t.Errorf("detached with another configuration: %s", conf)
	}
	if conf := r.file("conf.two.DEL"); !strings.Contains(conf, "8080") || !strings.Contains(conf, "prevResult") {
		t.Errorf("detached without what the runtime gave: %s", conf)
	}
}

func TestFailedAdd(t *testing.T) {
	r := newRig(t)
	r.behave("two", `[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","code":7,"msg":"no","details":"d"}' && exit 1`)
	_, err := r.Add(t.Context(), request("c"))
	if cni.CodeOf(err) != 7 || !strings.Contains(err.Error(), "no; d") {
		t.Fatalf("error %v", err)
	}
	r.configure("second")
	removed, err := r.Collect(t.Context(), nil)
	if err != nil || len(removed) != 1 {
		t.Fatalf("collect %v, %v", removed, err)
	}
	if got := r.file("conf.one.DEL"); !strings.Contains(got, `"mark":"first"`) {
		t.Errorf("collected with another configuration: %s", got)
	}
	if calls := r.calls(); !slices.Contains(calls, "one_DEL_c_/ns/c_A=1;B=2") || len(r.left()) != 0 {
		t.Errorf("calls %q, cache %q", calls, r.left())
	}
}

func TestCollect(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"keep", "gone", "stuck", "torn"} {
		if _, err := r.Add(t.Context(), request(id)); err != nil {
			t.Fatal(err)
		}
	}
	// Killed while libcni wrote its cache, so that the intent is still there.
	if err := r.begin(request("torn")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "cache/results/net-torn-eth0"), []byte(`{"kind`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.intents(), ".x.1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.behave("one", `[ $CNI_CONTAINERID = stuck ] && exit 3`)
	removed, err := r.Collect(t.Context(), []cni.Attachment{request("keep").Attachment})
	if err == nil || !strings.Contains(err.Error(), "detach stuck eth0") {
		t.Errorf("error %v", err)
	}
	var ids []string
	for _, a := range removed {
		ids = append(ids, a.ContainerID)
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"gone", "torn"}) {
		t.Errorf("removed %q", ids)
	}
	if got := r.left(); !slices.Equal(got, []string{"results/net-keep-eth0", "results/net-stuck-eth0"}) {
		t.Errorf("cache %q", got)
	}
}

// TestEndOfTime has a plugin that started a child and hangs.
func TestEndOfTime(t *testing.T) {
	r := newRig(t)
	r.behave("one", fmt.Sprintf("sleep 300 & echo $! > %s/child; wait", r.dir))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := r.Add(ctx, request("c"))
	if cni.CodeOf(err) != cni.CodeTryAgain {
		t.Errorf("error %v", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(r.file("child")))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); alive(child); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what the plugin started still runs")
		}
	}
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestOutputIsBounded(t *testing.T) {
	r := newRig(t)
	r.behave("one", `head -c 3000000 /dev/zero; exit 0`)
	if _, err := r.Add(t.Context(), request("c")); err == nil {
		t.Error("three megabytes were taken")
	}
	r.behave("one", `echo "only words" >&2; exit 1`)
	if _, err := r.Add(t.Context(), request("c")); err == nil || !strings.Contains(err.Error(), "only words") {
		t.Errorf("error %v", err)
	}
}

func TestNew(t *testing.T) {
	for name, o := range map[string]Options{
		"no list":        {CacheDir: "/x"},
		"relative cache": {Conflist: []byte(list), CacheDir: "x"},
	} {
		if _, err := New(o); cni.CodeOf(err) != cni.CodeConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newRig(t)
	if err := os.Remove(filepath.Join(r.dir, "two")); err != nil {
		t.Fatal(err)
	}
	if got := r.Missing(); !slices.Equal(got, []string{"two"}) {
		t.Errorf("missing %q", got)
	}
}
