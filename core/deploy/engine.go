package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/hashicorp/go-hclog"
	"k8s.io/client-go/rest"

	"github.com/kelson-io/kelson/core/boot"
	"github.com/kelson-io/kelson/core/datadir"
)

// Config is what an Engine works with.
type Config struct {
	Layout     datadir.Layout
	Disable    []string                     // packaged components not to deploy
	Packaged   fs.FS                        // one folder per packaged component
	Values     map[string]string            // of the tokens in Packaged, see Values
	RESTConfig func() (*rest.Config, error) // administrator's access; called until it succeeds
	Log        hclog.Logger                 // nil: silent
}

// Engine keeps the cluster at what the manifests folder says. It is the boot
// step "addons": Start stages the packaged components and launches, Ready
// returns when they are applied (not: healthy), and until Stop a changed file
// is applied again.
type Engine struct {
	cfg       Config
	manifests string // the folder
	board     *board
	connect   func() (cluster, error)

	mu       sync.Mutex
	started  bool
	packaged []string // what Ready waits for
	cancel   context.CancelFunc
	done     chan struct{} // closed when nothing is left running
}

var _ boot.Step = (*Engine)(nil)

// New returns an engine that has not started.
func New(cfg Config) *Engine {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	e := &Engine{cfg: cfg, manifests: cfg.Layout.Server("manifests"), board: newBoard()}
	e.connect = func() (cluster, error) {
		config, err := cfg.RESTConfig()
		if err != nil {
			return nil, err
		}
		return newCluster(config)
	}
	return e
}

// Name implements boot.Step.
func (e *Engine) Name() string { return "addons" }

// Start writes the packaged components into the manifests folder and begins to
// apply what is there. The API server need not be up.
func (e *Engine) Start(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.started {
		return errors.New("start addons: already started")
	}
	inv, err := openInventory(e.cfg.Layout.Server("addons.json"))
	if err != nil {
		// What earlier boots brought cannot be removed by --disable until it
		// has been applied once more; everything else works.
		e.cfg.Log.Warn("Addon inventory is not readable and is written anew", "reason", err)
	}
	wanted, removed, err := e.stage(inv)
	if err != nil {
		return fmt.Errorf("start addons: %w", err)
	}
	for _, addon := range wanted {
		e.board.set(addon, func(s *Status) { s.Packaged, s.State = true, StatePending })
	}
	watch, err := newWatch(e.manifests)
	if err != nil {
		e.cfg.Log.Warn("Changed manifests are applied at the next start only", "reason", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.started, e.packaged, e.cancel, e.done = true, wanted, cancel, make(chan struct{})
	r := &runner{engine: e, inventory: inv, watch: watch, jobs: map[string]*job{}}
	go func() {
		defer close(e.done)
		r.run(ctx, removed)
	}()
	return nil
}

// Ready implements boot.Step.
func (e *Engine) Ready(ctx context.Context) error {
	e.mu.Lock()
	packaged, started := e.packaged, e.started
	e.mu.Unlock()
	if !started {
		return errors.New("addons are not started")
	}
	return e.board.wait(ctx, packaged)
}

// Stop ends what is running; the cluster keeps what it has.
func (e *Engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	cancel, done := e.cancel, e.done
	e.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("stop addons: a request to the API server has not ended")
	}
}

// Status returns one row per addon, by name.
func (e *Engine) Status() []Status { return e.board.list() }
