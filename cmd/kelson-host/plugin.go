package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/catalog"
	"github.com/kelson-io/kelson/core/status"
	"github.com/kelson-io/kelson/sdk/manifest"
)

type pluginCmd struct {
	Catalog string `name:"plugin-catalog" placeholder:"FILE" help:"The administrator's plugin catalog. Default: plugin-catalog.yaml in /etc/kelson."`

	List     pluginListCmd     `cmd:"" help:"List the plugins that are there and whether they may run."`
	Info     pluginInfoCmd     `cmd:"" help:"Show everything that is known of a plugin."`
	Install  pluginInstallCmd  `cmd:"" help:"Install a plugin from a folder, an archive or a URL."`
	Remove   pluginRemoveCmd   `cmd:"" help:"Remove an installed plugin."`
	Enable   pluginEnableCmd   `cmd:"" help:"Let a plugin run again."`
	Disable  pluginDisableCmd  `cmd:"" help:"Keep a plugin from running."`
	Verify   pluginVerifyCmd   `cmd:"" help:"Compare plugins with their digests and signatures."`
	Rollback pluginRollbackCmd `cmd:"" help:"Go back to the last generation that ran well."`
	Logs     pluginLogsCmd     `cmd:"" help:"Print what a plugin wrote."`
	Doctor   pluginDoctorCmd   `cmd:"" help:"Explain why a plugin does not run."`
	Keygen   pluginKeygenCmd   `cmd:"" help:"Make a key to sign plugins with."`
	Sign     pluginSignCmd     `cmd:"" help:"Sign a built plugin."`
}

// pluginEnv is what the plugin verbs share.
type pluginEnv struct {
	*catalog.Catalog

	dirs dirs
}

// BeforeApply lets every verb below take a pluginEnv.
func (c *pluginCmd) BeforeApply(ctx *kong.Context) error {
	return ctx.BindToProvider(func(g globals) (pluginEnv, error) { return c.env(g) })
}

func (c *pluginCmd) env(g globals) (pluginEnv, error) {
	d, err := g.dirs()
	if err != nil {
		return pluginEnv{}, err
	}
	file := c.Catalog
	if file == "" {
		file = configuredCatalog(g)
	}
	return pluginEnv{Catalog: catalog.New(catalog.Deps{Layout: d.Layout, File: file}), dirs: d}, nil
}

// configuredCatalog is the server's; a configuration that is not valid is the
// server's to complain about.
func configuredCatalog(g globals) string {
	r, err := config.Resolve(config.Inputs{Flags: g.flags(), Environ: os.Environ()})
	if err != nil {
		return ""
	}
	for _, v := range r.Values {
		if v.Option.Name == "plugin-catalog" {
			return strings.Join(v.Texts(), "")
		}
	}
	return ""
}

// pluginRef is the argument KIND/NAME.
type pluginRef struct {
	Plugin string `arg:"" placeholder:"KIND/NAME" help:"The plugin as KIND/NAME, or its name alone where that is clear."`
}

// find splits the argument.
func (r pluginRef) find(env pluginEnv) (kind, name string, err error) {
	if kind, name, ok := strings.Cut(r.Plugin, "/"); ok {
		if !manifest.ValidName(name) || !manifest.ValidName(kind) {
			return "", "", usageError{config.Hinted(fmt.Errorf("%q is no plugin", r.Plugin), "write KIND/NAME, like cni/flannel")}
		}
		return kind, name, nil
	}
	items, err := env.List()
	if err != nil {
		return "", "", err
	}
	var found, names []string
	for _, it := range items {
		names = append(names, it.Name)
		if it.Name == r.Plugin {
			found = append(found, it.Kind)
		}
	}
	switch len(found) {
	case 1:
		return found[0], r.Plugin, nil
	case 0:
		hint := "see 'kelson plugin list'"
		if near := config.Nearest(r.Plugin, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		return "", "", config.Hinted(fmt.Errorf("plugin: there is no %s", r.Plugin), hint)
	default:
		return "", "", config.Hinted(fmt.Errorf("plugin: %s is one of %s", r.Plugin, strings.Join(found, " and ")), "write "+found[0]+"/"+r.Plugin)
	}
}

// pluginState is what the running server tells of one plugin.
type pluginState struct {
	PID      int    `json:"pid,omitempty"`
	Restarts uint64 `json:"restarts,omitempty"` // after a failure
	Phase    string `json:"phase,omitempty"`
	Message  string `json:"message,omitempty"`
}

// pluginStates reads them by kind/name from what the running server publishes;
// none while no server runs.
func pluginStates(d dirs) map[string]pluginState {
	s, err := status.Read(d.statusFile())
	if err != nil || !alive(s.PID) {
		return nil
	}
	states := map[string]pluginState{}
	for _, p := range s.Plugins {
		states[p.Kind+"/"+p.Name] = pluginState{PID: p.PID, Restarts: p.Restarts, Phase: p.Phase, Message: p.Message}
	}
	return states
}

type pluginListCmd struct{ output }

// Help gives examples.
func (pluginListCmd) Help() string {
	return "Plugins that lie in the data dir and that no catalog lists are shown too; they never run.\n\nExamples:\n\n    kelson plugin list\n    kelson plugin list -o json"
}

type listedPlugin struct {
	catalog.Item

	State *pluginState `json:"state,omitempty"`
}

// Run lists the catalog's plugins and the others.
func (c *pluginListCmd) Run(env pluginEnv, std streams) error {
	items, err := env.List()
	if err != nil {
		return err
	}
	states := pluginStates(env.dirs)
	list, rows := make([]listedPlugin, len(items)), make([][]string, len(items))
	for i, it := range items {
		list[i].Item = it
		phase := "-"
		if s, ok := states[it.Kind+"/"+it.Name]; ok {
			list[i].State, phase = &s, s.Phase
		}
		version := it.Version
		if it.Running != "" {
			version = it.Running
		}
		if version == "" {
			version = strings.Join(it.Versions, ",")
		}
		rows[i] = []string{it.Kind, it.Name, version, pluginOrigin(it), pluginEnabled(it), phase, it.Note}
	}
	return c.emit(std.Out, list, func(w io.Writer) error {
		return writeTable(w, "KIND NAME VERSION SOURCE ENABLED STATE NOTE", rows)
	})
}

func pluginOrigin(it catalog.Item) string {
	switch {
	case it.Bundled:
		return "bundled"
	case it.Listed:
		return "installed"
	default:
		return "unlisted"
	}
}

func pluginEnabled(it catalog.Item) string {
	if it.Enabled && it.Default {
		return "yes, default"
	}
	return yesNo(it.Enabled)
}

type pluginInfoCmd struct {
	pluginRef
	output
}

// Help gives examples.
func (pluginInfoCmd) Help() string {
	return "The generations are what ran or may be gone back to. With -o json or yaml the JSON Schema of the configuration is printed too. Secrets are named, not shown.\n\nExamples:\n\n    kelson plugin info cni/flannel\n    kelson plugin info cni/flannel -o yaml"
}

// Run prints one plugin.
func (c *pluginInfoCmd) Run(env pluginEnv, std streams) error {
	kind, name, err := c.find(env)
	if err != nil {
		return err
	}
	info, err := env.Info(kind, name)
	if err != nil {
		return err
	}
	return c.emit(std.Out, info, func(w io.Writer) error { return infoTable(w, info) })
}

func infoTable(w io.Writer, info catalog.Info) error {
	rows := [][]string{}
	add := func(key, value string) {
		if value != "" && value != "[]" {
			rows = append(rows, []string{key, value})
		}
	}
	add("summary", info.Summary)
	add("version", info.Version)
	add("listed in", info.ListedIn)
	add("enabled", pluginEnabled(info.Item))
	add("lifetime", info.Lifetime)
	add("contract", fmt.Sprint(info.Protocols))
	add("capabilities", strings.Join(info.Capabilities, ", "))
	if info.Requests != nil {
		add("asks for", wordList(catalog.Privileges(*info.Requests)))
	}
	add("program", info.Program)
	add("signed by", info.Signer)
	add("config", string(info.Config))
	add("secrets", strings.Join(info.Secrets, ", "))
	add("note", info.Note)
	add("problem", info.Problem)
	add("remedy", info.Hint)
	if err := writeTable(w, "PLUGIN "+info.Kind+"/"+info.Name, rows); err != nil || len(info.Generations) == 0 {
		return err
	}
	fmt.Fprintln(w)
	rows = make([][]string, len(info.Generations))
	for i, g := range info.Generations {
		note := "never ran well"
		if g.Good != nil {
			note = "ran well"
		}
		if g.Failed != "" {
			note = "failed: " + g.Failed
		}
		active := ""
		if g.Generation == info.Active {
			active = "*"
		}
		rows[i] = []string{active + strconv.FormatUint(g.Generation, 10), g.Version, g.SHA256[:12], g.Added.Format("2006-01-02 15:04"), note}
	}
	return writeTable(w, "GENERATION VERSION SHA256 ADDED NOTE", rows)
}

func wordList(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}
