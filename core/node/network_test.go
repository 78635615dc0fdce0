package node

import (
	"encoding/json"
	"testing"

	"github.com/kelson-io/kelson/core/config"
)

func TestCNIConfig(t *testing.T) {
	for _, c := range []struct{ cni, catalog, want string }{
		{"flannel", "", `{"backend":"host-gw"}`},
		{"flannel", `{"mtu":1400}`, `{"backend":"host-gw","mtu":1400}`},
		{"flannel", `{"backend":"vxlan"}`, `{"backend":"vxlan"}`},
		{"flannel", `[1]`, `[1]`},
		{"other", `{"a":1}`, `{"a":1}`},
		{"other", "", ""},
	} {
		got := cniConfig(config.Network{CNI: c.cni, FlannelBackend: "host-gw"}, json.RawMessage(c.catalog))
		if string(got) != c.want {
			t.Errorf("%s with %q: %s, want %s", c.cni, c.catalog, got, c.want)
		}
	}
}
