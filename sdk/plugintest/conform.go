package plugintest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"testing"
	"time"

	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
	"github.com/kelson-io/kelson/sdk/serve"
)

// Program is a built plugin, in whatever language.
type Program struct {
	Path string
	// Args follow the program's name.
	Args []string
	// Env is added to the scrubbed environment, as KEY=value.
	Env []string
	// Config is a configuration that the plugin takes; empty means {}.
	Config json.RawMessage
	// Secrets gives values to the secrets that Config refers to, where not any
	// text will do.
	Secrets map[string]string
	// Lifetime is the plugin's, host (also if empty), node or on-demand. One of
	// lifetime node must survive its host.
	Lifetime string
}

// Conform judges a program by the base contract (sdk/proto/plugin/v1 and its
// handshake). Every subtest starts the program anew and talks to its socket;
// one waits for ten seconds, unless the test runs with -short. The program gets
// Program.Config, folders for state and sockets, and, for a kind with a contract
// of its own, nothing of that.
func Conform(t *testing.T, p Program) {
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.slow {
				t.Skip("takes ten seconds")
			}
			r := &run{Program: p, ctx: t.Context()}
			defer r.cleanUp()
			err := c.judge(r)
			if errors.Is(err, errNotAsked) {
				t.Skip(err)
			}
			if err != nil {
				t.Error(err)
				for _, pr := range r.started {
					t.Logf("the program printed:\n%s", pr.output.String())
				}
			}
		})
	}
}

// errNotAsked skips a check.
var errNotAsked = errors.New("not asked of a program of this lifetime")

// check is one demand of the contract.
type check struct {
	name  string
	slow  bool
	judge func(*run) error
}

func checks() []check {
	return []check{
		{name: "starts", judge: starts},
		{name: "describe", judge: describe},
		{name: "schema", judge: schema},
		{name: "validate", judge: validate},
		{name: "unknown-keys", judge: unknownKeys},
		{name: "wrong-types", judge: wrongTypes},
		{name: "malformed", judge: malformed},
		{name: "configure", judge: configure},
		{name: "cancellation", judge: cancellation},
		{name: "health", judge: health},
		{name: "heartbeat", slow: true, judge: heartbeat},
		{name: "metrics", judge: metrics},
		{name: "hostile-client", judge: hostileClient},
		{name: "secrets", judge: secrets},
		{name: "drain", judge: drain},
		{name: "sigterm", judge: sigterm},
		{name: "host-gone", judge: hostGone},
		{name: "node-lifetime", judge: nodeLifetime},
		{name: "restarts", judge: restarts},
		{name: "by-hand", judge: byHand},
	}
}

// run is one check under way.
type run struct {
	Program

	ctx     context.Context
	started []*process
	dirs    []string
	own     string // folder for state and run dir
}

// start is a fresh incarnation with a socket folder of its own.
func (r *run) start(env ...string) (*process, error) {
	dir, err := r.folder()
	if err != nil {
		return nil, err
	}
	return r.startIn(dir, env...)
}

func (r *run) startIn(dir string, env ...string) (*process, error) {
	pr, err := r.Program.start(dir, env...)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	r.started = append(r.started, pr)
	return pr, nil
}

func (r *run) folder() (string, error) {
	dir, err := os.MkdirTemp("", "kp")
	r.dirs = append(r.dirs, dir)
	return dir, err
}

func (r *run) cleanUp() {
	for _, pr := range r.started {
		pr.kill()
	}
	for _, dir := range r.dirs {
		os.RemoveAll(dir)
	}
}

// call bounds one call.
func (r *run) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.ctx, callTime)
}

// config is the good configuration.
func (r *run) config() json.RawMessage {
	if len(r.Config) == 0 {
		return json.RawMessage("{}")
	}
	return r.Config
}

// settings is the good configuration with all that belongs to it. The secrets'
// values are what must not be seen again.
func (r *run) settings(generation uint64) (*pluginv1.ConfigureRequest, error) {
	request := &pluginv1.ConfigureRequest{Config: r.config(), Secrets: map[string][]byte{}, Generation: generation}
	for name, value := range r.secretValues() {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		request.Secrets[name] = raw
	}
	if r.own == "" {
		own, err := r.folder()
		if err != nil {
			return nil, err
		}
		r.own = own
	}
	request.Host = &pluginv1.HostInfo{Version: "v0.0.0+conform", NodeName: "conform", StateDir: r.own + "/state", RunDir: r.own + "/run"}
	for _, dir := range []string{request.Host.GetStateDir(), request.Host.GetRunDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return request, nil
}

// secretValues are canaries by the names that the configuration refers to.
func (r *run) secretValues() map[string]string {
	values := map[string]string{"kelson-conform": "canary-7c1f-kelson-conform"}
	var doc any
	if json.Unmarshal(r.config(), &doc) == nil {
		references(doc, func(name string) { values[name] = "canary-7c1f-" + name })
	}
	maps.Copy(values, r.Secrets)
	return values
}

// references finds {"secret": "NAME"}.
func references(doc any, found func(name string)) {
	switch v := doc.(type) {
	case map[string]any:
		if name, ok := v["secret"].(string); ok && len(v) == 1 {
			found(name)
		}
		for _, child := range v {
			references(child, found)
		}
	case []any:
		for _, child := range v {
			references(child, found)
		}
	}
}

// configured is a process that took the good configuration.
func (r *run) configured(env ...string) (*process, error) {
	pr, err := r.start(env...)
	if err != nil {
		return nil, err
	}
	return pr, r.configure(pr, 1)
}

func (r *run) configure(pr *process, generation uint64) error {
	request, err := r.settings(generation)
	if err != nil {
		return err
	}
	ctx, cancel := r.call()
	defer cancel()
	answer, err := pr.Plugin.Configure(ctx, request)
	if err != nil {
		return fmt.Errorf("configure with %s: %w", r.config(), err)
	}
	if answer.GetRestartRequired() {
		return fmt.Errorf("configure with %s: a restart is required for what the process was given first", r.config())
	}
	return nil
}

// eventually polls until done says nil, and keeps the last reason.
func eventually(limit time.Duration, done func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := done()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// nodeEnv tells a program that it outlives the host.
const nodeEnv = serve.LifetimeKey + "=" + serve.LifetimeNode
