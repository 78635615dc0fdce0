package controlplane

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// APIServerConfig is what kube-apiserver's arguments are made from.
type APIServerConfig struct {
	Layout    datadir.Layout
	API       config.API
	Network   config.Network
	Encrypted bool // secrets: the encryption configuration exists or is made
	Advertise netip.Addr
	Datastore string // etcd endpoint URL
}

// APIServerArgs returns kube-apiserver's arguments. It does no I/O.
func APIServerArgs(c APIServerConfig) ([]string, error) {
	tls := c.Layout.TLS
	issuer := "https://kubernetes.default.svc." + c.Network.ClusterDomain
	args := argSet{
		"advertise-address":           c.Advertise.String(),
		"allow-privileged":            "true",
		"anonymous-auth":              "false",
		"api-audiences":               issuer + ",kelson",
		"authorization-mode":          "Node,RBAC",
		"bind-address":                bindAddress(c.API.BindAddress, c.Advertise),
		"cert-dir":                    tls("temporary-certs"),
		"client-ca-file":              tls("client-ca.crt"),
		"enable-admission-plugins":    "NodeRestriction",
		"enable-aggregator-routing":   "true",
		"enable-bootstrap-token-auth": "true",
		// The host publishes the endpoint: it follows the node's address.
		"endpoint-reconciler-type":           "none",
		"etcd-servers":                       c.Datastore,
		"feature-gates":                      "UnknownVersionInteroperabilityProxy=false",
		"kubelet-certificate-authority":      tls("server-ca.crt"),
		"kubelet-client-certificate":         tls("client-kube-apiserver.crt"),
		"kubelet-client-key":                 tls("client-kube-apiserver.key"),
		"kubelet-preferred-address-types":    "InternalIP,ExternalIP,Hostname",
		"profiling":                          "false",
		"proxy-client-cert-file":             tls("client-auth-proxy.crt"),
		"proxy-client-key-file":              tls("client-auth-proxy.key"),
		"requestheader-allowed-names":        "system:auth-proxy",
		"requestheader-client-ca-file":       tls("request-header-ca.crt"),
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"secure-port":                        strconv.Itoa(c.API.Port),
		"service-account-issuer":             issuer,
		"service-account-key-file":           tls("service.key"),
		"service-account-signing-key-file":   tls("service.key"),
		"service-cluster-ip-range":           joinPrefixes(c.Network.ServiceCIDR),
		"service-node-port-range":            fmt.Sprintf("%d-%d", c.Network.NodePortMin, c.Network.NodePortMax),
		// Watches are ended rather than waited for: pods hold them for ever.
		"shutdown-send-retry-after":               "true",
		"shutdown-watch-termination-grace-period": "1s",
		"tls-cert-file":                           tls("serving-kube-apiserver.crt"),
		"tls-cipher-suites":                       cipherSuites,
		"tls-min-version":                         "VersionTLS12",
		"tls-private-key-file":                    tls("serving-kube-apiserver.key"),
	}
	if c.Encrypted {
		args["encryption-provider-config"] = c.Layout.Cred("encryption-config.json")
		args["encryption-provider-config-automatic-reload"] = "true"
	}
	if err := args.merge(c.API.ExtraArgs); err != nil {
		return nil, fmt.Errorf("kube-apiserver-arg: %w", err)
	}
	return args.slice(), nil
}

// bindAddress is the wildcard of the node's own family when none was chosen:
// "::" serves IPv4 as well where the kernel maps it.
func bindAddress(chosen, advertise netip.Addr) string {
	if chosen.IsValid() && !chosen.IsUnspecified() {
		return chosen.String()
	}
	if advertise.Is6() {
		return "::"
	}
	return "0.0.0.0"
}
