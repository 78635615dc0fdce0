package serve

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/plugin"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

// Set adds a value.
func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// lifetime is the usual one of a kind.
func lifetime(kind string) string {
	if kind == plugin.KindAddon {
		return "on-demand"
	}
	return LifetimeNode
}

func writeManifest(proc Process, p plugin.Plugin, args []string) error {
	i := p.Info()
	m := manifest.Manifest{
		APIVersion: manifest.APIVersion, Kind: i.Kind, Name: i.Name, Version: i.Version, Summary: i.Summary,
		Protocols: i.Protocols, Capabilities: i.Capabilities, Files: map[string]string{}, ConfigSchema: p.Schema(),
	}
	var program string
	var files list
	err := flags(proc, "manifest", args, func(set *flag.FlagSet) {
		set.StringVar(&program, "exec", "", "the built program, as `FILE` in the plugin's folder")
		set.Var((*list)(&m.Args), "arg", "`ARGUMENT` with which it is started (may be repeated)")
		set.Var(&files, "file", "another `FILE` in the folder (may be repeated)")
		set.StringVar(&m.Lifetime, "lifetime", lifetime(i.Kind), "host, node or on-demand")
		set.Var((*list)(&m.Requests.Caps), "cap", "capability that it needs, without CAP_: `NAME` (may be repeated)")
		set.Var((*list)(&m.Requests.Paths), "path", "absolute `PATH` outside its folders that it uses (may be repeated)")
		set.BoolVar(&m.Requests.Network, "network", false, "it speaks to the network")
		set.StringVar(&m.Requests.Memory, "memory", "", "most memory that it needs, such as 64Mi: `SIZE`")
	})
	if err != nil {
		return err
	}
	if program == "" {
		return usageError{errors.New("--exec is missing")}
	}
	folder := filepath.Dir(program)
	m.Exec = filepath.Base(program)
	for _, file := range append(list{program}, files...) {
		name, err := filepath.Rel(folder, file)
		if err != nil || !filepath.IsLocal(name) {
			return fmt.Errorf("%s is not in the folder %s of the program", file, folder)
		}
		if m.Files[filepath.ToSlash(name)], err = digest(file); err != nil {
			return err
		}
	}
	out, err := manifest.Marshal(m)
	if err != nil {
		return err
	}
	_, err = proc.Stdout.Write(out)
	return err
}

// digest is that of a file, as the manifest writes it.
func digest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return fmt.Sprintf("sha256:%x", sum.Sum(nil)), nil
}
