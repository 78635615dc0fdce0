package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

const (
	labelPattern = `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`
	valuePattern = `([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)`
)

func matches(pattern, text string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(text)
}

// isDNSName reports whether text is an RFC 1123 subdomain.
func isDNSName(text string) bool {
	return len(text) <= 253 && matches(labelPattern+`(\.`+labelPattern+`)*`, text)
}

func (b *builder) domain(name string) string {
	v, text := b.get(name), b.one(name)
	if !isDNSName(text) {
		b.add(v.Source, name, fmt.Sprintf("%q is not a DNS domain", text), "write labels of a-z, 0-9 and - with dots between, such as cluster.local")
	}
	return text
}

func (b *builder) pluginName(name string) string {
	v, text := b.get(name), b.one(name)
	if !matches(`[a-z]([-a-z0-9]{0,38}[a-z0-9])?`, text) {
		b.add(v.Source, name, fmt.Sprintf("%q is not the name of a plugin", text), "write lower-case letters, digits and -, beginning with a letter, at most 40")
	}
	return text
}

func (b *builder) nodeName() string {
	v, text := b.get("node-name"), b.one("node-name")
	if text == "" {
		text = b.hostName()
	}
	if !isDNSName(text) {
		b.add(v.Source, "node-name", fmt.Sprintf("%q is not a node name", text), "set node-name to lower-case letters, digits, - and dots")
	}
	return text
}

// address parses a single IP address; none is the zero value.
func (b *builder) address(name string) netip.Addr {
	list := b.addresses(name)
	if len(list) == 0 {
		return netip.Addr{}
	}
	return list[0]
}

func (b *builder) addresses(name string) []netip.Addr {
	var out []netip.Addr
	for _, it := range b.get(name).items {
		a, err := netip.ParseAddr(it.text)
		if err != nil || a.Zone() != "" {
			b.add(it.src, name, fmt.Sprintf("%q is not an IP address", it.text), "write an address such as 192.0.2.10 or 2001:db8::10")
			continue
		}
		out = append(out, a.Unmap())
	}
	return out
}

// sans returns names and addresses for a certificate.
func (b *builder) sans(name string) []string {
	var out []string
	for _, it := range b.get(name).items {
		if _, err := netip.ParseAddr(it.text); err != nil && !isDNSName(strings.TrimPrefix(strings.ToLower(it.text), "*.")) {
			b.add(it.src, name, fmt.Sprintf("%q is neither a DNS name nor an IP address", it.text), "write the name or address alone, without scheme or port")
			continue
		}
		out = append(out, it.text)
	}
	return out
}

// isLabelKey reports whether text is a label key: an optional DNS prefix with
// a slash, and a name.
func isLabelKey(text string) bool {
	prefix, name, ok := strings.Cut(text, "/")
	if !ok {
		return matches(valuePattern, text)
	}
	return isDNSName(prefix) && matches(valuePattern, name)
}

func (b *builder) labels(name string) []string {
	var out []string
	for _, it := range b.get(name).items {
		key, value, ok := strings.Cut(it.text, "=")
		switch {
		case !ok || !isLabelKey(key) || (value != "" && !matches(valuePattern, value)):
			b.add(it.src, name, fmt.Sprintf("%q is not a label", it.text), "write key=value of letters, digits, -, _ and dots, at most 63 each")
		case !kubeletMaySet(key):
			b.add(it.src, name, fmt.Sprintf("a node may not give itself the label %s", key), "set it afterwards: kelson kubectl label node NAME "+it.text)
		default:
			out = append(out, it.text)
		}
	}
	return out
}

// kubeletMaySet repeats the kubelet's own rule, which ends the kubelet.
func kubeletMaySet(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	if !within("kubernetes.io") && !within("k8s.io") {
		return true
	}
	if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
		return true
	}
	return slices.Contains([]string{
		"kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os",
		"beta.kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type",
		"topology.kubernetes.io/region", "topology.kubernetes.io/zone",
		"failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
	}, key)
}

func (b *builder) taints(name string) []string {
	effects := []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
	var out []string
	for _, it := range b.get(name).items {
		rest, effect, ok := cutLast(it.text, ":")
		key, value, _ := strings.Cut(rest, "=")
		switch {
		case !ok || !isLabelKey(key) || (value != "" && !matches(valuePattern, value)):
			b.add(it.src, name, fmt.Sprintf("%q is not a taint", it.text), "write key=value:effect, such as dedicated=db:NoSchedule")
		case !slices.Contains(effects, effect):
			remedy := "use one of: " + strings.Join(effects, ", ")
			if near := Nearest(effect, effects); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			b.add(it.src, name, fmt.Sprintf("%q is not an effect of a taint", effect), remedy)
		default:
			out = append(out, it.text)
		}
	}
	return out
}

func cutLast(text, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(text, sep)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(sep):], true
}
