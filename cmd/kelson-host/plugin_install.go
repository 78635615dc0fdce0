package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/catalog"
	"github.com/kelson-io/kelson/sdk/sign"
)

type pluginInstallCmd struct {
	Source   string   `arg:"" help:"Folder with a plugin.yaml, archive (.tar.gz, .tgz, .tar.zst, .tar), or URL of one."`
	SHA256   string   `name:"sha256" placeholder:"DIGEST" help:"SHA-256 of the archive; needed for a URL."`
	Trust    []string `placeholder:"FILE" help:"Public key to trust from now on, beside those of the catalog."`
	Unsigned bool     `help:"Accept a plugin without a signature by a trusted key."`
	Yes      bool     `short:"y" help:"Do not ask."`
}

// Help gives examples.
func (pluginInstallCmd) Help() string {
	return "Everything is checked in a scratch folder before anything changes: paths, digests, signature, architecture, and whether the program is what its manifest says. What it asks for is shown before it is installed. Plugins of the kinds datastore and cni need a signature by a key that the catalog trusts. Afterwards the plugin is in the lock and in the catalog; a running server starts it when it next needs it.\n\nExamples:\n\n    kelson plugin install ./build/mynet\n    kelson plugin install mynet-1.2.0.tar.gz --trust mynet.pub\n    kelson plugin install https://example.org/mynet-1.2.0.tar.zst --sha256 9f86d08…"
}

// Run stages, asks and commits.
func (c *pluginInstallCmd) Run(env pluginEnv, std streams) (err error) {
	opt := catalog.Options{Source: c.Source, SHA256: c.SHA256, Unsigned: c.Unsigned}
	for _, file := range c.Trust {
		key, err := readPublicKey(file)
		if err != nil {
			return err
		}
		opt.Trust = append(opt.Trust, key)
	}
	ctx, stop := signalContext()
	defer stop()
	staged, err := env.Stage(ctx, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, staged.Discard()) }()
	showStaged(std.Out, staged)
	if !c.Yes && !confirmed(std, "Install it?") {
		return config.Hinted(errors.New("install: not confirmed, nothing was changed"), "answer yes, or give --yes")
	}
	if err := staged.Commit(); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "installed %s/%s %s\n", staged.Manifest.Kind, staged.Manifest.Name, staged.Manifest.Version)
	return nil
}

func showStaged(w io.Writer, s *catalog.Staged) {
	m := s.Manifest
	fmt.Fprintf(w, "%s/%s %s: %s\n", m.Kind, m.Name, m.Version, m.Summary)
	if s.Replaces != "" {
		fmt.Fprintf(w, "  replaces:   %s\n", s.Replaces)
	}
	signed := "by key " + s.Signer
	if s.Signer == "" {
		signed = "no: " + s.Unsigned
	}
	fmt.Fprintf(w, "  sha256:     %s\n  signed:     %s\n  lives:      %s\n  asks for:   %s\n", s.SHA256, signed, m.Lifetime, wordList(catalog.Privileges(m.Requests)))
	if len(s.Wider) > 0 {
		fmt.Fprintf(w, "  newly:      %s\n", wordList(s.Wider))
	}
}

// confirmed asks on the standard input; no answer means no.
func confirmed(std streams, question string) bool {
	fmt.Fprint(std.Out, question+" [y/N] ")
	if std.In == nil {
		return false
	}
	line, err := bufio.NewReader(std.In).ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(std.Out)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}

func readPublicKey(file string) (sign.PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return sign.PublicKey{}, fmt.Errorf("read key: %w", err)
	}
	key, err := sign.ParsePublicKey(data)
	if err != nil {
		return sign.PublicKey{}, config.Hinted(fmt.Errorf("read key %s: %w", file, err), "give the .pub file that 'kelson plugin keygen' or minisign wrote")
	}
	return key, nil
}

type pluginRemoveCmd struct {
	pluginRef
	Yes bool `short:"y" help:"Do not ask."`
}

// Help gives examples.
func (pluginRemoveCmd) Help() string {
	return "Its entry leaves the catalog first, then the lock, then its files go; what it stored stays in plugins/state of the data dir. KIND/NAME@VERSION removes one version that is not in use. A bundled plugin can only be disabled.\n\nExamples:\n\n    kelson plugin remove cni/mynet\n    kelson plugin remove cni/mynet@1.1.0 --yes"
}

// Run removes all versions, or one.
func (c *pluginRemoveCmd) Run(env pluginEnv, std streams) error {
	ref, version, _ := strings.Cut(c.Plugin, "@")
	kind, name, err := pluginRef{ref}.find(env)
	if err != nil {
		return err
	}
	if !c.Yes && !confirmed(std, fmt.Sprintf("Remove %s/%s %s?", kind, name, version)) {
		return config.Hinted(errors.New("remove: not confirmed, nothing was changed"), "answer yes, or give --yes")
	}
	if err := env.Remove(kind, name, version); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "removed %s\n", strings.TrimSuffix(kind+"/"+name+"@"+version, "@"))
	return nil
}

type pluginEnableCmd struct{ pluginRef }

// Help gives examples.
func (pluginEnableCmd) Help() string {
	return "A version that was rolled back gets another chance.\n\nExamples:\n\n    kelson plugin enable cni/mynet"
}

// Run writes it into the catalog.
func (c *pluginEnableCmd) Run(env pluginEnv, std streams) error {
	return setEnabled(env, std, c.pluginRef, true, "enabled")
}

type pluginDisableCmd struct{ pluginRef }

// Help gives examples.
func (pluginDisableCmd) Help() string {
	return "A plugin that runs is not ended: it is no longer started.\n\nExamples:\n\n    kelson plugin disable cni/mynet"
}

// Run writes it into the catalog.
func (c *pluginDisableCmd) Run(env pluginEnv, std streams) error {
	return setEnabled(env, std, c.pluginRef, false, "disabled")
}

func setEnabled(env pluginEnv, std streams, ref pluginRef, on bool, done string) error {
	kind, name, err := ref.find(env)
	if err != nil {
		return err
	}
	if err := env.SetEnabled(kind, name, on); err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "%s %s/%s\n", done, kind, name)
	return nil
}

type pluginRollbackCmd struct {
	pluginRef
	Reason string `placeholder:"TEXT" default:"rolled back by hand" help:"Why; it is kept in the lock. Default: rolled back by hand."`
}

// Help gives examples.
func (pluginRollbackCmd) Help() string {
	return "The host does this by itself when a new version crashes again and again. 'kelson plugin enable' gives the version that was left another chance.\n\nExamples:\n\n    kelson plugin rollback cni/mynet --reason 'loses packets'"
}

// Run goes back.
func (c *pluginRollbackCmd) Run(env pluginEnv, std streams) error {
	kind, name, err := c.find(env)
	if err != nil {
		return err
	}
	p, err := env.Rollback(kind, name, c.Reason)
	if err != nil {
		return err
	}
	fmt.Fprintf(std.Out, "rolled back %s/%s to %s, generation %d\n", kind, name, p.Version, p.Generation)
	return nil
}
