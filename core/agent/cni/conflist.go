package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/kelson-io/kelson/core/datadir"
)

// conflistName is the only file that the host has in the CNI conf dir.
const conflistName = "10-kelson.conflist"

// Conflist is the CNI configuration that names the host's shim. It is pure.
func Conflist(plugin, socket, records, journal string) ([]byte, error) {
	type object = map[string]any
	raw, err := json.MarshalIndent(object{
		"cniVersion":  "1.1.0",
		"cniVersions": []string{"1.0.0", "1.1.0"},
		"name":        "kelson",
		"plugins": []object{{
			"type":         "kelson-cni",
			"capabilities": object{"portMappings": true, "bandwidth": true, "ips": true, "mac": true},
			"kelson":       object{"plugin": plugin, "socket": socket, "records": records, "journal": journal},
		}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(raw, '\n'), nil
}

// announce puts the plugin's conflist in place.
func (p paths) announce(plugin string) error {
	raw, err := Conflist(plugin, p.socket, p.records, p.journal)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(p.conflist); err == nil && bytes.Equal(have, raw) {
		return nil // containerd reloads on every write
	}
	if err := datadir.WriteFile(p.conflist, raw, 0o600); err != nil {
		return fmt.Errorf("announce network: %w", err)
	}
	return nil
}
