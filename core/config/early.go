package config

import (
	"path/filepath"
	"slices"
	"strings"
)

// Early is what the launcher and the client verbs need: where things are,
// whether or not the rest of the configuration is valid.
type Early struct {
	DataDir          string // absolute
	EtcDir           string
	Kubeconfig       string
	PreferBundledBin bool
}

// FindEarly reads it from a command line without the program's name, the
// environment and the files. Arguments behind a foreign program's name
// (kubectl, ctr, …) are that program's and are not looked at. Problems are left
// to Load, but for a data dir that cannot be used: that is a *UsageError, so
// that the launcher puts nothing there.
func FindEarly(args, environ []string) (Early, error) {
	l := readLayers(Inputs{Flags: earlyFlags(args), Environ: environ})
	l.problems = nil
	b := builder{layers: l}
	data := b.dataDir()
	if len(l.problems) > 0 {
		return Early{}, &UsageError{Problems: l.problems}
	}
	early := Early{DataDir: data, EtcDir: EtcDir(data), PreferBundledBin: l.one("prefer-bundled-bin") == "true"}
	early.Kubeconfig = l.one("write-kubeconfig")
	if early.Kubeconfig == "" {
		early.Kubeconfig = filepath.Join(early.EtcDir, "kelson.yaml")
	}
	return early, nil
}

// earlyFlags picks the flags that FindEarly answers for.
func earlyFlags(args []string) []Flag {
	names := map[string]string{
		"--data-dir": "data-dir", "-d": "data-dir", "--config": "config", "-c": "config",
		"--write-kubeconfig": "write-kubeconfig",
	}
	foreign := []string{"kubectl", "ctr", "crictl", "containerd", "--"}
	var flags []Flag
	for i := 0; i < len(args); i++ {
		if slices.Contains(foreign, args[i]) {
			break
		}
		flag, value, joined := strings.Cut(args[i], "=")
		if flag == "--prefer-bundled-bin" {
			if !joined {
				value = "true"
			}
			flags = append(flags, Flag{"prefer-bundled-bin", value})
			continue
		}
		name, ok := names[flag]
		if !ok {
			continue
		}
		if !joined {
			if i++; i == len(args) {
				break
			}
			value = args[i]
		}
		flags = append(flags, Flag{name, value})
	}
	return flags
}
