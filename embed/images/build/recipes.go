package main

// repository is where the images are named; nothing is ever pulled from it.
const repository = "docker.io/kelson/"

// recipe says what one image holds. It is a value: its JSON is part of the
// key that decides whether an image must be built again.
type recipe struct {
	Name    string
	Version string // the image's tag
	Licence string // SPDX
	Source  string // where the program comes from
	Target  string // path of the program in the image
	Go      *goProgram
	C       *cProgram
	Debian  *debianProgram

	User       string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
}

// Reference is the image's full name.
func (r recipe) Reference() string { return repository + r.Name + ":" + r.Version }

// goProgram is built in the recipe's folder, whose go.mod pins everything.
type goProgram struct {
	Package string   // import path, or "." for the recipe's own
	Module  string   // module whose LICENSE file goes into the image
	X       []string // "path.name=value" set by the linker
}

// cProgram is one C file of the recipe's folder, linked statically.
type cProgram struct {
	File    string
	Defines []string
}

// debianProgram is a file of a Debian package that the lock file pins.
type debianProgram struct {
	Package string
	File    string // path in the package
	Licence string // path of the copyright file in the package
	Applets bool   // the program is busybox: link each applet beside it
}

// table is every system image.
func table() []recipe {
	return []recipe{
		{
			Name: "pause", Version: "3.10.2", Licence: "Apache-2.0",
			Source: "https://github.com/kelson-io/kelson", Target: "pause",
			C:    &cProgram{File: "pause.c", Defines: []string{`VERSION="3.10.2"`}},
			User: "65535:65535", Entrypoint: []string{"/pause"},
		},
		{
			Name: "coredns", Version: "1.15.0", Licence: "Apache-2.0",
			Source: "https://github.com/coredns/coredns", Target: "coredns",
			Go: &goProgram{
				Package: ".",
				Module:  "github.com/coredns/coredns",
				X:       []string{"github.com/coredns/coredns/coremain.GitCommit=v1.15.0"},
			},
			User: "65532:65532", Entrypoint: []string{"/coredns"}, WorkingDir: "/",
		},
		{
			Name: "local-path-provisioner", Version: "0.0.30", Licence: "Apache-2.0",
			Source: "https://github.com/rancher/local-path-provisioner", Target: "usr/bin/local-path-provisioner",
			Go: &goProgram{
				Package: "github.com/rancher/local-path-provisioner",
				Module:  "github.com/rancher/local-path-provisioner",
				X:       []string{"main.VERSION=v0.0.30"},
			},
			User: "65534:65534", Entrypoint: []string{"/usr/bin/local-path-provisioner"},
		},
		{
			Name: "metrics-server", Version: "0.9.0", Licence: "Apache-2.0",
			Source: "https://github.com/kubernetes-sigs/metrics-server", Target: "metrics-server",
			Go: &goProgram{
				Package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
				Module:  "sigs.k8s.io/metrics-server",
				X:       []string{"k8s.io/client-go/pkg/version.gitVersion=v0.9.0"},
			},
			User: "65534:65534", Entrypoint: []string{"/metrics-server"},
		},
		{
			Name: "busybox", Version: "1.35.0", Licence: "GPL-2.0-only",
			Source: "https://packages.debian.org/bookworm/busybox-static", Target: "bin/busybox",
			Debian: &debianProgram{
				Package: "busybox-static",
				File:    "bin/busybox",
				Licence: "usr/share/doc/busybox-static/copyright",
				Applets: true,
			},
			Cmd: []string{"sh"},
		},
	}
}
