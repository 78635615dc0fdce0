package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/sdk/serve"
)

func TestByHand(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "flannel"},
		{"cni", 2, "bridge"},
		{"cni weave", 2, "there is no plugin weave"},
		{"cni bridge", 0, "one node"},
		{"cni flannel describe", 0, `"flannel"`},
		{"cni flannel schema", 0, "directRouting"},
		{"cni flannel validate -f -", 1, "backend"},
	} {
		var out bytes.Buffer
		code := run(serve.Process{
			Name: "kelson-plugins", Args: strings.Fields(c.args), Getenv: func(string) string { return "" },
			Stdin: strings.NewReader(`backend: udp`), Stdout: &out, Stderr: &out,
		})
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: %d, want %d and %q:\n%s", c.args, code, c.code, c.want, out.String())
		}
	}
}
