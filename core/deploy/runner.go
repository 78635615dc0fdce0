package deploy

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Retries of a failed apply: soon at first, since a starting API server is the
// usual reason, then patient.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 15 * time.Second
)

// runner is the engine while it runs. Its fields belong to the goroutine of
// run, but for client, which the jobs share.
type runner struct {
	engine    *Engine
	inventory *inventory
	watch     *watch // nil: the folder cannot be watched
	jobs      map[string]*job
	removing  map[string]bool
	removed   chan string // names from removing, when done
	wg        sync.WaitGroup

	mu     sync.Mutex
	client cluster
}

// job is the goroutine that applies one version of an addon.
type job struct {
	sum    string
	cancel context.CancelFunc
	done   chan struct{}
}

// run applies what is in the folder, then again at each change, until ctx
// ends. It returns when no goroutine is left.
func (r *runner) run(ctx context.Context, removed []string) {
	defer r.wg.Wait()
	r.removing, r.removed = map[string]bool{}, make(chan string, len(removed))
	for _, addon := range removed {
		r.removing[addon] = true
		r.wg.Go(func() {
			r.remove(ctx, addon)
			r.removed <- addon
		})
	}
	var changes <-chan struct{}
	if r.watch != nil {
		defer r.watch.close()
		changes = r.watch.run(ctx, &r.wg)
	}
	for {
		r.reconcile(ctx)
		select {
		case <-changes:
		case addon := <-r.removed:
			delete(r.removing, addon)
		case <-ctx.Done():
			return
		}
	}
}

// reconcile starts a job for each addon whose files have changed.
func (r *runner) reconcile(ctx context.Context) {
	log := r.engine.cfg.Log
	sources, err := scan(r.engine.manifests)
	if err != nil {
		log.Error("Manifests cannot be read", "reason", err)
		return
	}
	present := map[string]bool{}
	var batch []rendered
	sums := map[string]string{}
	for _, s := range sources {
		if r.removing[s.Addon] {
			continue // an addon of the same name is on its way out
		}
		present[s.Addon] = true
		sums[s.Addon] = s.sum()
		if j := r.jobs[s.Addon]; j == nil || j.sum != sums[s.Addon] {
			batch = append(batch, render(s))
		}
	}
	for addon, j := range r.jobs {
		if !present[addon] {
			j.stop()
			delete(r.jobs, addon)
			r.engine.board.drop(addon)
			log.Info("Manifest is gone; its objects stay in the cluster", "addon", addon)
		}
	}
	if err := r.inventory.note(batch); err != nil {
		// Without the journal nothing may be created; the next change or start
		// tries again.
		log.Error("Addons are not applied", "reason", err)
		for _, b := range batch {
			r.engine.board.set(b.Addon, func(s *Status) { s.State, s.Reason = StateFailed, err.Error() })
		}
		return
	}
	for _, b := range batch {
		r.launch(ctx, b.Addon, sums[b.Addon], func(ctx context.Context) { r.deploy(ctx, b) })
	}
}

// launch replaces the addon's job.
func (r *runner) launch(ctx context.Context, addon, sum string, work func(context.Context)) {
	if old := r.jobs[addon]; old != nil {
		old.stop()
	}
	ctx, cancel := context.WithCancel(ctx)
	j := &job{sum: sum, cancel: cancel, done: make(chan struct{})}
	r.jobs[addon] = j
	r.wg.Go(func() {
		defer close(j.done)
		defer cancel()
		work(ctx)
	})
}

func (j *job) stop() {
	j.cancel()
	<-j.done
}

// deploy applies an addon until all of it is in the cluster.
func (r *runner) deploy(ctx context.Context, addon rendered) {
	board, log := r.engine.board, r.engine.cfg.Log.With("addon", addon.Addon)
	faults := errors.Join(addon.Faults...)
	board.set(addon.Addon, func(s *Status) {
		s.State, s.Objects, s.Reason = StatePending, len(addon.Objects), ""
		if addon.Skipped && len(addon.Objects) == 0 && faults == nil {
			s.State = StateSkipped
		}
		if faults != nil {
			s.State, s.Reason = StateFailed, faults.Error()
		}
	})
	if faults != nil {
		log.Error("Manifest is not valid", "reason", faults)
	}
	if len(addon.Objects) == 0 && (faults != nil || addon.Skipped) {
		return
	}
	begin := time.Now()
	applied := newProgress(plan(addon.Objects))
	err := r.retry(ctx, addon.Addon, func(c cluster) error { return applied.advance(ctx, c, addon.Addon) })
	if err != nil {
		return // ended by ctx
	}
	took := time.Since(begin)
	log.Info("Applied addon", "objects", len(addon.Objects), "took", took.Round(time.Millisecond))
	board.set(addon.Addon, func(s *Status) {
		s.Took = took
		if faults == nil {
			s.State, s.Reason = StateApplied, ""
			return
		}
		s.State, s.Reason = StateFailed, faults.Error()
	})
}

// remove deletes what a disabled packaged component had brought.
func (r *runner) remove(ctx context.Context, addon string) {
	board, log := r.engine.board, r.engine.cfg.Log.With("addon", addon)
	known := r.inventory.get(addon)
	board.set(addon, func(s *Status) { s.Packaged, s.State, s.Objects = true, StateRemoving, len(known.Objects) })
	err := r.retry(ctx, addon, func(c cluster) error { return removeAll(ctx, c, addon, known.Objects) })
	if err != nil {
		return // ended by ctx
	}
	if err := r.inventory.forget(addon); err != nil {
		log.Warn("Removed addon stays in the inventory", "reason", err)
	}
	board.drop(addon)
	log.Info("Removed disabled addon", "objects", len(known.Objects))
}

// retry calls work with a client until it succeeds; the error is ctx's. The
// last reason is in the status, and logged when it changes.
func (r *runner) retry(ctx context.Context, addon string, work func(cluster) error) error {
	last := ""
	for wait := retryFirst; ; wait = min(wait*2, retryMost) {
		c, err := r.cluster()
		if err == nil {
			err = work(c)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason := err.Error()
		r.engine.board.set(addon, func(s *Status) {
			s.Reason = reason
			if s.State == StatePending && permanent(err) {
				s.State = StateFailed
			}
		})
		if reason != last {
			r.engine.cfg.Log.Warn("Addon is not applied yet", "addon", addon, "retry", wait, "reason", reason)
			last = reason
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// cluster connects once; a failure is tried again by the next call.
func (r *runner) cluster() (cluster, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	c, err := r.engine.connect()
	if err == nil {
		r.client = c
	}
	return c, err
}

// progress remembers which objects of an addon are applied.
type progress struct {
	waves [][]object
	done  map[*unstructured.Unstructured]bool
}

func newProgress(waves [][]object) *progress {
	return &progress{waves: waves, done: map[*unstructured.Unstructured]bool{}}
}

// advance applies what is missing, wave by wave. A fault in the foundation
// ends the attempt, since everything else would fail for the same reason;
// other faults do not hold up what comes later.
func (p *progress) advance(ctx context.Context, c cluster, addon string) error {
	var faults []error
	for _, w := range p.waves {
		var (
			mu    sync.Mutex
			wg    sync.WaitGroup
			slots = make(chan struct{}, maxParallel)
			bad   []error
		)
		for _, o := range w {
			if p.done[o.Unstructured] {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				err := c.Apply(ctx, addon, o.Unstructured)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					p.done[o.Unstructured] = true
				} else {
					bad = append(bad, &objectError{object: o, err: err})
				}
			})
		}
		wg.Wait()
		faults = append(faults, bad...)
		gvk := w[0].GroupVersionKind()
		if ctx.Err() != nil || len(bad) > 0 && (waveOf(gvk.Group, gvk.Kind) == waveFoundation || len(bad) == len(w)) {
			break
		}
	}
	return summary(faults)
}
