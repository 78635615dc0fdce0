package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Rules are one plugin's address translation and forwarding rules of a node:
// what its pods send out of the cluster's pod ranges takes the node's address.
// Pods with global IPv6 addresses are routed, not rewritten.
type Rules struct {
	Claim        Claim
	Tools        Tools
	NFTables     bool           // else iptables
	PodCIDRs     []netip.Prefix // of this node
	ClusterCIDRs []netip.Prefix // of all nodes' pods
	// Inbound also rewrites what comes from outside the cluster's pod ranges and
	// goes to pods of other nodes, so that the answers return the same way,
	// through the tunnel.
	Inbound bool
}

// Ensure installs the rules, replacing earlier ones at a stroke.
func (r Rules) Ensure(ctx context.Context) error {
	if err := r.allowForwarding(ctx); err != nil {
		return fmt.Errorf("allow forwarding: %w", err)
	}
	if r.NFTables {
		if _, err := r.Tools.Run(ctx, r.nft(), "nft", "-f", "-"); err != nil {
			return fmt.Errorf("install masquerading: %w", err)
		}
		return nil
	}
	for _, six := range []bool{false, true} {
		if err := r.ensureIPTables(ctx, six); err != nil {
			return fmt.Errorf("install masquerading: %w", err)
		}
	}
	return nil
}

// Present tells whether the translation rules are still there.
func (r Rules) Present(ctx context.Context) bool {
	if r.NFTables {
		_, err := r.Tools.Run(ctx, "", "nft", "list", "chain", "inet", r.Claim.Tag(), "postrouting")
		return err == nil
	}
	for _, six := range []bool{false, true} {
		if r.iptables(six) == "" {
			continue
		}
		if _, err := r.Tools.Run(ctx, "", command(six), append([]string{"-w", "5", "-t", "nat", "-C"}, r.jump()...)...); err != nil {
			return false
		}
	}
	return true
}

// Remove removes all rules of the claim, of both kinds.
func (r Rules) Remove(ctx context.Context) error {
	var errs []error
	if r.NFTables {
		_, err := r.Tools.Run(ctx, fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", r.Claim.Tag()), "nft", "-f", "-")
		errs = append(errs, err)
	}
	for _, six := range []bool{false, true} {
		errs = append(errs, r.Tools.removeRules(ctx, six, "nat", "POSTROUTING", r.Claim.Tag()), r.Tools.removeRules(ctx, six, "filter", "FORWARD", r.Claim.Tag()))
		if _, err := r.Tools.Run(ctx, "", command(six), "-w", "5", "-t", "nat", "-S", r.chain()); err != nil {
			continue // no such chain, or no iptables at all
		}
		_, err := r.Tools.Run(ctx, fmt.Sprintf("*nat\n-F %[1]s\n-X %[1]s\nCOMMIT\n", r.chain()), command(six)+"-restore", "--noflush", "-w", "5")
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	return nil
}

// removeRules deletes the rules of a built-in chain that have the given word, as
// comment or target.
func (t Tools) removeRules(ctx context.Context, six bool, table, chain, word string) error {
	out, err := t.Run(ctx, "", command(six), "-w", "5", "-t", table, "-S", chain)
	if err != nil {
		return nil // without iptables nobody can have added rules
	}
	for line := range strings.Lines(out) {
		words := splitRule(line)
		if len(words) < 2 || words[0] != "-A" || !slices.Contains(words, word) {
			continue
		}
		words[0] = "-D"
		if _, err := t.Run(ctx, "", command(six), append([]string{"-w", "5", "-t", table}, words...)...); err != nil {
			return err
		}
	}
	return nil
}

// splitRule splits a line of iptables -S, in which words with blanks are quoted.
func splitRule(line string) []string {
	var words []string
	for i, part := range strings.Split(strings.TrimSpace(line), `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}

func command(six bool) string {
	if six {
		return "ip6tables"
	}
	return "iptables"
}

func (r Rules) chain() string { return strings.ToUpper(r.Claim.Tag()) }

func (r Rules) jump() []string {
	return []string{"POSTROUTING", "-m", "comment", "--comment", r.Claim.Tag(), "-j", r.chain()}
}

func (r Rules) ensureIPTables(ctx context.Context, six bool) error {
	rules := r.iptables(six)
	if rules == "" {
		return nil
	}
	if _, err := r.Tools.Run(ctx, rules, command(six)+"-restore", "--noflush", "-w", "5"); err != nil {
		return err
	}
	if _, err := r.Tools.Run(ctx, "", command(six), append([]string{"-w", "5", "-t", "nat", "-C"}, r.jump()...)...); err == nil {
		return nil
	}
	_, err := r.Tools.Run(ctx, "", command(six), append([]string{"-w", "5", "-t", "nat", "-A"}, r.jump()...)...)
	return err
}

// nft is one transaction that leaves exactly these rules. It is pure.
func (r Rules) nft() string {
	var b strings.Builder
	table := r.Claim.Tag()
	fmt.Fprintf(&b, "add table inet %[1]s\ndelete table inet %[1]s\n", table)
	fmt.Fprintf(&b, "add table inet %s { comment \"pod traffic that leaves the cluster\"; }\n", table)
	fmt.Fprintf(&b, "add chain inet %s postrouting { type nat hook postrouting priority srcnat; policy accept; }\n", table)
	for _, pods := range r.masqueraded() {
		family, multicast := "ip", "224.0.0.0/4"
		if pods.Addr().Is6() {
			family, multicast = "ip6", "ff00::/8"
		}
		cluster := sameFamily(r.ClusterCIDRs, pods)
		inside := minimal(append(slices.Clone(cluster), pods.String(), multicast))
		fmt.Fprintf(&b, "add rule inet %[1]s postrouting %[2]s saddr %[3]s %[2]s daddr != { %[4]s } counter masquerade\n",
			table, family, pods, strings.Join(inside, ", "))
		if r.Inbound && len(cluster) > 0 {
			fmt.Fprintf(&b, "add rule inet %[1]s postrouting %[2]s saddr != { %[3]s } %[2]s daddr { %[4]s } %[2]s daddr != %[5]s counter masquerade\n",
				table, family, strings.Join(minimal(append(slices.Clone(cluster), pods.String())), ", "), strings.Join(minimal(cluster), ", "), pods)
		}
	}
	return b.String()
}

// iptables is the same for iptables-restore; "" if the family needs none.
func (r Rules) iptables(six bool) string {
	var rules []string
	add := func(format string, args ...any) {
		rules = append(rules, "-A "+r.chain()+" "+fmt.Sprintf(format, args...))
	}
	for _, pods := range r.masqueraded() {
		if pods.Addr().Is6() != six {
			continue
		}
		multicast := "224.0.0.0/4"
		if six {
			multicast = "ff00::/8"
		}
		cluster := sameFamily(r.ClusterCIDRs, pods)
		for _, inside := range minimal(append(slices.Clone(cluster), pods.String(), multicast)) {
			add("-s %s -d %s -j RETURN", pods, inside)
		}
		add("-s %s -j MASQUERADE", pods)
		if !r.Inbound || len(cluster) == 0 {
			continue
		}
		for _, from := range minimal(cluster) {
			add("-s %s -j RETURN", from)
		}
		add("-d %s -j RETURN", pods)
		for _, to := range minimal(cluster) {
			add("-d %s -j MASQUERADE", to)
		}
	}
	if len(rules) == 0 {
		return ""
	}
	return fmt.Sprintf("*nat\n:%s - [0:0]\n%s\nCOMMIT\n", r.chain(), strings.Join(rules, "\n"))
}

// masqueraded are the node's ranges whose addresses mean nothing outside.
func (r Rules) masqueraded() []netip.Prefix {
	var out []netip.Prefix
	for _, cidr := range r.PodCIDRs {
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
func (r Rules) allowForwarding(ctx context.Context) error {
	for _, cidr := range r.ClusterCIDRs {
		name := command(cidr.Addr().Is6())
		policy, err := r.Tools.Run(ctx, "", name, "-w", "5", "-S", "FORWARD")
		if err != nil || !strings.Contains(policy, "-P FORWARD DROP") {
			continue // no iptables here: nobody can have set its policy
		}
		for _, direction := range []string{"-s", "-d"} {
			rule := []string{"FORWARD", direction, cidr.Masked().String(), "-m", "comment", "--comment", r.Claim.Tag(), "-j", "ACCEPT"}
			if _, err := r.Tools.Run(ctx, "", name, append([]string{"-w", "5", "-C"}, rule...)...); err == nil {
				continue
			}
			if _, err := r.Tools.Run(ctx, "", name, append([]string{"-w", "5", "-I"}, rule...)...); err != nil {
				return err
			}
		}
	}
	return nil
}
