package agent

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (run with -update and review):\n%s", path, got)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// hosts are the kinds of host that configurations differ for.
func hosts() map[string]kernel.Facts {
	v2 := []string{"cpu", "cpuset", "io", "memory", "pids"}
	return map[string]kernel.Facts{
		"systemd-v2": {
			Cgroups: kernel.Cgroups{Version: 2, Controllers: v2, CFSQuota: true, Systemd: true}, Resource: true,
			NFTables: true, ConntrackWritable: true, AppArmor: true, IPv6: true, Systemd: true,
		},
		"systemd-v2-second": { // another data dir on the same host
			Cgroups: kernel.Cgroups{Version: 2, Controllers: v2, CFSQuota: true, Systemd: true}, Resource: true,
			NFTables: true, ConntrackWritable: true, AppArmor: true, IPv6: true, Systemd: true,
		},
		"container-v1": {
			Cgroups:  kernel.Cgroups{Version: 1, Controllers: []string{"cpu", "cpuset", "memory"}},
			IPTables: true, Overlay: errors.New("no overlay"),
		},
	}
}

func settingsFor(host string) (datadir.Layout, config.Node, NodeInfo, config.Network) {
	l := datadir.Layout{Root: "/var/lib/kelson", Etc: "/etc/kelson", Run: "/run/kelson/default", Bin: "/var/lib/kelson/data/abc/bin"}
	node := config.Node{KubeletPort: 10250, Labels: []string{"zone=a", "disk=ssd"}, Taints: []string{"only=me:NoSchedule", "bare:NoExecute"}}
	info := NodeInfo{Name: "one", IPs: addrs("192.0.2.10")}
	network := config.Network{ClusterCIDR: prefixes("10.42.0.0/16"), ClusterDNS: addrs("10.43.0.10"), ClusterDomain: "cluster.local"}
	if host == "systemd-v2-second" {
		l = datadir.Layout{Root: "/srv/two", Etc: "/srv/two/etc", Run: "/run/kelson/ab12cd34ef", Bin: "/srv/two/data/abc/bin"}
		node.KubeProxyArgs = []string{"proxy-mode=iptables", "masquerade-all=true", "metrics-bind-address=0.0.0.0:10249", "conntrack-min=1000", "nodeport-addresses=primary,198.51.100.0/24"}
	}
	if host == "container-v1" {
		l = datadir.Layout{Root: "/srv/two", Etc: "/srv/two/etc", Run: "/run/kelson/ab12cd34ef", Bin: "/srv/two/data/abc/bin"}
		node.KubeletArgs = []string{"max-pods=200", "--v=4"}
		info.IPs = addrs("2001:db8::10", "192.0.2.10")
		network = config.Network{ClusterCIDR: prefixes("fd00:42::/56", "10.42.0.0/16"), ClusterDNS: addrs("fd00:43::a", "10.43.0.10"), ClusterDomain: "two.test"}
	}
	return l, node, info, network
}

func TestConfigurationsGolden(t *testing.T) {
	for host, facts := range hosts() {
		t.Run(host, func(t *testing.T) {
			l, node, info, network := settingsFor(host)
			facts := nodeFacts(facts, l)
			credentials := Credentials{
				ClientCA: l.TLS("client-ca.crt"), ServingCert: l.TLS("serving-kubelet.crt"), ServingKey: l.TLS("serving-kubelet.key"),
				Kubeconfig: l.Cred("kubelet.kubeconfig"), ProxyKubeconfig: l.Cred("kube-proxy.kubeconfig"),
			}
			kubelet := KubeletSettings{
				Layout: l, Node: node, Info: info, Network: network, Credentials: credentials, Facts: facts,
				ResolvConf: "/etc/resolv.conf", CgroupRoot: CgroupRoot(l),
			}
			raw, err := encodeYAML(KubeletConfig(kubelet))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, host+".kubelet.yaml", raw)
			golden(t, host+".kubelet.args", []byte(strings.Join(KubeletArgs(kubelet), "\n")+"\n"))
			if err := yaml.UnmarshalStrict(raw, new(kubeletv1beta1.KubeletConfiguration)); err != nil {
				t.Error(err)
			}
			proxy, err := ProxyConfig(ProxySettings{Node: node, Info: info, Network: network, Credentials: credentials, Facts: facts})
			if err != nil {
				t.Fatal(err)
			}
			raw, err = encodeYAML(proxy)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, host+".proxy.yaml", raw)
			snapshotter, warning := chooseSnapshotter("", facts.Overlay)
			if (warning != "") != (facts.Overlay != nil) {
				t.Errorf("warning %q", warning)
			}
			settings := NewContainerdSettings(l, facts, snapshotter, "")
			settings.Unprivileged = true
			raw, err = RenderContainerdConfig(settings, "")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, host+".containerd.toml", raw)
			nodeNetwork := NodeNetwork{NodeName: "one", PodCIDRs: FirstPodCIDRs(network.ClusterCIDR), ClusterCIDRs: network.ClusterCIDR, MTU: 1450}
			raw, err = Conflist("cni0", l.Agent("cni", "networks"), "nftables", nodeNetwork)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, host+".conflist.json", raw)
			golden(t, host+".nft", []byte(nftRules("cni0", nodeNetwork)))
			golden(t, host+".iptables", []byte(iptablesRules("cni0", nodeNetwork, false)+iptablesRules("cni0", nodeNetwork, true)))
		})
	}
}

// TestOneCgroupDriver: with a cgroup root of its own the node takes cgroupfs, in
// containerd and kubelet alike.
func TestOneCgroupDriver(t *testing.T) {
	for host, want := range map[string]string{"systemd-v2": "systemd", "systemd-v2-second": "cgroupfs", "container-v1": "cgroupfs"} {
		l, node, info, network := settingsFor(host)
		facts := nodeFacts(hosts()[host], l)
		kubelet := KubeletConfig(KubeletSettings{Layout: l, Node: node, Info: info, Network: network, Facts: facts, CgroupRoot: CgroupRoot(l)})
		containerd := NewContainerdSettings(l, facts, "overlayfs", "")
		if kubelet.CgroupDriver != want || containerd.Systemd != (want == "systemd") {
			t.Errorf("%s: kubelet has %s, containerd systemd %v, want %s", host, kubelet.CgroupDriver, containerd.Systemd, want)
		}
	}
}

func TestContainerdTemplate(t *testing.T) {
	l, _, _, _ := settingsFor("systemd-v2")
	settings := NewContainerdSettings(l, hosts()["systemd-v2"], "overlayfs", "example.test/pause:1")
	raw, err := RenderContainerdConfig(settings, "{{ template \"base\" . }}\n[plugins.mine]\n  root = {{ .Root | quote }}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"version = 3", `sandbox = "example.test/pause:1"`, "[plugins.mine]\n  root = \"/var/lib/kelson/agent/containerd\""} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%q is missing in\n%s", want, raw)
		}
	}
	for name, bad := range map[string]string{"syntax": "{{ template", "unknown field": "{{ .Nothing }}", "unknown template": `{{ template "other" . }}`} {
		if _, err := RenderContainerdConfig(settings, bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNodeFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.json")
	want := NodeFile{KubeletConfig: "/k", KubeletArgs: []string{"--a=b"}, ProxyConfig: "/p", Verbosity: 2, LogFormat: "json"}
	if err := WriteNodeFile(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadNodeFile(path)
	if err != nil || got.KubeletConfig != "/k" || got.KubeletArgs[0] != "--a=b" || got.ProxyConfig != "/p" || got.Verbosity != 2 || got.LogFormat != "json" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]string{"empty": "", "no config": "{}", "unknown": `{"kubeletConfig":"/k","other":1}`} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadNodeFile(path); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestChooseResolvConf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", "# host\nsearch example.test\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n")
	stub := write("stub", "nameserver 127.0.0.53\noptions edns0\n")
	mixed := write("mixed", "nameserver 192.0.2.1\nnameserver ::1\n")
	none := write("none", "search example.test\n")
	generated := filepath.Join(dir, "generated")
	for _, c := range []struct {
		name, explicit string
		files          []string
		path           string
		content        bool
	}{
		{"explicit wins", "/mine", []string{good}, "/mine", false},
		{"host's own", "", []string{good, stub}, good, false},
		{"stub is passed over", "", []string{stub, good}, good, false},
		{"one loopback is too many", "", []string{mixed, good}, good, false},
		{"none usable", "", []string{stub, none, filepath.Join(dir, "missing")}, generated, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ChooseResolvConf(c.explicit, generated, c.files...)
			if got.Path != c.path || (got.Content != "") != c.content || (got.Warning != "") != c.content {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestChooseAddresses(t *testing.T) {
	host := func(link, ip string, routed, stable bool) address {
		return address{link: link, ip: netip.MustParseAddr(ip), routed: routed, stable: stable}
	}
	for _, c := range []struct {
		name       string
		candidates []address
		cluster    []netip.Prefix
		want, err  string
	}{
		{"default route", []address{host("eth1", "198.51.100.1", false, true), host("eth0", "192.0.2.1", true, true)}, prefixes("10.42.0.0/16"), "192.0.2.1", ""},
		{"only global", []address{host("eth1", "198.51.100.1", false, true)}, prefixes("10.42.0.0/16"), "198.51.100.1", ""},
		{"ambiguous", []address{host("eth1", "198.51.100.1", false, true), host("eth0", "192.0.2.1", false, true)}, prefixes("10.42.0.0/16"), "", "several global addresses"},
		{"none", []address{host("lo", "127.0.0.1", false, true)}, prefixes("10.42.0.0/16"), "", "no global IPv4 address"},
		{"family follows the cluster", []address{host("eth0", "192.0.2.1", true, true), host("eth0", "2001:db8::1", true, true)}, prefixes("fd00::/56", "10.42.0.0/16"), "2001:db8::1, 192.0.2.1", ""},
		{"temporary addresses are passed over", []address{host("eth0", "2001:db8::bad", true, false), host("eth0", "2001:db8::1", true, true)}, prefixes("fd00::/56"), "2001:db8::1", ""},
		{"lowest metric of several default routes", []address{
			{link: "wlan0", ip: netip.MustParseAddr("198.51.100.1"), routed: true, stable: true, metric: 600},
			{link: "eth0", ip: netip.MustParseAddr("192.0.2.1"), routed: true, stable: true, metric: 100},
			{link: "eth1", ip: netip.MustParseAddr("203.0.113.1"), routed: true, stable: true, metric: 100},
		}, prefixes("10.42.0.0/16"), "192.0.2.1", ""},
		{"missing family", []address{host("eth0", "192.0.2.1", true, true)}, prefixes("10.42.0.0/16", "fd00::/56"), "", "no global IPv6 address"},
		{"no cluster: IPv4 first", []address{host("eth0", "2001:db8::1", true, true), host("eth0", "192.0.2.1", true, true)}, nil, "192.0.2.1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := chooseAddresses(c.candidates, c.cluster)
			if join(got) != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			var hint interface{ Hint() string }
			if err != nil && !errors.As(err, &hint) {
				t.Errorf("no remedy in %v", err)
			}
		})
	}
}

func TestFirstPodCIDRs(t *testing.T) {
	for cluster, want := range map[string]string{
		"10.42.0.0/16": "10.42.0.0/24", "10.42.7.0/24": "10.42.7.0/24", "fd00:42::/56": "fd00:42::/64", "10.42.7.0/25": "", "192.168.3.9/20": "192.168.0.0/24",
	} {
		if got := join(FirstPodCIDRs(prefixes(cluster))); got != want {
			t.Errorf("%s: got %s, want %s", cluster, got, want)
		}
	}
}

func TestNodeName(t *testing.T) {
	for name, valid := range map[string]bool{"one": true, "one.example.test": true, "One": false, "": false, "a_b": false, "-a": false, strings.Repeat("a", 254): false} {
		if err := checkNodeName(name); (err == nil) != valid {
			t.Errorf("%q: %v", name, err)
		}
	}
}
