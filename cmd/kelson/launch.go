package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot/timeline"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/core/datadir/payload"
	"github.com/kelson-io/kelson/core/process"
)

// What a server needs beside the payload: to begin with, for the database,
// images and logs of an empty cluster, and to come up again. The server itself
// asks for more.
const (
	freeForState = 256 << 20
	freeToResume = 16 << 20
)

// extraction is when the payload was unpacked; ended is zero if it was there.
type extraction struct{ began, ended time.Time }

// launch becomes kelson-host; it returns only if that failed, never nil.
func launch(argv, environ []string) error {
	started := time.Now()
	args := argv[1:]
	if isClient(argv[0]) {
		args = nil // they are the client's
	}
	early, err := config.FindEarly(args, environ)
	if err != nil {
		return fmt.Errorf("find data dir: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	p, err := payload.Open(self)
	if err != nil {
		return err
	}
	verb := verbOf(argv)
	starts := verb == "server" && !asksHelp(args)
	if starts {
		if err := mayStart(early.DataDir, p); err != nil {
			return err
		}
	}
	extracted := extraction{began: time.Now()}
	there := isExecutable(filepath.Join(early.DataDir, "data", p.SHA256, "bin", "kelson-host"))
	dir, err := prepare(early.DataDir, p, starts || !isNeutral(verb, args))
	if err != nil {
		return err
	}
	if !there {
		extracted.ended = time.Now()
	}
	bin := filepath.Join(dir, "bin")
	env := withPath(environ, filepath.Join(filepath.Dir(dir), "cni"), bin, early.PreferBundledBin)
	if starts {
		env = append(keepNotifySocket(env), timeline.LaunchEnv(started, extracted.began, extracted.ended)...)
	}
	host := filepath.Join(bin, "kelson-host")
	return fmt.Errorf("start %s: %w", host, syscall.Exec(host, argv, env))
}

// isClient says if Kelson was called by the name of a client.
func isClient(argv0 string) bool {
	return slices.Contains([]string{"kubectl", "ctr", "crictl"}, filepath.Base(argv0))
}

// verbOf returns the first argument that is a verb or, if Kelson was called by
// the name of a client, that name.
func verbOf(argv []string) string {
	if isClient(argv[0]) {
		return filepath.Base(argv[0])
	}
	for i := 1; i < len(argv); i++ {
		switch a := argv[i]; {
		case slices.Contains([]string{"--data-dir", "-d", "--config", "-c"}, a):
			i++ // its value is no verb
		case !strings.HasPrefix(a, "-"):
			return a
		}
	}
	return ""
}

// mayStart refuses a start that must fail, before anything changes.
func mayStart(root string, p *payload.File) error {
	if os.Geteuid() != 0 {
		return &refusal{errors.New("a server must run as root"), "run it with sudo, or as a system service"}
	}
	need := int64(freeForState)
	if _, err := os.Stat(filepath.Join(root, "server", "db", "state.db")); err == nil {
		need = freeToResume
	}
	if _, err := os.Stat(filepath.Join(root, "data", p.SHA256)); err != nil {
		need += p.Size
	}
	return datadir.Check(root, need)
}

// keepNotifySocket renames the service manager's variable, see
// process.NotifySocketEnv.
func keepNotifySocket(environ []string) []string {
	out := slices.Clone(environ)
	for i, kv := range out {
		if socket, ok := strings.CutPrefix(kv, "NOTIFY_SOCKET="); ok {
			out[i] = process.NotifySocketEnv + "=" + socket
		}
	}
	return out
}

// isNeutral says if a command needs no data dir: it leaves none behind.
func isNeutral(verb string, args []string) bool {
	return slices.Contains([]string{"", "help", "version", "completion", "config", "check", "agent"}, verb) || asksHelp(args)
}

// asksHelp says if a command line ends with the flag for help.
func asksHelp(args []string) bool {
	return len(args) > 0 && slices.Contains([]string{"-h", "--help"}, args[len(args)-1])
}

// prepare returns the folder of the extracted payload: under the data dir if
// it is there or this user may put it there, else in a place of the user's own.
// A command that has no business in the data dir never puts it there.
func prepare(root string, p *payload.File, business bool) (string, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opt := datadir.ExtractOptions{Log: logger()}
	if business && os.Geteuid() == 0 {
		return datadir.Extract(ctx, root, p, opt)
	}
	if dir := filepath.Join(root, "data", p.SHA256); isExecutable(filepath.Join(dir, "bin", "kelson-host")) {
		return dir, nil
	}
	var errs []error
	for _, place := range ownPlaces(root, business) {
		dir, err := datadir.Extract(ctx, place, p, opt)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// ownPlaces are where a user who may not, or need not, extract to the data dir
// has the payload.
func ownPlaces(root string, business bool) []string {
	var places []string
	if business && root != datadir.Default {
		places = append(places, root)
	}
	home, err := os.UserHomeDir()
	if err == nil {
		places = append(places, filepath.Join(home, ".kelson"))
	}
	if cache, err := os.UserCacheDir(); err == nil {
		places = append(places, filepath.Join(cache, "kelson"))
	}
	// The owner of a folder there is checked, so nobody else's is used.
	return append(places, filepath.Join(os.TempDir(), fmt.Sprintf("kelson-%d", os.Geteuid())))
}

func isExecutable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0
}

// logger tells the story of an extraction on standard error, which scripts do
// not read. A verb that finds all in place logs nothing.
func logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "kelson", Output: os.Stderr, Level: hclog.Info})
}

// withPath returns environ with a PATH that finds the CNI plugins and our own
// programs first, and the bundled userspace tools after the host's, or before
// them if preferred.
func withPath(environ []string, cni, bin string, bundledFirst bool) []string {
	host := os.Getenv("PATH")
	var out []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "PATH=") {
			out = append(out, kv)
		}
	}
	aux := filepath.Join(bin, "aux")
	parts := []string{cni, bin, host, aux}
	if bundledFirst {
		parts = []string{cni, bin, aux, host}
	}
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	return append(out, "PATH="+strings.Join(parts, string(os.PathListSeparator)))
}

// refusal is an error with a remedy.
type refusal struct {
	error
	hint string
}

// Hint returns the remedy.
func (r *refusal) Hint() string { return r.hint }
