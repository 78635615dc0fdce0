package deploy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/kelson-io/kelson/core/config"
)

// Tokens of packaged manifests, written %{NAME}%. The names are K3s'.
const (
	tokenClusterDNS     = "CLUSTER_DNS"
	tokenClusterDNSList = "CLUSTER_DNS_LIST"
	tokenDNSFamilies    = "CLUSTER_DNS_IPFAMILYPOLICY"
	tokenClusterDomain  = "CLUSTER_DOMAIN"
	tokenStoragePath    = "DEFAULT_LOCAL_STORAGE_PATH"
	tokenRegistry       = "SYSTEM_DEFAULT_REGISTRY"
	tokenAddressTypes   = "PREFERRED_ADDRESS_TYPES"
)

var token = regexp.MustCompile(`%\{([^{}%\n]*)\}%`)

// Values returns what the tokens of packaged manifests stand for.
func Values(network config.Network, storagePath string) (map[string]string, error) {
	if len(network.ClusterDNS) == 0 {
		return nil, fmt.Errorf("render addons: no cluster DNS address")
	}
	if strings.ContainsAny(storagePath, "\"\\%\n\r\t\x00") {
		return nil, fmt.Errorf("render addons: local storage path %q holds a character that JSON or a token would need to escape", storagePath)
	}
	var list []string
	for _, a := range network.ClusterDNS {
		list = append(list, `"`+a.String()+`"`)
	}
	families := "SingleStack"
	if len(list) > 1 {
		families = "RequireDualStack"
	}
	return map[string]string{
		tokenClusterDNS:     network.ClusterDNS[0].String(),
		tokenClusterDNSList: "[" + strings.Join(list, ", ") + "]",
		tokenDNSFamilies:    families,
		tokenClusterDomain:  network.ClusterDomain,
		tokenStoragePath:    storagePath,
		tokenRegistry:       "docker.io/",
		tokenAddressTypes:   "InternalIP,ExternalIP,Hostname",
	}, nil
}

// substitute fills in the tokens. A token without a value is an error: the
// text would reach the cluster as it is.
func substitute(text []byte, values map[string]string) ([]byte, error) {
	var unknown []string
	out := token.ReplaceAllFunc(text, func(match []byte) []byte {
		name := string(match[2 : len(match)-2])
		value, ok := values[name]
		if !ok {
			unknown = append(unknown, name)
		}
		return []byte(value)
	})
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no value for token %s", strings.Join(unknown, ", "))
	}
	return out, nil
}
