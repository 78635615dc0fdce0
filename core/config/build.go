package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// builder turns merged layers into typed values and reports what does not fit.
type builder struct {
	*layers
	hostname string
}

func (b *builder) server() Server {
	data := b.dataDir()
	s := Server{
		DataDir:          data,
		EtcDir:           EtcDir(data),
		ConfigFile:       b.configFile,
		PreferBundledBin: b.flag("prefer-bundled-bin"),
		Log:              Log{Debug: b.flag("debug"), Format: b.one("log-format"), Verbose: b.bounded("v", 0, 10)},
		Token:            b.token(),
		API:              b.api(),
		Supervisor:       Supervisor{Port: b.port("supervisor-port")},
		Datastore:        b.datastore(),
		Secrets:          Secrets{Encryption: b.flag("secrets-encryption"), Provider: b.one("secrets-encryption-provider")},
		Scheduler:        Component{Disabled: b.flag("disable-scheduler"), ExtraArgs: b.args("kube-scheduler-arg")},
		Controller:       Component{Disabled: b.flag("disable-controller-manager"), ExtraArgs: b.args("kube-controller-manager-arg")},
		Node:             b.node(),
	}
	if file := b.one("plugin-catalog"); file != "" {
		s.PluginCatalog = absolute(file)
	}
	s.Kubeconfig = b.kubeconfig(s.EtcDir)
	s.Addons = b.addons(data)
	s.Network = b.network(s)
	if !s.API.BindAddress.IsValid() {
		s.API.BindAddress = netip.IPv4Unspecified()
		if len(s.Network.ServiceCIDR) > 0 && s.Network.ServiceCIDR[0].Addr().Is6() {
			s.API.BindAddress = netip.IPv6Unspecified()
		}
	}
	b.checkPorts(s)
	return s
}

// dataDir refuses characters that the programs which get paths in it take for
// something else: sqlite for a query, containerd and kubelet for an escape,
// the shell-like splitting of flags and mount tables for an end.
func (b *builder) dataDir() string {
	const name = "data-dir"
	text := absolute(b.one(name))
	bad := func(r rune) bool { return strings.ContainsRune("?%#", r) || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	switch i := strings.IndexFunc(text, bad); {
	case text == "":
		b.add(b.get(name).Source, name, "empty", "write the path of a folder, such as "+DefaultDataDir)
	case i >= 0:
		r, _ := utf8.DecodeRuneInString(text[i:])
		b.add(b.get(name).Source, name, fmt.Sprintf("%q contains %q", text, r), "choose a path without ?, %, #, white space and control characters")
	}
	return text
}

func (b *builder) token() Token {
	t := Token{Value: b.one("token"), File: absolute(b.one("token-file"))}
	if t.Value != "" && t.File != "" {
		b.add(b.get("token-file").Source, "token-file", "given together with token", "keep one of the two")
	}
	if strings.ContainsAny(t.Value, " \t\r\n") {
		b.add(b.get("token").Source, "token", "contains white space", "write the token without spaces or line ends")
	}
	return t
}

func (b *builder) api() API {
	a := API{
		BindAddress:      b.address("bind-address"),
		Port:             b.port("https-listen-port"),
		AdvertiseAddress: b.address("advertise-address"),
		TLSSan:           b.sans("tls-san"),
		ExtraArgs:        b.args("kube-apiserver-arg"),
	}
	if a.AdvertiseAddress.IsValid() && a.AdvertiseAddress.IsUnspecified() {
		b.add(b.get("advertise-address").Source, "advertise-address", "not an address that can be reached", "write an address of this host, or remove it")
	}
	return a
}

func (b *builder) kubeconfig(etc string) Kubeconfig {
	k := Kubeconfig{
		Path:  absolute(b.one("write-kubeconfig")),
		Group: b.one("write-kubeconfig-group"),
		Name:  b.one("write-kubeconfig-name"),
	}
	if k.Path == "" {
		k.Path = filepath.Join(etc, "kelson.yaml")
	}
	v := b.get("write-kubeconfig-mode")
	mode, err := strconv.ParseUint(b.one(v.Option.Name), 8, 32)
	if err != nil || mode > 0o777 {
		b.add(v.Source, v.Option.Name, fmt.Sprintf("%q is not a file mode", b.one(v.Option.Name)), "write three octal digits, such as 0600")
	}
	k.Mode = uint32(mode)
	return k
}

func (b *builder) datastore() Datastore {
	b.checkEndpoint(b.one("datastore-endpoint"))
	return Datastore{Name: b.one("datastore"), Durability: b.one("datastore-durability")}
}

// checkEndpoint accepts nothing but the built-in datastore.
func (b *builder) checkEndpoint(endpoint string) {
	const name = "datastore-endpoint"
	scheme, rest, found := strings.Cut(endpoint, ":")
	switch {
	case endpoint == "", endpoint == "sqlite", endpoint == "sqlite://":
	case scheme == "sqlite":
		b.add(b.get(name).Source, name, fmt.Sprintf("not supported: the built-in sqlite has its file at server/db/state.db of the data dir, not at %s", strings.TrimPrefix(rest, "//")),
			"remove it; to keep an existing database, put its file there before the start")
	default:
		if !found {
			scheme = "this endpoint"
		}
		b.add(b.get(name).Source, name, fmt.Sprintf("not supported: %s is not built in, and datastore plugins are not available in this version", scheme),
			"remove it to use the built-in sqlite")
	}
}

func (b *builder) node() Node {
	n := Node{
		Disabled:          b.flag("disable-agent"),
		Name:              b.nodeName(),
		IP:                b.addresses("node-ip"),
		ExternalIP:        b.addresses("node-external-ip"),
		Labels:            b.labels("node-label"),
		Taints:            b.taints("node-taint"),
		ResolvConf:        absolute(b.one("resolv-conf")),
		Snapshotter:       b.one("snapshotter"),
		PauseImage:        b.one("pause-image"),
		KubeletArgs:       b.plainArgs("kubelet-arg"),
		KubeProxyArgs:     b.plainArgs("kube-proxy-arg"),
		DisableKubeProxy:  b.flag("disable-kube-proxy"),
		ProtectKernel:     b.flag("protect-kernel-defaults"),
		KubeletPort:       b.port("kubelet-port"),
		ContainerdLogSize: b.bounded("containerd-log-size", 1, 10240),
	}
	b.oncePerFamily("node-ip", n.IP)
	return n
}

func (b *builder) addons(data string) Addons {
	a := Addons{LocalStoragePath: absolute(b.one("default-local-storage-path"))}
	if a.LocalStoragePath == "" {
		a.LocalStoragePath = filepath.Join(data, "storage")
	}
	for _, it := range b.get("disable").items {
		switch it.text {
		case "coredns", "local-path", "metrics-server":
			a.Disable = append(a.Disable, it.text)
		case "local-storage": // K3s' name
			a.Disable = append(a.Disable, "local-path")
		}
	}
	return a
}

// port returns a port number.
func (b *builder) port(name string) int { return b.bounded(name, 1, 65535) }

// bounded returns a number between the limits, both included.
func (b *builder) bounded(name string, low, high int) int {
	n := b.number(name)
	if n < low || n > high {
		b.add(b.get(name).Source, name, fmt.Sprintf("%d is out of range", n), fmt.Sprintf("write a number from %d to %d", low, high))
	}
	return n
}

// args returns arguments for a component as name=value.
func (b *builder) args(name string) []string {
	var out []string
	for _, it := range b.get(name).items {
		arg := strings.TrimPrefix(it.text, "--")
		key, _, valued := strings.Cut(arg, "=")
		if !valued {
			arg += "=true"
		}
		if bare := strings.TrimRight(key, "+-"); bare == "" || strings.Trim(bare, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
			b.add(it.src, name, fmt.Sprintf("%q is not name=value", it.text), fmt.Sprintf("write one argument without dashes, such as %s: [v=2]", name))
			continue
		}
		out = append(out, arg)
	}
	return out
}

// plainArgs returns arguments for a component that has no lists of Kelson's to
// add to.
func (b *builder) plainArgs(name string) []string {
	for _, it := range b.get(name).items {
		key, _, _ := strings.Cut(it.text, "=")
		if bare := strings.TrimRight(key, "+-"); bare != key {
			b.add(it.src, name, fmt.Sprintf("%q adds to a list of Kelson's own, and there is none", it.text), fmt.Sprintf("write %s=VALUE with the whole value", strings.TrimLeft(bare, "-")))
		}
	}
	return b.args(name)
}
