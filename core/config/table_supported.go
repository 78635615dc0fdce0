package config

// Defaults that other layers also need.
const (
	DefaultDataDir = "/var/lib/kelson"
	defaultEtcDir  = "/etc/kelson"
	PauseImage     = "docker.io/kelson/pause:3.10.2"
)

func generalOptions() []Option {
	const group = "General"
	return []Option{
		{
			Name: "config", Short: 'c', Global: true, NoFile: true, Group: group, Env: "KELSON_CONFIG_FILE",
			Shown: "/etc/kelson/config.yaml", Help: "Configuration file; the *.yaml files of the folder of the same name with .d are read after it.",
		},
		{
			Name: "data-dir", Short: 'd', Global: true, Group: group, Default: DefaultDataDir,
			Help: "Folder that holds everything Kelson writes. With another than the default, /etc/kelson becomes the folder etc in it.",
		},
		{
			Name: "prefer-bundled-bin", Type: Bool, Group: group, Default: "false",
			Help: "Use the bundled userspace tools (nft, ip, mount, …) before the host's.",
		},
		{Name: "debug", Type: Bool, Group: group, Default: "false", Help: "Log debugging messages."},
		{Name: "log-format", Group: group, Default: "text", Values: choices("text", "json"), Ours: true, Help: "Format of the log."},
		{Name: "v", Short: 'v', Type: Number, Group: group, Default: "0", Env: "KELSON_VERBOSITY", Help: "Verbosity of the Kubernetes components, 0 to 10."},
		{
			Name: "token", Short: 't', Group: group, Secret: true,
			Help: "Secret that joining nodes present and that the bootstrap data is encrypted under; one is made when there is none.",
		},
		{Name: "token-file", Group: group, Help: "File that holds the token."},
	}
}

func listenerOptions() []Option {
	const group = "Listener"
	return []Option{
		{Name: "bind-address", Group: group, Shown: "all addresses", Help: "Address that the API server listens on."},
		{Name: "https-listen-port", Type: Number, Group: group, Default: "6443", Help: "Port of the API server."},
		{Name: "supervisor-port", Type: Number, Group: group, Default: "9345", Status: Warned, Note: noJoining, Help: "Port of the join API; nothing listens there yet."},
		{Name: "advertise-address", Group: group, Shown: "node-external-ip, else node-ip", Help: "Address that the API server tells its clients."},
		{Name: "tls-san", Type: List, Group: group, Help: "Further names and addresses of the API server's certificate."},
	}
}

func networkOptions() []Option {
	const group = "Network"
	return []Option{
		{Name: "cluster-cidr", Type: List, Group: group, Shown: "10.42.0.0/16; IPv6: fd00:42::/56", Help: "Addresses of pods, one prefix per address family."},
		{Name: "service-cidr", Type: List, Group: group, Shown: "10.43.0.0/16; IPv6: fd00:43::/112", Help: "Addresses of services, one prefix per address family."},
		{Name: "service-node-port-range", Group: group, Default: "30000-32767", Help: "Ports of NodePort services."},
		{Name: "cluster-dns", Type: List, Group: group, Shown: "10th address of service-cidr", Help: "Addresses of the cluster DNS service."},
		{Name: "cluster-domain", Group: group, Default: "cluster.local", Help: "DNS domain of the cluster."},
		{
			Name: "cni", Group: group, Default: "flannel", Ours: true,
			Help: "Network plugin that connects pods: flannel, bridge (one node only), the name of another plugin, or none to bring your own.",
		},
		{
			Name: "flannel-backend", Group: group, Default: "vxlan", Help: "How flannel reaches other nodes.",
			Values: append(choices("vxlan", "host-gw", "wireguard-native"),
				Choice{Value: "none", Status: Refused, Note: "another network is chosen by its name", Remedy: "set cni: none"}),
		},
		{Name: "flannel-iface", Group: group, Shown: "that of the node's first address", Help: "Interface that flannel uses to reach other nodes."},
		{Name: "plugin-catalog", Group: group, Ours: true, Shown: "/etc/kelson/plugin-catalog.yaml", Help: "Catalog of the plugins that may run beside the bundled ones."},
	}
}

func clientOptions() []Option {
	const group = "Client"
	return []Option{
		{Name: "write-kubeconfig", Short: 'o', Group: group, Env: "KELSON_KUBECONFIG_OUTPUT", Shown: "/etc/kelson/kelson.yaml", Help: "File that the administrator's kubeconfig is written to."},
		{Name: "write-kubeconfig-mode", Group: group, Env: "KELSON_KUBECONFIG_MODE", Default: "0600", Help: "Mode of that file."},
		{Name: "write-kubeconfig-group", Group: group, Env: "KELSON_KUBECONFIG_GROUP", Help: "Group of that file."},
		{Name: "write-kubeconfig-name", Group: group, Env: "KELSON_KUBECONFIG_NAME", Default: "default", Help: "Name of cluster, user and context in that file."},
	}
}

func datastoreOptions() []Option {
	const group = "Datastore"
	return []Option{
		{Name: "datastore", Group: group, Default: "sqlite", Values: choices("sqlite"), Ours: true, Help: "Where the cluster's state is kept."},
		{Name: "datastore-endpoint", Group: group, Secret: true, Help: "Data source of the datastore; the built-in one needs none, sqlite:// names it."},
		{
			Name: "datastore-durability", Group: group, Default: "fast", Values: choices("fast", "strict"), Ours: true,
			Help: "fast: a power cut may cost the last commits, never the file. strict: each commit is on disk before it is answered.",
		},
		{Name: "secrets-encryption", Type: Bool, Group: group, Default: "true", Help: "Encrypt secrets at rest."},
		{Name: "secrets-encryption-provider", Group: group, Default: "secretbox", Values: choices("secretbox", "aescbc", "aesgcm"), Help: "Cipher of secrets at rest."},
	}
}

func componentOptions() []Option {
	const group = "Components"
	return []Option{
		{Name: "kube-apiserver-arg", Type: Args, Group: group, Help: "Argument name=value of kube-apiserver; name+=value appends to Kelson's own, name-=value puts before it."},
		{Name: "kube-controller-manager-arg", Aliases: []string{"kube-controller-arg"}, Type: Args, Group: group, Help: "Argument of kube-controller-manager."},
		{Name: "kube-scheduler-arg", Type: Args, Group: group, Help: "Argument of kube-scheduler."},
		{Name: "disable-scheduler", Type: Bool, Group: group, Default: "false", Help: "Do not run the scheduler."},
		{Name: "disable-controller-manager", Type: Bool, Group: group, Default: "false", Hidden: true, Help: "Do not run the controller manager."},
		{Name: "disable-agent", Type: Bool, Group: group, Default: "false", Hidden: true, Help: "Run the control plane without a node."},
		{Name: "disable-kube-proxy", Type: Bool, Group: group, Default: "false", Help: "Do not run kube-proxy."},
		{Name: "disable", Type: List, Group: group, Help: "Packaged components that are not deployed.", Values: []Choice{
			{Value: "coredns"},
			{Value: "local-path"},
			{Value: "metrics-server"},
			{Value: "local-storage"}, // K3s' name of local-path
			{Value: "traefik", Status: Warned, Note: "it is not packaged"},
			{Value: "servicelb", Status: Warned, Note: "it is not packaged"},
			{Value: "runtimes", Status: Warned, Note: "they are not packaged"},
			{Value: "ccm", Status: Warned, Note: "it is not packaged"},
		}},
		{Name: "default-local-storage-path", Group: group, Shown: "<data-dir>/storage", Help: "Folder of local-path volumes."},
	}
}

func nodeOptions() []Option {
	const group = "Node"
	return []Option{
		{Name: "node-name", Group: group, Shown: "host name", Help: "Name of the node."},
		{Name: "node-ip", Short: 'i', Type: List, Group: group, Shown: "found by the default route", Help: "Addresses of the node, one per address family."},
		{Name: "node-external-ip", Type: List, Group: group, Help: "Addresses of the node that clients outside reach."},
		{Name: "node-label", Type: List, Group: group, Help: "Label key=value that the node registers with."},
		{Name: "node-taint", Type: List, Group: group, Help: "Taint key=value:effect that the node registers with."},
		{Name: "resolv-conf", Group: group, Shown: "the host's", Help: "Resolver configuration that the kubelet gives to pods."},
		{Name: "snapshotter", Group: group, Default: "overlayfs", Help: "containerd's snapshotter.", Values: []Choice{
			{Value: "overlayfs"},
			{Value: "native"},
			{Value: "fuse-overlayfs", Status: Refused, Note: "it is not built in"},
			{Value: "btrfs", Status: Refused, Note: "it is not built in"},
			{Value: "zfs", Status: Refused, Note: "it is not built in"},
			{Value: "stargz", Status: Refused, Note: "it is not built in"},
			{Value: "nix", Status: Refused, Note: "it is not built in"},
		}},
		{Name: "pause-image", Group: group, Default: PauseImage, Help: "Image of the pod sandbox."},
		{Name: "kubelet-arg", Type: Args, Group: group, Help: "Argument of the kubelet."},
		{Name: "kube-proxy-arg", Type: Args, Group: group, Help: "Argument of kube-proxy."},
		{Name: "protect-kernel-defaults", Type: Bool, Group: group, Default: "false", Help: "Fail when kernel settings differ from what the kubelet wants, rather than change them."},
		{Name: "kubelet-port", Type: Number, Group: group, Default: "10250", Ours: true, Help: "Port of the kubelet."},
		{Name: "containerd-log-size", Type: Number, Group: group, Default: "50", Ours: true, Help: "Size in MiB at which containerd's log file is rotated."},
	}
}
