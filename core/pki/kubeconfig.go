package pki

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"sigs.k8s.io/yaml"
)

// kubeconfig is the part of a client configuration that is written here.
type kubeconfig struct {
	APIVersion     string         `json:"apiVersion"`
	Kind           string         `json:"kind"`
	Clusters       []namedCluster `json:"clusters"`
	Contexts       []namedContext `json:"contexts"`
	CurrentContext string         `json:"current-context"`
	Users          []namedUser    `json:"users"`
}

type namedCluster struct {
	Name    string  `json:"name"`
	Cluster cluster `json:"cluster"`
}

type cluster struct {
	Server                   string `json:"server"`
	CertificateAuthority     string `json:"certificate-authority,omitempty"`
	CertificateAuthorityData []byte `json:"certificate-authority-data,omitempty"`
}

type namedContext struct {
	Name    string         `json:"name"`
	Context contextDetails `json:"context"`
}

type contextDetails struct {
	Cluster string `json:"cluster"`
	User    string `json:"user"`
}

type namedUser struct {
	Name string   `json:"name"`
	User authInfo `json:"user"`
}

type authInfo struct {
	ClientCertificate     string `json:"client-certificate,omitempty"`
	ClientCertificateData []byte `json:"client-certificate-data,omitempty"`
	ClientKey             string `json:"client-key,omitempty"`
	ClientKeyData         []byte `json:"client-key-data,omitempty"`
}

// KubeconfigName names a kubeconfig: its file under server/cred/ without the extension.
type KubeconfigName string

// The kubeconfigs of the components of this node.
const (
	KubeconfigAdmin      KubeconfigName = "admin"
	KubeconfigSupervisor KubeconfigName = "supervisor"
	KubeconfigController KubeconfigName = "controller"
	KubeconfigScheduler  KubeconfigName = "scheduler"
	KubeconfigKubelet    KubeconfigName = "kubelet"
	KubeconfigKubeProxy  KubeconfigName = "kube-proxy"
)

// File is the kubeconfig's path.
func (k KubeconfigName) File(l datadir.Layout) string {
	return l.Cred(string(k) + ".kubeconfig")
}

// Kubeconfigs writes the kubeconfigs of the components, which refer to the
// certificate files so that a renewed certificate is picked up, and the
// administrator's, which embeds them so that it can be copied elsewhere.
// server is the API server's URL. EnsureLeaves comes first.
func (s *Store) Kubeconfigs(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = server
	users := []struct {
		name KubeconfigName
		leaf Leaf
	}{
		{KubeconfigAdmin, ClientAdmin},
		{KubeconfigSupervisor, ClientSupervisor},
		{KubeconfigController, ClientController},
		{KubeconfigScheduler, ClientScheduler},
		{KubeconfigKubelet, ClientKubelet},
		{KubeconfigKubeProxy, ClientKubeProxy},
	}
	work := []func() error{s.adminKubeconfig}
	for _, u := range users {
		if s.cfg.NodeName == "" && (u.leaf == ClientKubelet || u.leaf == ClientKubeProxy) {
			continue
		}
		work = append(work, func() error {
			c := cluster{Server: server, CertificateAuthority: ServerCA.CertFile(s.cfg.Layout)}
			a := authInfo{ClientCertificate: u.leaf.CertFile(s.cfg.Layout), ClientKey: u.leaf.KeyFile(s.cfg.Layout)}
			data, err := encodeKubeconfig("local", "user", c, a)
			if err != nil {
				return fmt.Errorf("kubeconfig of %s: %w", u.name, err)
			}
			return s.writeIfChanged(u.name.File(s.cfg.Layout), data, 0o600)
		})
	}
	return parallel(work)
}

// adminKubeconfig writes the self-contained kubeconfig. The mutex is held.
func (s *Store) adminKubeconfig() error {
	admin := s.cfg.Admin
	if admin.Path == "" {
		return nil
	}
	ca, err := s.ServerCABundle()
	if err != nil {
		return err
	}
	cert, key, err := readPair(ClientAdmin.CertFile(s.cfg.Layout), ClientAdmin.KeyFile(s.cfg.Layout))
	if err != nil {
		return fmt.Errorf("kubeconfig of the administrator: %w", err)
	}
	data, err := encodeKubeconfig(admin.Name, admin.Name,
		cluster{Server: s.server, CertificateAuthorityData: ca},
		authInfo{ClientCertificateData: cert, ClientKeyData: key})
	if err != nil {
		return fmt.Errorf("kubeconfig of the administrator: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(admin.Path), 0o755); err != nil {
		return fmt.Errorf("create folder of %s: %w", admin.Path, err)
	}
	if err := s.writeIfChanged(admin.Path, data, admin.Mode); err != nil {
		return err
	}
	return s.shareAdmin()
}

// shareAdmin gives the administrator's kubeconfig the mode and group asked for.
func (s *Store) shareAdmin() error {
	admin := s.cfg.Admin
	if err := os.Chmod(admin.Path, admin.Mode); err != nil {
		return fmt.Errorf("set mode of %s: %w", admin.Path, err)
	}
	if admin.Group == "" {
		return nil
	}
	gid, err := strconv.Atoi(admin.Group)
	if err != nil {
		group, err := user.LookupGroup(admin.Group)
		if err != nil {
			return config.Hinted(fmt.Errorf("share %s: %w", admin.Path, err), "create the group, or change write-kubeconfig-group")
		}
		if gid, err = strconv.Atoi(group.Gid); err != nil {
			return fmt.Errorf("share %s: group id %q: %w", admin.Path, group.Gid, err)
		}
	}
	if err := os.Chown(admin.Path, -1, gid); err != nil {
		return fmt.Errorf("share %s with group %s: %w", admin.Path, admin.Group, err)
	}
	return nil
}

func encodeKubeconfig(clusterName, userName string, c cluster, a authInfo) ([]byte, error) {
	return yaml.Marshal(kubeconfig{
		APIVersion:     "v1",
		Kind:           "Config",
		Clusters:       []namedCluster{{Name: clusterName, Cluster: c}},
		Contexts:       []namedContext{{Name: clusterName, Context: contextDetails{Cluster: clusterName, User: userName}}},
		CurrentContext: clusterName,
		Users:          []namedUser{{Name: userName, User: a}},
	})
}
