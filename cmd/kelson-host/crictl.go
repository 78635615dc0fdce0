package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kelson-io/kelson/core/config"
)

// runCrictl replaces this process by the payload's crictl, pointed at this data
// dir's containerd. What the user set in the environment wins.
func runCrictl(call invocation) error {
	dirs, err := findDirs(call.global)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("crictl: find own executable: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "crictl")
	env := os.Environ()
	socket := "unix://" + dirs.containerdSocket()
	for _, name := range []string{"CONTAINER_RUNTIME_ENDPOINT", "IMAGE_SERVICE_ENDPOINT"} {
		set := func(kv string) bool { return strings.HasPrefix(kv, name+"=") }
		if !slices.ContainsFunc(env, set) {
			env = append(env, name+"="+socket)
		}
	}
	err = syscall.Exec(path, append([]string{"crictl"}, call.args...), env)
	return config.Hinted(fmt.Errorf("run %s: %w", path, err),
		"crictl lies beside kelson-host in the payload; run it through the kelson launcher")
}
