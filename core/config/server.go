package config

import "net/netip"

// Server is everything `kelson server` was told, validated and with defaults
// applied. It is a value: nothing writes to it after Load.
type Server struct {
	DataDir          string // absolute path
	EtcDir           string // /etc/kelson for the default data dir, else <DataDir>/etc
	ConfigFile       string // the config.yaml that was read, "" if none
	PreferBundledBin bool
	PluginCatalog    string // the administrator's; "": <EtcDir>/plugin-catalog.yaml, if it is there

	Log        Log
	Token      Token
	API        API
	Supervisor Supervisor
	Network    Network
	Kubeconfig Kubeconfig
	Datastore  Datastore
	Secrets    Secrets
	Scheduler  Component
	Controller Component
	Node       Node
	Addons     Addons

	Warnings []string // what was accepted without effect, for the log
}

// Log says how the host writes its log.
type Log struct {
	Debug   bool
	Format  string // "text" or "json"
	Verbose int    // klog's -v of the Kubernetes components
}

// Token is the secret that joining nodes present and that the bootstrap data
// is encrypted under. At most one of the two is set; neither: one is made.
type Token struct {
	Value string // never logged, never printed by config show
	File  string
}

// String says whether there is a token, never which.
func (t Token) String() string {
	switch {
	case t.Value != "":
		return "<secret>"
	case t.File != "":
		return "from " + t.File
	default:
		return "none"
	}
}

// GoString is String, so that %#v prints no secret either.
func (t Token) GoString() string { return t.String() }

// MarshalText is String, so that no encoder writes the secret.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// API is the listener and identity of kube-apiserver.
type API struct {
	BindAddress      netip.Addr // unspecified: all
	Port             int        // 6443
	AdvertiseAddress netip.Addr // invalid: the node's address
	TLSSan           []string   // further names and addresses of the serving certificate
	ExtraArgs        []string   // "name=value", replaces the default of that name; "name+=v" appends, "name-=v" prepends
}

// Supervisor is the join API's listener.
type Supervisor struct {
	Port int // 9345
}

// Network is the cluster's addressing. Each list holds one or two entries,
// at most one per address family; their families agree.
type Network struct {
	ClusterCIDR   []netip.Prefix
	ServiceCIDR   []netip.Prefix
	ClusterDNS    []netip.Addr
	ClusterDomain string
	NodePortMin   int
	NodePortMax   int

	CNI            string // name of the network plugin, or NoCNI
	FlannelBackend string // "vxlan", "host-gw" or "wireguard-native"
	FlannelIface   string // "": that of the node's first address
}

// NoCNI is the name of no network plugin: the user brings a network.
const NoCNI = "none"

// Kubeconfig is where the admin's kubeconfig goes.
type Kubeconfig struct {
	Path  string // default <EtcDir>/kelson.yaml
	Mode  uint32 // default 0600
	Group string
	Name  string // context, cluster and user name; default "default"
}

// Datastore selects where the cluster's state is kept.
type Datastore struct {
	Name       string // "sqlite"
	Durability string // "fast" (synchronous=NORMAL) or "strict" (FULL)
}

// Secrets is encryption of secrets at rest.
type Secrets struct {
	Encryption bool   // default true for a new cluster
	Provider   string // "secretbox" or "aescbc" or "aesgcm"
}

// Component is a control-plane component's pass-through.
type Component struct {
	Disabled  bool
	ExtraArgs []string // as API.ExtraArgs
}

// Node is the node part of a server, and all of an agent.
type Node struct {
	Disabled          bool         // --disable-agent
	Name              string       // default: lower-case host name
	IP                []netip.Addr // empty: detected
	ExternalIP        []netip.Addr
	Labels            []string // key=value
	Taints            []string // key=value:effect
	ResolvConf        string
	Snapshotter       string // overlayfs, native
	PauseImage        string
	KubeletArgs       []string
	KubeProxyArgs     []string
	DisableKubeProxy  bool
	ProtectKernel     bool // --protect-kernel-defaults
	KubeletPort       int  // 10250
	ContainerdLogSize int  // MiB before rotation, 50
}

// Addons are the packaged components.
type Addons struct {
	Disable          []string // names of packaged components
	LocalStoragePath string   // default <DataDir>/storage
}
