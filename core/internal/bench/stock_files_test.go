package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commands are the stock programs with their arguments.
func (s *stock) commands() [][]string {
	d := s.dir
	rates := []string{"--kube-api-qps=500", "--kube-api-burst=1000", "--leader-elect=false"}
	return [][]string{
		{
			"etcd", "--data-dir=" + d + "/etcd", "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380",
		},
		{
			"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443", "--authorization-mode=Node,RBAC",
			"--advertise-address=" + s.net.Addr().String(), "--service-cluster-ip-range=10.43.0.0/16", "--client-ca-file=" + d + "/ca.crt",
			"--tls-cert-file=" + d + "/server.crt", "--tls-private-key-file=" + d + "/server.key", "--allow-privileged=true",
			"--service-account-key-file=" + d + "/sa.key", "--service-account-signing-key-file=" + d + "/sa.key",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--cert-dir=" + d + "/apiserver", "--anonymous-auth=true",
			"--kubelet-client-certificate=" + d + "/admin.crt", "--kubelet-client-key=" + d + "/admin.key",
		},
		append([]string{
			"kube-controller-manager", "--kubeconfig=" + d + "/admin.kubeconfig", "--service-account-private-key-file=" + d + "/sa.key",
			"--root-ca-file=" + d + "/ca.crt", "--use-service-account-credentials=true", "--cert-dir=" + d + "/kcm",
			"--allocate-node-cidrs=true", "--cluster-cidr=10.42.0.0/16",
		}, rates...),
		append([]string{"kube-scheduler", "--kubeconfig=" + d + "/admin.kubeconfig", "--cert-dir=" + d + "/ks"}, rates...),
		{"kubelet", "--config=" + d + "/kubelet.yaml", "--kubeconfig=" + d + "/kubelet.kubeconfig", "--root-dir=" + d + "/kubelet", "--cert-dir=" + d + "/kubelet-pki", "--hostname-override=bench", "--node-ip=" + s.net.Addr().String()},
		{"kube-proxy", "--config=" + d + "/proxy.yaml", "--hostname-override=bench"},
	}
}

func (s *stock) containerdArgs() []string { return []string{"--config", s.dir + "/containerd.toml"} }

// files are the configuration files by name.
func (s *stock) files() map[string]string {
	d := s.dir
	files := map[string]string{
		"containerd.toml": fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%[4]q]
    conf_dir = %[5]q
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "docker.io/kelson/pause:3.10.2"
`, d+"/croot", d+"/cstate", d+"/c.sock", s.cniDir(), d+"/cni"),
		"cni/10-bridge.conflist": fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bench","plugins":[
{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
 "ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.42.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, d+"/ipam"),
		"kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[1]s/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix://%[1]s/c.sock
clusterDomain: cluster.local
clusterDNS: [10.43.0.10]
resolvConf: /dev/null
podLogsDir: %[1]s/podlogs
volumePluginDir: %[1]s/volumeplugins
kubeAPIQPS: 500
kubeAPIBurst: 1000
`, d, filepath.Base(d)),
		"proxy.yaml": fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.42.0.0/16
oomScoreAdj: 0
clientConnection: {kubeconfig: %s/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0}
`, d),
	}
	for _, user := range []string{"admin", "kubelet", "proxy"} {
		files[user+".kubeconfig"] = fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: %[1]s/ca.crt}}]
users: [{name: u, user: {client-certificate: %[1]s/%[2]s.crt, client-key: %[1]s/%[2]s.key}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
`, d, user)
	}
	return files
}

// cniDir is a folder of links to the multi-exec CNI binary.
func (s *stock) cniDir() string {
	dir := filepath.Join(s.dir, "cnibin")
	if err := os.MkdirAll(dir, 0o755); err == nil {
		for name := range strings.FieldsSeq("bridge host-local loopback portmap bandwidth firewall") {
			_ = os.Symlink(filepath.Join(s.payload, "cni"), filepath.Join(dir, name))
		}
	}
	return dir
}

// stockPKI is one authority for everything.
type stockPKI struct {
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

func newStockPKI(b *testing.B, dir, address string) *stockPKI {
	b.Helper()
	p := &stockPKI{dir: dir}
	p.issue(b, "ca", pkix.Name{CommonName: "bench-ca"})
	p.issue(b, "server", pkix.Name{CommonName: "kube-apiserver"}, "127.0.0.1", "10.43.0.1", address)
	p.issue(b, "admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	p.issue(b, "kubelet", pkix.Name{CommonName: "system:node:bench", Organization: []string{"system:nodes"}})
	p.issue(b, "proxy", pkix.Name{CommonName: "system:kube-proxy"})
	p.issue(b, "sa", pkix.Name{CommonName: "service-account"})
	return p
}

// issue makes a key and a certificate; the first one is the authority.
func (p *stockPKI) issue(b *testing.B, name string, subject pkix.Name, addresses ...string) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	parent, signer := p.ca, p.key
	if parent == nil {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		parent, signer = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		b.Fatal(err)
	}
	if p.ca == nil {
		if p.ca, err = x509.ParseCertificate(raw); err != nil {
			b.Fatal(err)
		}
		p.key = key
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: raw},
		name + ".key": {Type: "EC PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(p.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
}
