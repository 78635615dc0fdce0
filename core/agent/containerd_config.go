package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/kelson-io/kelson/core/agent/kernel"
	"github.com/kelson-io/kelson/core/datadir"
)

// DefaultPauseImage is the sandbox image in the payload.
const DefaultPauseImage = "docker.io/kelson/pause:3.10.2"

// ContainerdSettings is what containerd's configuration is made of.
type ContainerdSettings struct {
	Root, State  string
	Socket       string
	CNIBin       string
	CNIConf      string
	Runc         string // path of runc
	RuncRoot     string // its state, with the run dir's life
	PauseImage   string
	Snapshotter  string
	RegistryDir  string // certs.d
	Imports      string // pattern of drop-ins, "" for none
	Systemd      bool   // systemd's cgroup driver
	RestrictOOM  bool   // oom_score_adj cannot be lowered
	AppArmor     bool
	SELinux      bool
	NetNSUnder   bool // network namespaces below State, not /var/run/netns
	Unprivileged bool // pods may bind low ports and open ICMP sockets
	Debug        bool
	Disabled     []string // plugins that the node does not need
}

// NewContainerdSettings derives the settings for a data dir and host.
func NewContainerdSettings(l datadir.Layout, facts kernel.Facts, snapshotter, pauseImage string) ContainerdSettings {
	if pauseImage == "" {
		pauseImage = DefaultPauseImage
	}
	return ContainerdSettings{
		Root: l.Agent("containerd"), State: l.RunPath("containerd"), Socket: ContainerdSocket(l),
		CNIBin: l.CNIBin(), CNIConf: CNIConfDir(l), Runc: filepath.Join(l.Bin, "runc"),
		RuncRoot:   l.RunPath("runc"),
		PauseImage: pauseImage, Snapshotter: snapshotter,
		RegistryDir:  l.Agent("etc", "containerd", "certs.d"),
		Imports:      l.Agent("etc", "containerd", "config.toml.d", "*.toml"),
		Systemd:      facts.Cgroups.Driver() == "systemd",
		RestrictOOM:  !facts.Resource,
		AppArmor:     facts.AppArmor,
		SELinux:      facts.SELinux,
		NetNSUnder:   true,
		Unprivileged: !kernel.InUserNamespace(),
		Disabled:     unneededPlugins(snapshotter),
	}
}

// ContainerdSocket is where CRI and containerd's own API are served.
func ContainerdSocket(l datadir.Layout) string { return l.RunPath("containerd", "containerd.sock") }

// CNIConfDir is where the network's configuration appears once it is usable.
func CNIConfDir(l datadir.Layout) string { return l.Agent("etc", "cni", "net.d") }

// unneededPlugins names what containerd would set up for other uses than a
// Kubernetes node: each costs start time or memory.
func unneededPlugins(snapshotter string) []string {
	out := []string{
		"io.containerd.nri.v1.nri",
		"io.containerd.internal.v1.tracing",
		"io.containerd.tracing.processor.v1.otlp",
		"io.containerd.monitor.container.v1.restart",
		"io.containerd.image-verifier.v1.bindir",
		"io.containerd.differ.v1.erofs",
		"io.containerd.mount-handler.v1.erofs",
	}
	for _, name := range []string{"blockfile", "btrfs", "devmapper", "erofs", "zfs", "native", "overlayfs"} {
		if name != snapshotter {
			out = append(out, "io.containerd.snapshotter.v1."+name)
		}
	}
	return out
}

// containerdBase is the default configuration; a user's template includes it
// as {{ template "base" . }}.
const containerdBase = `# Written by Kelson at every start. To change it, put config.toml.tmpl beside
# it (with {{"{{"}} template "base" . {{"}}"}}), or files into config.toml.d/.
version = 3
root = {{ .Root | quote }}
state = {{ .State | quote }}
oom_score = {{ if .RestrictOOM }}0{{ else }}-999{{ end }}
{{- if .Imports }}
imports = [{{ .Imports | quote }}]
{{- end }}
disabled_plugins = [
{{- range .Disabled }}
  {{ . | quote }},
{{- end }}
]

[grpc]
  address = {{ .Socket | quote }}

[debug]
  level = "{{ if .Debug }}debug{{ else }}info{{ end }}"

[plugins."io.containerd.internal.v1.opt"]
  path = {{ printf "%s/opt" .Root | quote }}

# Its default names overlayfs, and without that snapshotter CRI would not load.
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = {{ .Snapshotter | quote }}

[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = {{ .Snapshotter | quote }}
  disable_snapshot_annotations = true
  discard_unpacked_layers = false
  use_local_image_pull = true

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = {{ .PauseImage | quote }}

[plugins."io.containerd.cri.v1.images".registry]
  config_path = {{ .RegistryDir | quote }}

[plugins."io.containerd.cri.v1.runtime"]
  enable_selinux = {{ .SELinux }}
  disable_apparmor = {{ not .AppArmor }}
  restrict_oom_score_adj = {{ .RestrictOOM }}
  enable_unprivileged_ports = {{ .Unprivileged }}
  enable_unprivileged_icmp = {{ .Unprivileged }}
  netns_mounts_under_state_dir = {{ .NetNSUnder }}
  device_ownership_from_security_context = false
  # kubelet has its own figures; each second, the default, wakes every shim.
  stats_collect_period = "10s"

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [{{ .CNIBin | quote }}]
  conf_dir = {{ .CNIConf | quote }}
  use_internal_loopback = true

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = {{ .Runc | quote }}
  Root = {{ .RuncRoot | quote }}
  SystemdCgroup = {{ .Systemd }}
`

// RenderContainerdConfig executes the user's template, or the default
// configuration if it is empty.
func RenderContainerdConfig(settings ContainerdSettings, userTemplate string) ([]byte, error) {
	t := template.New("base").Funcs(template.FuncMap{"quote": tomlQuote}).Option("missingkey=error")
	t, err := t.Parse(containerdBase)
	if err != nil {
		return nil, fmt.Errorf("parse containerd template: %w", err)
	}
	name := "base"
	if userTemplate != "" {
		name = "config.toml.tmpl"
		if _, err := t.New(name).Parse(userTemplate); err != nil {
			return nil, fmt.Errorf("parse containerd template: %w", err)
		}
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, name, settings); err != nil {
		return nil, fmt.Errorf("render containerd configuration: %w", err)
	}
	return out.Bytes(), nil
}

// tomlQuote writes a basic TOML string.
func tomlQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// writeContainerdConfig renders to <agent>/etc/containerd/config.toml and
// returns its path.
func writeContainerdConfig(l datadir.Layout, settings ContainerdSettings) (string, error) {
	dir := l.Agent("etc", "containerd")
	for _, d := range []string{dir, settings.RegistryDir, filepath.Dir(settings.Imports), settings.CNIConf} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", err
		}
	}
	user, err := os.ReadFile(filepath.Join(dir, "config.toml.tmpl"))
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	if matches, err := filepath.Glob(settings.Imports); err != nil || len(matches) == 0 {
		settings.Imports = "" // containerd refuses a pattern in a folder without files
	}
	raw, err := RenderContainerdConfig(settings, string(user))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.toml")
	return path, datadir.WriteFile(path, raw, 0o600)
}
