package bridge

import (
	"context"
	"regexp"

	"github.com/kelson-io/kelson/sdk/plugin"
)

// Config is the configuration.
type Config struct {
	Name    string `kelson:"name,max=15" doc:"Name of the bridge when it is made; a bridge that the node has keeps its name. Default: cni0, or a free name where that is taken."`
	MTU     int    `kelson:"mtu,min=0,max=65535" doc:"MTU of the pods' interfaces. Default: that of the node's uplink."`
	Hairpin bool   `kelson:"hairpin,default=true" doc:"Let a pod reach itself through its own service."`
}

const minMTU = 576

// Validate implements plugin.Typed.
func (*Plugin) Validate(_ context.Context, c Config) plugin.Diagnostics {
	var out plugin.Diagnostics
	if c.Name != "" && !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`).MatchString(c.Name) {
		out = append(out, plugin.Errorf("name", "%q cannot name a link", c.Name).WithHint("use at most 15 letters, digits, dots, dashes and underscores"))
	}
	if c.MTU != 0 && c.MTU < minMTU {
		out = append(out, plugin.Errorf("mtu", "%d is less than any network may have", c.MTU).WithHint("give at least %d, or leave the key out", minMTU))
	}
	return out
}
