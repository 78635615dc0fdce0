package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/boot"
)

// parallel is how many archives are imported at once: more only compete for
// the disk with the rest of the boot.
const parallel = 2

// Deps is what New needs.
type Deps struct {
	Socket      string        // containerd's
	Snapshotter func() string // known once containerd is started
	Payload     string        // folder of the payload's archives; a bad one here is an error
	User        string        // agent/images, watched
	Index       string        // file that remembers what was imported
	Log         hclog.Logger
}

// Importer is the step that imports the archives of two folders.
type Importer struct {
	deps  Deps
	index *index

	mu     sync.Mutex
	cancel context.CancelFunc
	done   chan struct{} // the watcher has ended
	first  chan struct{} // the first pass has ended
	err    error         // of the payload's archives
	busy   map[string]*sync.Mutex
}

var _ boot.Step = (*Importer)(nil)

// New returns the step. It does no I/O.
func New(deps Deps) *Importer {
	return &Importer{deps: deps, first: make(chan struct{}), busy: map[string]*sync.Mutex{}}
}

// Name implements boot.Step.
func (i *Importer) Name() string { return "images" }

// Start begins the first pass; containerd must be ready.
func (i *Importer) Start(ctx context.Context) error {
	client, err := i.connect()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(i.deps.User, 0o700); err != nil {
		_ = client.Close()
		return fmt.Errorf("make %s: %w", i.deps.User, err)
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
	watcher, err := newWatcher(i.deps.User)
	if err != nil {
		i.deps.Log.Warn("archives dropped in later are not imported before a restart", "dir", i.deps.User, "err", err)
	}
	err = i.firstPass(ctx, client)
	i.mu.Lock()
	i.err = err
	i.mu.Unlock()
	close(i.first)
	if watcher != nil {
		watcher.run(ctx, func(path string) { i.importAndLog(ctx, client, path) })
	}
}

// Ready waits until the payload's and the user's archives have been imported.
func (i *Importer) Ready(ctx context.Context) error {
	select {
	case <-i.first:
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.err
	case <-ctx.Done():
		return errors.New("images are still being imported")
	}
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
// user's last. Its error is about the payload.
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
		case slices.Contains(payload, path):
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
	i.deps.Log.Info("images available", "archives", len(payload)+len(user), "imported", imported, "took", time.Since(began).Round(time.Millisecond))
	return errors.Join(errs...)
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
	present, err := i.present(ctx, client)
	if err == nil {
		var fresh bool
		if fresh, err = i.ensure(ctx, client, path, present); err == nil && fresh {
			i.deps.Log.Info("images imported", "file", path)
			err = i.index.save()
		}
	}
	if err != nil && ctx.Err() == nil {
		i.deps.Log.Error("archive skipped", "file", path, "err", err)
	}
}

// load imports one archive, pins its images and unpacks them.
func load(ctx context.Context, client *containerd.Client, path, snapshotter string) (map[string]string, error) {
	stream, err := openArchive(path)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	list, err := client.Import(ctx, stream, containerd.WithImageLabels(map[string]string{
		"io.cri-containerd.image":  "managed",
		"io.cri-containerd.pinned": "pinned",
	}), containerd.WithImageRefTranslator(canonical))
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("import %s: no named image for this platform in it", path)
	}
	out := map[string]string{}
	for _, record := range list {
		if err := unpack(ctx, client, record, snapshotter); err != nil {
			return nil, fmt.Errorf("unpack %s of %s: %w", record.Name, path, err)
		}
		out[record.Name] = record.Target.Digest.String()
	}
	return out, nil
}

func unpack(ctx context.Context, client *containerd.Client, record coreimages.Image, snapshotter string) error {
	image := containerd.NewImage(client, record)
	done, err := image.IsUnpacked(ctx, snapshotter)
	if err != nil || done {
		return err
	}
	return image.Unpack(ctx, snapshotter)
}

// canonical completes a short name as CRI does, since kubelet asks for images
// by the complete one.
func canonical(ref string) string {
	if ref == "" || strings.HasPrefix(ref, "sha256:") {
		return ""
	}
	name, _, _ := strings.Cut(ref, "@")
	if slash := strings.LastIndexByte(name, '/'); !strings.Contains(name[slash+1:], ":") && name == ref {
		ref += ":latest"
	}
	domain, _, found := strings.Cut(ref, "/")
	switch {
	case !found:
		return "docker.io/library/" + ref
	case strings.ContainsAny(domain, ".:") || domain == "localhost":
		return ref
	}
	return "docker.io/" + ref
}

// Image is one image of the node.
type Image struct {
	Name   string    `json:"name"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"` // of its content, compressed as stored
	Pinned bool      `json:"pinned"`
	Made   time.Time `json:"created"` // when containerd got it
}

// List returns the named images in containerd's store, sorted by name.
func (i *Importer) List(ctx context.Context) ([]Image, error) {
	client, err := i.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	list, err := client.ListImages(namespaces.WithNamespace(ctx, "k8s.io"))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, image := range list {
		if strings.HasPrefix(image.Name(), "sha256:") {
			continue
		}
		size, err := image.Size(ctx)
		if err != nil {
			size = 0 // part of the content is missing: still listed
		}
		out = append(out, Image{
			Name: image.Name(), Digest: image.Target().Digest.String(), Size: size,
			Pinned: image.Labels()["io.cri-containerd.pinned"] == "pinned", Made: image.Metadata().CreatedAt,
		})
	}
	slices.SortFunc(out, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Import imports one archive and returns the names of its images, sorted. It
// needs no Start.
func (i *Importer) Import(ctx context.Context, file string) ([]string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	client, err := i.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	images, err := load(ctx, client, path, i.deps.Snapshotter())
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range images {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
