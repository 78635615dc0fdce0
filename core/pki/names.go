package pki

import (
	"path"
	"strings"

	"github.com/kelson-io/kelson/core/datadir"
)

// Authority names a certificate authority: its file under server/tls/ without
// the extension.
type Authority string

// The cluster's authorities.
const (
	ClientCA        Authority = "client-ca"         // signs who calls the API server
	ServerCA        Authority = "server-ca"         // signs what the API server and kubelets serve
	RequestHeaderCA Authority = "request-header-ca" // signs the API server's calls to aggregated APIs
	EtcdServerCA    Authority = "etcd/server-ca"
	EtcdPeerCA      Authority = "etcd/peer-ca"
)

// Authorities returns every authority, in a fixed order.
func Authorities() []Authority {
	return []Authority{ClientCA, ServerCA, RequestHeaderCA, EtcdServerCA, EtcdPeerCA}
}

// CertFile is the authority's certificate; further certificates of its chain may follow the first.
func (a Authority) CertFile(l datadir.Layout) string { return l.TLS(string(a) + ".crt") }

// KeyFile is the authority's private key.
func (a Authority) KeyFile(l datadir.Layout) string { return l.TLS(string(a) + ".key") }

// NoChainFile is the signing certificate alone, which is all that the signers
// of kube-controller-manager accept. It exists for ClientCA and ServerCA.
func (a Authority) NoChainFile(l datadir.Layout) string { return l.TLS(string(a) + ".nochain.crt") }

// commonNamePrefix starts the subject of a certificate that this package made
// for the authority; the time of its making follows.
func (a Authority) commonNamePrefix() string {
	return "kelson-" + strings.ReplaceAll(string(a), "/", "-") + "@"
}

// Leaf names a leaf certificate: its file under server/tls/ without the extension.
type Leaf string

// The leaf certificates.
const (
	ClientAdmin             Leaf = "client-admin"
	ClientSupervisor        Leaf = "client-supervisor"
	ClientController        Leaf = "client-controller"
	ClientScheduler         Leaf = "client-scheduler"
	ClientKubeAPIServer     Leaf = "client-kube-apiserver"
	ClientCloudController   Leaf = "client-cloud-controller"
	ClientKubelet           Leaf = "client-kubelet"
	ClientKubeProxy         Leaf = "client-kube-proxy"
	ClientAuthProxy         Leaf = "client-auth-proxy"
	ServingKubeAPIServer    Leaf = "serving-kube-apiserver"
	ServingKubelet          Leaf = "serving-kubelet"
	EtcdClient              Leaf = "etcd/client"
	EtcdServerClient        Leaf = "etcd/server-client"
	EtcdPeerServerClient    Leaf = "etcd/peer-server-client"
	serviceKeyName               = "service.key"
	organizationMasters          = "system:masters"
	organizationNodes            = "system:nodes"
	kubernetesServiceName        = "kubernetes"
	kubernetesServiceDomain      = "kubernetes.default.svc"
)

// CertFile is the leaf's certificate, with the intermediates that verify it.
func (n Leaf) CertFile(l datadir.Layout) string { return l.TLS(string(n) + ".crt") }

// KeyFile is the leaf's private key.
func (n Leaf) KeyFile(l datadir.Layout) string { return l.TLS(string(n) + ".key") }

// ServiceKeyFile is the key that service-account tokens are signed with.
func ServiceKeyFile(l datadir.Layout) string { return l.TLS(serviceKeyName) }

// BootstrapFiles returns, relative to server/, the files of this package that
// a joining server or a restore needs.
func BootstrapFiles() []string {
	var files []string
	for _, a := range Authorities() {
		files = append(files, path.Join("tls", string(a)+".crt"), path.Join("tls", string(a)+".key"))
	}
	return append(files, path.Join("tls", serviceKeyName))
}
