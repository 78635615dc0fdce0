package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HasCapability reports whether this process holds a capability (unix.CAP_…)
// effectively.
func HasCapability(capability int) bool {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	set, err := strconv.ParseUint(statusField(string(raw), "CapEff"), 16, 64)
	return err == nil && set&(1<<uint(capability)) != 0
}

func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if key, value, ok := strings.Cut(line, ":"); ok && key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TryOverlay mounts an overlay in a new folder under dir, which must exist,
// writes through it, and removes it again.
func TryOverlay(dir string) (err error) {
	root, err := os.MkdirTemp(dir, "overlay-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, "lower", "file"), nil, 0o600); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", root)
	merged := filepath.Join(root, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(merged, unix.MNT_DETACH)) }()
	if err := os.Remove(filepath.Join(merged, "file")); err != nil {
		return fmt.Errorf("write through overlay on %s: %w", dir, err)
	}
	return nil
}

// TryNFTables makes and removes a table with what kube-proxy's nftables mode
// and the pod network use: a masquerade in a nat chain, a set, a verdict map.
func TryNFTables(ctx context.Context, tools Tools) error {
	name := fmt.Sprintf("kelson-probe-%d", os.Getpid())
	// One transaction that deletes at its end what it makes: the kernel checks
	// all of it and commits nothing.
	script := strings.ReplaceAll(`add table ip NAME
add set ip NAME ips { type ipv4_addr; }
add map ip NAME ports { type inet_proto . inet_service : verdict; }
add chain ip NAME out { type nat hook postrouting priority srcnat; }
add rule ip NAME out ip saddr @ips masquerade
add rule ip NAME out meta l4proto . th dport vmap @ports
add rule ip NAME out fib daddr type local numgen random mod 2 vmap { 0 : accept, 1 : accept }
delete table ip NAME
`, "NAME", name)
	_, err := tools.Run(ctx, script, "nft", "-f", "-")
	return err
}

// TryIPTables makes and removes a chain in the nat table with the rules that
// kube-proxy's iptables mode needs.
func TryIPTables(ctx context.Context, tools Tools) error {
	chain := fmt.Sprintf("KELSON-PROBE-%d", os.Getpid())
	rules := fmt.Sprintf("*nat\n:%[1]s - [0:0]\n-A %[1]s -m comment --comment probe -m mark --mark 0x4000/0x4000 -j MASQUERADE\nCOMMIT\n", chain)
	if _, err := tools.Run(ctx, rules, "iptables-restore", "--noflush", "-w", "5"); err != nil {
		return err
	}
	_, err := tools.Run(ctx, fmt.Sprintf("*nat\n-F %[1]s\n-X %[1]s\nCOMMIT\n", chain), "iptables-restore", "--noflush", "-w", "5")
	return err
}

// ReadSysctl returns the value of a key in path form ("net/ipv4/ip_forward").
func ReadSysctl(key string) (string, error) {
	raw, err := os.ReadFile(filepath.Join("/proc/sys", key))
	return strings.Join(strings.Fields(string(raw)), " "), err
}

// WriteSysctl sets a key unless it has the value already.
func WriteSysctl(key, value string) error {
	if have, err := ReadSysctl(key); err == nil && have == value {
		return nil
	}
	return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0o644)
}

// SysctlWritable reports whether a key can be set. It writes the value back
// that it has, because the mode bits of /proc/sys do not tell: in a network
// namespace some keys only look writable.
func SysctlWritable(key string) bool {
	path := filepath.Join("/proc/sys", key)
	raw, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	return os.WriteFile(path, raw, 0o644) == nil
}
