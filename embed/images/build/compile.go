package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// goTags leave out what a system image never uses: the resolver and user
// database of a C library, and gRPC's per-request tracing.
const goTags = "netgo,osusergo,grpcnotrace,nomsgpack"

// goFiles builds the recipe's Go program and fetches its licence.
func (b builder) goFiles(ctx context.Context, r recipe) ([]file, error) {
	dir := filepath.Join(b.recipes, r.Name)
	env := append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+b.arch)
	var ldflags strings.Builder
	ldflags.WriteString("-s -w -buildid=")
	for _, x := range r.Go.X {
		ldflags.WriteString(" -X " + x)
	}
	program, err := output(func(path string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags="+goTags,
			"-ldflags="+ldflags.String(), "-o", path, r.Go.Package)
		cmd.Dir, cmd.Env = dir, env
		return cmd
	})
	if err != nil {
		return nil, err
	}
	find := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", r.Go.Module)
	find.Dir, find.Env = dir, env
	module, err := find.Output()
	if err != nil {
		return nil, fmt.Errorf("find module %s: %w", r.Go.Module, err)
	}
	licence, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(module)), "LICENSE"))
	if err != nil {
		return nil, err
	}
	return []file{
		{Path: r.Target, Mode: 0o755, Data: program},
		{Path: "licenses/" + r.Name + "/LICENSE", Mode: 0o644, Data: licence},
	}, nil
}

// cFiles compiles the recipe's C file into a static program.
func (b builder) cFiles(ctx context.Context, r recipe) ([]file, error) {
	program, err := output(func(path string) *exec.Cmd {
		args := []string{
			"-static", "-Os", "-Wall", "-Wextra", "-Werror", "-s", "-ffunction-sections",
			"-Wl,--gc-sections", "-Wl,--build-id=none", "-o", path,
		}
		for _, d := range r.C.Defines {
			args = append(args, "-D"+d)
		}
		cmd := exec.CommandContext(ctx, compiler(), append(args, r.C.File)...)
		cmd.Dir = filepath.Join(b.recipes, r.Name)
		return cmd
	})
	if err != nil {
		return nil, err
	}
	return []file{{Path: r.Target, Mode: 0o755, Data: program}}, nil
}

// compiler is $CC or cc.
func compiler() string {
	if cc := os.Getenv("CC"); cc != "" {
		return cc
	}
	return "cc"
}

// output runs a command that writes its result to the path it is given.
func output(command func(path string) *exec.Cmd) ([]byte, error) {
	dir, err := os.MkdirTemp("", "kelson-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "program")
	cmd := command(path)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, bytes.TrimSpace(said.Bytes()))
	}
	return os.ReadFile(path)
}
