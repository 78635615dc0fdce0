package podnet

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// aliasPrefix begins the alias of every link of ours.
const aliasPrefix = "kelson:"

// Claim says which plugin of which node a kernel object belongs to. Several
// nodes can live in one network namespace, each with a data dir of its own.
type Claim struct {
	Node   string // short hash, NodeID
	Plugin string
}

// NodeID names the node that keeps its addresses in ipamDir: there is one such
// folder per node, whatever its plugins.
func NodeID(ipamDir string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(ipamDir)))[:6]
}

// Tag names what belongs to the claim alone, as table, chain or comment.
func (c Claim) Tag() string { return "kelson-" + c.Plugin + "-" + c.Node }

// parseAlias reads the alias of a link; ok tells whether the link is ours.
func parseAlias(alias string) (node string, plugins []string, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	if !ok {
		return "", nil, false
	}
	node, list, _ := strings.Cut(rest, " ")
	return node, strings.FieldsFunc(list, func(r rune) bool { return r == ',' }), true
}

func formatAlias(node string, plugins []string) string {
	return aliasPrefix + node + " " + strings.Join(plugins, ",")
}

// OwnedBy tells whether the link belongs to the claim's node, to Kelson on
// another node, or to somebody else.
func (c Claim) OwnedBy(link netlink.Link) (own, kelson bool) {
	node, _, ok := parseAlias(link.Attrs().Alias)
	return ok && node == c.Node, ok
}

// Foreign tells whether a link was made by somebody else than Kelson.
func Foreign(link netlink.Link) bool {
	_, _, ok := parseAlias(link.Attrs().Alias)
	return !ok
}

// Mark leaves the claim on a link, beside those of other plugins.
func (c Claim) Mark(link netlink.Link) error {
	node, plugins, ok := parseAlias(link.Attrs().Alias)
	if ok && node == c.Node && slices.Contains(plugins, c.Plugin) {
		return nil
	}
	if !ok || node != c.Node {
		plugins = nil
	}
	alias := formatAlias(c.Node, append(slices.Clone(plugins), c.Plugin))
	if err := netlink.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("name owner of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// others are the plugins that claim the link beside c.
func (c Claim) others(link netlink.Link) []string {
	_, plugins, _ := parseAlias(link.Attrs().Alias)
	return slices.DeleteFunc(plugins, func(p string) bool { return p == c.Plugin })
}
