package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// goBinary is one Go program of the payload.
type goBinary struct {
	name    string
	dir     string // of the module that pins it
	pkg     string
	tags    string // "": those of GOFLAGS
	ldflags []string
	static  bool // cgo, linked statically by the C linker
}

// goBinaries compiles what the payload takes from Go modules, but for CNI.
func (b *builder) goBinaries() error {
	containerd, err := b.output("go", "list", "-m", "-f", "{{.Version}}", "github.com/containerd/containerd/v2")
	if err != nil {
		return err
	}
	crictl, err := b.output("go", "list", "-C", "embed/crictl", "-m", "-f", "{{.Version}}", "sigs.k8s.io/cri-tools")
	if err != nil {
		return err
	}
	for _, g := range []goBinary{
		{
			name: "containerd-shim-runc-v2", dir: ".",
			pkg:     "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
			ldflags: containerdFlags(containerd),
		},
		{
			name: "runc", dir: "embed/runc", pkg: "github.com/opencontainers/runc",
			tags: "seccomp,netgo,osusergo", static: true,
		},
		{
			name: "crictl", dir: "embed/crictl", pkg: "sigs.k8s.io/cri-tools/cmd/crictl",
			ldflags: []string{"-X", "sigs.k8s.io/cri-tools/pkg/version.Version=" + crictl},
		},
		{
			name: "kelson-host", dir: ".", pkg: "./cmd/kelson-host", static: true,
			ldflags: b.version.hostFlags(containerd),
		},
		{
			name: "kelson-plugins", dir: ".", pkg: "./cmd/kelson-plugins",
			ldflags: []string{"-X", "main.version=" + b.version.pluginsVersion()},
		},
		{name: "kelson-cni", dir: ".", pkg: "./cmd/kelson-cni"},
	} {
		if err := b.goBuild(g, b.out("bin", g.name)); err != nil {
			return err
		}
	}
	return nil
}

// goBuild compiles one program. The go command itself sees to it that nothing
// is compiled or linked again without need.
func (b *builder) goBuild(g goBinary, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	ldflags := append([]string{"-s", "-w"}, g.ldflags...)
	cgo := "CGO_ENABLED=0"
	if g.static {
		cgo = "CGO_ENABLED=1"
		ldflags = append(ldflags, "-linkmode", "external", "-extldflags", "-static")
	}
	args := []string{"build", "-C", g.dir, "-trimpath", "-buildvcs=false", "-ldflags", strings.Join(ldflags, " ")}
	if g.tags != "" {
		args = append(args, "-tags", g.tags)
	}
	args = append(args, "-o", out, g.pkg)
	cmd := exec.CommandContext(b.ctx, "go", args...)
	cmd.Env = append(os.Environ(), cgo)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w", g.pkg, err)
	}
	return nil
}

// launcher compiles cmd/kelson and appends the packed payload to it.
func (b *builder) launcher() error {
	bare := b.out("launcher")
	g := goBinary{dir: ".", pkg: "./cmd/kelson", ldflags: b.version.kelsonFlags()}
	if err := b.goBuild(g, bare); err != nil {
		return err
	}
	return b.join(bare, filepath.Join(b.dist, "kelson"))
}
