package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// versions are the identities that the linker writes into the binaries.
type versions struct {
	kelson     string // v1.37.2+kelson1
	kubernetes string // v1.37.2
	commit     string
	date       string // of the commit, RFC 3339, so that builds repeat
}

func (b *builder) readVersions(revision int) (versions, error) {
	kube, err := b.output("go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return versions{}, err
	}
	v := versions{
		kubernetes: kube,
		kelson:     fmt.Sprintf("%s+kelson%d", kube, revision),
		commit:     "unknown",
		date:       "1970-01-01T00:00:00Z",
	}
	// A source archive without history still builds, without an identity.
	if head, err := b.output("git", "log", "-1", "--format=%H %ct"); err == nil {
		commit, stamp, _ := strings.Cut(head, " ")
		sec, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			return versions{}, fmt.Errorf("commit date %q: %w", stamp, err)
		}
		v.commit, v.date = commit, time.Unix(sec, 0).UTC().Format(time.RFC3339)
	}
	return v, nil
}

// kelsonFlags are the -X flags of our own binaries.
func (v versions) kelsonFlags() []string {
	const pkg = "github.com/kelson-io/kelson/core/version."
	return []string{
		"-X", pkg + "kelson=" + v.kelson,
		"-X", pkg + "gitCommit=" + v.commit,
		"-X", pkg + "buildDate=" + v.date,
	}
}

// hostFlags are the -X flags of kelson-host: without them a node reports
// v0.0.0-master, and clients no version at all.
func (v versions) hostFlags(containerd string) []string {
	flags := v.kelsonFlags()
	major, minor, _ := strings.Cut(strings.TrimPrefix(v.kubernetes, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	for _, pkg := range []string{"k8s.io/component-base/version.", "k8s.io/client-go/pkg/version."} {
		flags = append(flags,
			"-X", pkg+"gitVersion="+v.kelson,
			"-X", pkg+"gitMajor="+major,
			"-X", pkg+"gitMinor="+minor,
			"-X", pkg+"gitCommit="+v.commit,
			"-X", pkg+"gitTreeState=clean",
			"-X", pkg+"buildDate="+v.date,
		)
	}
	return append(flags, containerdFlags(containerd)...)
}

func containerdFlags(version string) []string {
	const pkg = "github.com/containerd/containerd/v2/version."
	return []string{"-X", pkg + "Version=" + version, "-X", pkg + "Revision=" + version}
}

// output runs a command and returns its trimmed standard output.
func (b *builder) output(name string, args ...string) (string, error) {
	out, err := exec.CommandContext(b.ctx, name, args...).Output()
	if err != nil {
		var detail string
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			detail = ": " + strings.TrimSpace(string(e.Stderr))
		}
		return "", fmt.Errorf("run %s %s: %w%s", name, strings.Join(args, " "), err, detail)
	}
	return strings.TrimSpace(string(out)), nil
}
