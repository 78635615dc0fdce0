package podnet

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// removeHostPorts removes what the standard plugin portmap makes once for all
// pods and never removes, unless there is still a port in it: another node in
// the same network namespace may use it, too.
func (t Tools) removeHostPorts(ctx context.Context, nftables bool) error {
	var errs []error
	for _, six := range []bool{false, true} {
		if nftables {
			errs = append(errs, t.removeHostPortTable(ctx, six))
			continue
		}
		errs = append(errs, t.removeHostPortChains(ctx, six))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove host ports: %w", err)
	}
	return nil
}

func (t Tools) removeHostPortTable(ctx context.Context, six bool) error {
	table := []string{"table", "ip", "cni_hostport"}
	if six {
		table[1] = "ip6"
	}
	out, err := t.Run(ctx, "", "nft", append([]string{"list"}, table...)...)
	if err != nil || strings.Contains(out, " dnat ") {
		return nil //nolint:nilerr // there is no such table
	}
	_, err = t.Run(ctx, "", "nft", append([]string{"delete"}, table...)...)
	return err
}

func (t Tools) removeHostPortChains(ctx context.Context, six bool) error {
	out, err := t.Run(ctx, "", command(six), "-w", "5", "-t", "nat", "-S", "CNI-HOSTPORT-DNAT")
	if err != nil || strings.Contains(out, "-A ") {
		return nil //nolint:nilerr // there is no such chain
	}
	for _, rule := range [][2]string{{"PREROUTING", "CNI-HOSTPORT-DNAT"}, {"OUTPUT", "CNI-HOSTPORT-DNAT"}, {"POSTROUTING", "CNI-HOSTPORT-MASQ"}} {
		if err := t.removeRules(ctx, six, "nat", rule[0], rule[1]); err != nil {
			return err
		}
	}
	for _, chain := range []string{"CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"} {
		if _, err := t.Run(ctx, "", command(six), "-w", "5", "-t", "nat", "-S", chain); err != nil {
			continue // not made
		}
		if _, err := t.Run(ctx, fmt.Sprintf("*nat\n-F %[1]s\n-X %[1]s\nCOMMIT\n", chain), command(six)+"-restore", "--noflush", "-w", "5"); err != nil {
			return err
		}
	}
	return nil
}
