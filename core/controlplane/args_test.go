package controlplane

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMerge(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra []string
		want  string
		err   string
	}{
		{"nothing", nil, "--a=1 --list=x", ""},
		{"replaces", []string{"list=y"}, "--a=1 --list=y", ""},
		{"repeats append", []string{"list=y", "list=z"}, "--a=1 --list=y,z", ""},
		{"appends to the default", []string{"list+=y"}, "--a=1 --list=x,y", ""},
		{"prepends to the default", []string{"list-=y"}, "--a=1 --list=y,x", ""},
		{"append without a default", []string{"new+=y"}, "--a=1 --list=x --new=y", ""},
		{"dashes are dropped", []string{"--a=2"}, "--a=2 --list=x", ""},
		{"flag alone", []string{"new"}, "--a=1 --list=x --new=true", ""},
		{"empty removes", []string{"a="}, "--list=x", ""},
		{"value with equals", []string{"a=k=v"}, "--a=k=v --list=x", ""},
		{"no name", []string{"=v"}, "", `argument "=v" has no name, want name=value`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := argSet{"a": "1", "list": "x"}
			err := a.merge(tc.extra)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Fatalf("error %v, want %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(a.slice(), " "); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestArgsGolden(t *testing.T) {
	layout := datadir.Layout{Root: "/data", Etc: "/data/etc", Run: "/run/kelson/x", Bin: "/data/data/sha/bin"}
	network := config.Network{
		ClusterCIDR:   []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")},
		ServiceCIDR:   []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")},
		ClusterDomain: "cluster.local", NodePortMin: 30000, NodePortMax: 32767,
	}
	api, err := APIServerArgs(APIServerConfig{
		Layout: layout, Network: network, Encrypted: true,
		API:       config.API{Port: 6443, ExtraArgs: []string{"enable-admission-plugins+=AlwaysPullImages"}},
		Advertise: netip.MustParseAddr("192.0.2.1"), Datastore: "unix:///run/kelson/x/kine.sock",
	})
	golden(t, "apiserver.txt", api, err)
	sched, err := SchedulerArgs(layout, config.Component{ExtraArgs: []string{"leader-elect=true"}})
	golden(t, "scheduler.txt", sched, err)
	kcm, err := ControllerManagerArgs(layout, network, config.Component{})
	golden(t, "controllermanager.txt", kcm, err)
}

func golden(t *testing.T, name string, args []string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	got := strings.Join(args, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update after reading the difference):\n%s", path, got)
	}
}
