package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/kelson-io/kelson/core/agent/kernel"
)

// masquerade installs the node's one rule set, replacing an earlier one at a
// stroke: what pods of this node send out of the cluster's pod range takes the
// node's address. Pods with global IPv6 addresses are routed, not rewritten.
func masquerade(ctx context.Context, tools kernel.Tools, facts kernel.Facts, bridge string, node NodeNetwork) error {
	if err := allowForwarding(ctx, tools, node); err != nil {
		return err
	}
	if facts.NFTables {
		_, err := tools.Run(ctx, nftRules(bridge, node), "nft", "-f", "-")
		return err
	}
	for _, six := range []bool{false, true} {
		rules := iptablesRules(bridge, node, six)
		if rules == "" {
			continue
		}
		name := "iptables"
		if six {
			name = "ip6tables"
		}
		if _, err := tools.Run(ctx, rules, name+"-restore", "--noflush", "-w", "5"); err != nil {
			return err
		}
		jump := []string{"POSTROUTING", "-m", "comment", "--comment", "kelson pod traffic", "-j", iptablesChain(bridge)}
		if _, err := tools.Run(ctx, "", name, append([]string{"-w", "5", "-t", "nat", "-C"}, jump...)...); err == nil {
			continue
		}
		if _, err := tools.Run(ctx, "", name, append([]string{"-w", "5", "-t", "nat", "-A"}, jump...)...); err != nil {
			return err
		}
	}
	return nil
}

func unmasquerade(ctx context.Context, tools kernel.Tools, facts kernel.Facts, bridge string) error {
	if facts.NFTables {
		_, err := tools.Run(ctx, fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", nftTable(bridge)), "nft", "-f", "-")
		return err
	}
	var errs []error
	for _, name := range []string{"iptables", "ip6tables"} {
		chain := iptablesChain(bridge)
		_, err := tools.Run(ctx, "", name, "-w", "5", "-t", "nat", "-D", "POSTROUTING", "-m", "comment", "--comment", "kelson pod traffic", "-j", chain)
		if err != nil {
			continue // never installed
		}
		_, err = tools.Run(ctx, fmt.Sprintf("*nat\n-F %[1]s\n-X %[1]s\nCOMMIT\n", chain), name+"-restore", "--noflush", "-w", "5")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func nftTable(bridge string) string { return "kelson-" + bridge }

func iptablesChain(bridge string) string { return "KELSON-" + strings.ToUpper(bridge) }

// nftRules is one transaction that leaves exactly these rules. It is pure.
func nftRules(bridge string, node NodeNetwork) string {
	var b strings.Builder
	table := nftTable(bridge)
	fmt.Fprintf(&b, "add table inet %[1]s\ndelete table inet %[1]s\n", table)
	fmt.Fprintf(&b, "add table inet %s { comment \"pod traffic that leaves the cluster\"; }\n", table)
	fmt.Fprintf(&b, "add chain inet %s postrouting { type nat hook postrouting priority srcnat; policy accept; }\n", table)
	for _, pods := range masqueraded(node) {
		family, multicast := "ip", "224.0.0.0/4"
		if pods.Addr().Is6() {
			family, multicast = "ip6", "ff00::/8"
		}
		exempt := append(sameFamily(node.ClusterCIDRs, pods), pods.String(), multicast)
		fmt.Fprintf(&b, "add rule inet %[1]s postrouting %[2]s saddr %[3]s %[2]s daddr != { %[4]s } counter masquerade\n",
			table, family, pods, strings.Join(minimal(exempt), ", "))
	}
	return b.String()
}

// iptablesRules is the same for iptables-restore; "" if the family needs none.
func iptablesRules(bridge string, node NodeNetwork, six bool) string {
	chain := iptablesChain(bridge)
	var rules []string
	for _, pods := range masqueraded(node) {
		if pods.Addr().Is6() != six {
			continue
		}
		multicast := "224.0.0.0/4"
		if six {
			multicast = "ff00::/8"
		}
		for _, exempt := range minimal(append(sameFamily(node.ClusterCIDRs, pods), pods.String(), multicast)) {
			rules = append(rules, fmt.Sprintf("-A %s -s %s -d %s -j RETURN", chain, pods, exempt))
		}
		rules = append(rules, fmt.Sprintf("-A %s -s %s -j MASQUERADE", chain, pods))
	}
	if len(rules) == 0 {
		return ""
	}
	return fmt.Sprintf("*nat\n:%s - [0:0]\n%s\nCOMMIT\n", chain, strings.Join(rules, "\n"))
}

// masqueraded are the node's ranges whose addresses mean nothing outside.
func masqueraded(node NodeNetwork) []netip.Prefix {
	var out []netip.Prefix
	for _, cidr := range node.PodCIDRs {
		if cidr.Addr().Is4() || cidr.Addr().IsPrivate() {
			out = append(out, cidr.Masked())
		}
	}
	return out
}

func sameFamily(prefixes []netip.Prefix, as netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		if p.Addr().Is4() == as.Addr().Is4() {
			out = append(out, p.Masked().String())
		}
	}
	return out
}

// minimal drops prefixes that lie within others: nft refuses overlaps in a set.
func minimal(texts []string) []string {
	var out []string
	for i, text := range texts {
		p, covered := netip.MustParsePrefix(text), false
		for j, other := range texts {
			o := netip.MustParsePrefix(other)
			within := o.Bits() <= p.Bits() && o.Contains(p.Addr())
			covered = covered || within && (o != p || j < i)
		}
		if !covered {
			out = append(out, text)
		}
	}
	return out
}

// allowForwarding lets pod traffic through where the host drops what it
// forwards (Docker, ufw and firewalld set that policy): an accept elsewhere
// does not overrule a drop there. Hosts without the policy get no rule.
func allowForwarding(ctx context.Context, tools kernel.Tools, node NodeNetwork) error {
	for _, cidr := range node.ClusterCIDRs {
		name := "iptables"
		if cidr.Addr().Is6() {
			name = "ip6tables"
		}
		policy, err := tools.Run(ctx, "", name, "-w", "5", "-S", "FORWARD")
		if errors.Is(err, exec.ErrNotFound) || err == nil && !strings.Contains(policy, "-P FORWARD DROP") {
			continue
		}
		if err != nil {
			continue // no iptables in this kernel: nobody can have set its policy
		}
		for _, direction := range []string{"-s", "-d"} {
			rule := []string{"FORWARD", direction, cidr.Masked().String(), "-m", "comment", "--comment", "kelson pod traffic", "-j", "ACCEPT"}
			if _, err := tools.Run(ctx, "", name, append([]string{"-w", "5", "-C"}, rule...)...); err == nil {
				continue
			}
			if _, err := tools.Run(ctx, "", name, append([]string{"-w", "5", "-I"}, rule...)...); err != nil {
				return err
			}
		}
	}
	return nil
}
