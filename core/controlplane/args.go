package controlplane

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"
)

// argSet is the arguments of one component, by name without dashes.
type argSet map[string]string

// merge applies a user's "name=value" arguments: a plain one replaces the
// built-in value, "name+=v" appends to it and "name-=v" prepends to it, both
// separated by a comma. A flag given alone means "true".
func (a argSet) merge(extra []string) error {
	replaced := map[string]bool{}
	for _, arg := range extra {
		name, value, found := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !found {
			value = "true"
		}
		op := byte(0)
		if n := len(name); n > 0 && (name[n-1] == '+' || name[n-1] == '-') {
			op, name = name[n-1], name[:n-1]
		}
		if name == "" {
			return fmt.Errorf("argument %q has no name, want name=value", arg)
		}
		switch old, has := a[name]; {
		case op == '+' && has && old != "":
			a[name] = old + "," + value
		case op == '-' && has && old != "":
			a[name] = value + "," + old
		case replaced[name]: // a repeated list flag
			a[name] = old + "," + value
		default:
			a[name] = value
			replaced[name] = true
		}
	}
	return nil
}

// slice renders the set sorted by name; an empty value is left out.
func (a argSet) slice() []string {
	args := make([]string, 0, len(a))
	for name, value := range a {
		if value != "" {
			args = append(args, "--"+name+"="+value)
		}
	}
	sort.Strings(args)
	return args
}

func joinPrefixes(list []netip.Prefix) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return strings.Join(out, ",")
}

// cipherSuites are those of TLS 1.2 with forward secrecy and authenticated
// encryption; TLS 1.3's are not configurable.
const cipherSuites = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384," +
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256," +
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
