package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/boot"
)

// parallel is how many archives are imported at once: more only compete for
// the disk with the rest of the boot.
const parallel = 2

// The pauses between passes while containerd cannot be used.
const (
	minPause = 200 * time.Millisecond
	maxPause = 10 * time.Second
)

// Deps is what New needs.
type Deps struct {
	Socket      string        // containerd's
	Snapshotter func() string // known once containerd is started
	Payload     string        // folder of the payload's archives; a bad one here is an error
	User        string        // agent/images, watched
	Index       string        // file that remembers what was imported
	Log         hclog.Logger
}

// Importer is the step that imports the archives of two folders. It waits for
// containerd and goes on when containerd comes back after a failure.
type Importer struct {
	deps  Deps
	index *index

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{} // the watcher has ended
	first  chan struct{} // the first pass has succeeded
	err    error         // why it has not yet
	busy   map[string]*sync.Mutex
}

var _ boot.Step = (*Importer)(nil)

// New returns the step. It does no I/O.
func New(deps Deps) *Importer {
	return &Importer{deps: deps, first: make(chan struct{}), busy: map[string]*sync.Mutex{}}
}

// Name implements boot.Step.
func (i *Importer) Name() string { return "images" }

// Start begins the first pass, which is repeated until it succeeds; containerd
// need not be ready.
func (i *Importer) Start(ctx context.Context) error {
	client, err := i.connect()
	if err != nil {
		return err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	i.mu.Lock()
	i.cancel, i.done = cancel, make(chan struct{})
	i.index = loadIndex(i.deps.Index)
	i.mu.Unlock()
	go i.run(life, client)
	return nil
}

func (i *Importer) connect() (*containerd.Client, error) {
	client, err := containerd.New(i.deps.Socket, containerd.WithDefaultNamespace("k8s.io"), containerd.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	return client, nil
}

func (i *Importer) run(ctx context.Context, client *containerd.Client) {
	defer close(i.done)
	defer client.Close()
	watcher, err := i.watch()
	if err != nil {
		i.deps.Log.Warn("archives dropped in later are not imported before a restart", "dir", i.deps.User, "err", err)
	}
	if retry(ctx, func() error { return i.attempt(ctx, client) }) != nil {
		return
	}
	close(i.first)
	if watcher != nil {
		watcher.run(ctx, func(path string) { i.importAndLog(ctx, client, path) }, func(err error) {
			i.deps.Log.Warn("archives may have been missed, they are imported at the next start", "dir", i.deps.User, "err", err)
		})
	}
}

func (i *Importer) watch() (*watcher, error) {
	if err := os.MkdirAll(i.deps.User, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", i.deps.User, err)
	}
	return newWatcher(i.deps.User)
}

// retry calls do until it succeeds or ctx ends, with growing pauses.
func retry(ctx context.Context, do func() error) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// attempt is one first pass; what keeps it from success is told once.
func (i *Importer) attempt(ctx context.Context, client *containerd.Client) error {
	err := i.firstPass(ctx, client)
	i.mu.Lock()
	fresh := err != nil && (i.err == nil || i.err.Error() != err.Error())
	i.err = err
	i.mu.Unlock()
	if fresh && ctx.Err() == nil {
		i.deps.Log.Warn("images not imported yet, trying again", "err", err)
	}
	return err
}

// Ready waits until the payload's and the user's archives have been imported;
// the error is what kept the last pass from it.
func (i *Importer) Ready(ctx context.Context) error {
	select {
	case <-i.first:
		return nil
	case <-ctx.Done():
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err != nil {
		return fmt.Errorf("images not imported: %w", i.err)
	}
	return errors.New("images are still being imported")
}

// Stop ends the watch and a running import.
func (i *Importer) Stop(ctx context.Context) error {
	i.mu.Lock()
	cancel, done := i.cancel, i.done
	i.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// firstPass imports what is there: pause alone, then the rest in parallel, the
// user's last. Its error is about the payload, or about containerd: a bad
// archive of the user is named and skipped.
func (i *Importer) firstPass(ctx context.Context, client *containerd.Client) error {
	began := time.Now()
	payload, err := archivesIn(i.deps.Payload)
	if err != nil {
		return fmt.Errorf("list images of the payload: %w", err)
	}
	user, err := archivesIn(i.deps.User)
	if err != nil {
		i.deps.Log.Error("list images", "dir", i.deps.User, "err", err)
	}
	present, err := i.present(ctx, client)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	imported := 0
	one := func(path string) {
		fresh, err := i.ensure(ctx, client, path, present)
		mu.Lock()
		defer mu.Unlock()
		if fresh {
			imported++
		}
		switch {
		case err == nil || ctx.Err() != nil:
		case slices.Contains(payload, path) || unavailable(err):
			errs = append(errs, err)
		default:
			i.deps.Log.Error("archive skipped", "file", path, "err", err)
		}
	}
	rest := append(slices.Clone(payload), user...)
	if len(payload) > 0 {
		one(payload[0])
		rest = rest[1:]
	}
	slots := make(chan struct{}, parallel)
	var group sync.WaitGroup
	for _, path := range rest {
		slots <- struct{}{}
		group.Go(func() { one(path); <-slots })
	}
	group.Wait()
	if err := i.index.save(); err != nil {
		i.deps.Log.Warn("imports not remembered", "err", err)
	}
	if len(errs) > 0 || ctx.Err() != nil {
		return errors.Join(append(errs, ctx.Err())...)
	}
	i.deps.Log.Info("images available", "archives", len(payload)+len(user), "imported", imported, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// unavailable tells that containerd is the reason, which passes, rather than
// the archive.
func unavailable(err error) bool {
	return errdefs.IsUnavailable(err) || errdefs.IsCanceled(err) ||
		status.Code(err) == codes.Unavailable || status.Code(err) == codes.Canceled
}

// present maps the names of the images in containerd's store to their digests.
func (i *Importer) present(ctx context.Context, client *containerd.Client) (map[string]string, error) {
	list, err := client.ImageService().List(namespaces.WithNamespace(ctx, "k8s.io"))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := map[string]string{}
	for _, image := range list {
		out[image.Name] = image.Target.Digest.String()
	}
	return out, nil
}

// ensure imports an archive unless all its images are present already.
func (i *Importer) ensure(ctx context.Context, client *containerd.Client, path string, present map[string]string) (fresh bool, err error) {
	digest, err := i.index.digest(path)
	if err != nil {
		return false, err
	}
	defer i.lock(digest)()
	if known := i.index.contents(digest); len(known) > 0 && subset(known, present) {
		return false, nil
	}
	images, err := load(ctx, client, path, i.deps.Snapshotter())
	if err != nil {
		return false, err
	}
	i.index.record(digest, images)
	return true, nil
}

func subset(want, have map[string]string) bool {
	for name, digest := range want {
		if have[name] != digest {
			return false
		}
	}
	return true
}

func (i *Importer) lock(digest string) (unlock func()) {
	i.mu.Lock()
	m := i.busy[digest]
	if m == nil {
		m = new(sync.Mutex)
		i.busy[digest] = m
	}
	i.mu.Unlock()
	m.Lock()
	return m.Unlock
}

func (i *Importer) importAndLog(ctx context.Context, client *containerd.Client, path string) {
	var last error
	_ = retry(ctx, func() error {
		last = i.importOne(ctx, client, path)
		if last != nil && unavailable(last) && ctx.Err() == nil {
			return last
		}
		return nil
	})
	if last != nil && ctx.Err() == nil {
		i.deps.Log.Error("archive skipped", "file", path, "err", last)
	}
}

func (i *Importer) importOne(ctx context.Context, client *containerd.Client, path string) error {
	present, err := i.present(ctx, client)
	if err != nil {
		return err
	}
	fresh, err := i.ensure(ctx, client, path, present)
	if err != nil || !fresh {
		return err
	}
	i.deps.Log.Info("images imported", "file", path)
	return i.index.save()
}
