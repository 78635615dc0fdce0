package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// builder turns merged layers into typed values and reports what does not fit.
type builder struct {
	*layers
	hostname string
}

func (b *builder) server() Server {
	data := absolute(b.one("data-dir"))
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
		AdvertisePort:    b.port("https-listen-port"),
		TLSSan:           b.sans("tls-san"),
		ExtraArgs:        b.args("kube-apiserver-arg"),
	}
	if len(b.get("advertise-port").items) > 0 {
		a.AdvertisePort = b.port("advertise-port")
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
	d := Datastore{
		Name:       b.one("datastore"),
		CAFile:     absolute(b.one("datastore-cafile")),
		CertFile:   absolute(b.one("datastore-certfile")),
		KeyFile:    absolute(b.one("datastore-keyfile")),
		Durability: b.one("datastore-durability"),
	}
	v := b.get("datastore-endpoint")
	if d.Endpoint = b.one("datastore-endpoint"); d.Endpoint != "" && d.Endpoint != "sqlite" && !strings.HasPrefix(d.Endpoint, "sqlite://") {
		scheme, _, found := strings.Cut(d.Endpoint, ":")
		if !found {
			scheme = "this endpoint"
		}
		b.add(v.Source, "datastore-endpoint", fmt.Sprintf("not supported: %s is not built in, and datastore plugins are not available in this version", scheme),
			"remove it to use the built-in sqlite")
	}
	if (d.CertFile == "") != (d.KeyFile == "") {
		name := "datastore-certfile"
		if d.CertFile == "" {
			name = "datastore-keyfile"
		}
		b.add(b.get(name).Source, name, "given alone", "give datastore-certfile and datastore-keyfile together")
	}
	return d
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
		KubeletArgs:       b.args("kubelet-arg"),
		KubeProxyArgs:     b.args("kube-proxy-arg"),
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
