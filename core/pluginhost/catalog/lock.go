package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// LockName is the file in plugins/ that says what was resolved.
const LockName = "plugin-catalog.lock"

const (
	lockFormat = 1
	history    = 5 // generations kept for each plugin
	maxLock    = 4 << 20
	// lockTime bounds the wait for another process that writes the lock.
	lockTime = 10 * time.Second
)

// Generation is one program of a plugin that was resolved. JSON names are stable.
type Generation struct {
	Generation uint64     `json:"generation"`
	Version    string     `json:"version"`
	Bundled    bool       `json:"bundled,omitempty"`
	Source     string     `json:"source,omitempty"`   // where it was installed from
	Manifest   string     `json:"manifest,omitempty"` // SHA-256 of plugin.yaml, hex; not of bundled ones
	SHA256     string     `json:"sha256"`             // of the executable, hex
	Path       string     `json:"path"`               // of the executable; in the data dir if relative
	Args       []string   `json:"args,omitempty"`
	Lifetime   string     `json:"lifetime"`
	Protocols  []uint32   `json:"protocols"`
	Signer     string     `json:"signer,omitempty"` // id of the key
	Added      time.Time  `json:"added"`
	Good       *time.Time `json:"good,omitempty"`   // when it last was reported to run well
	Failed     string     `json:"failed,omitempty"` // why it was rolled back
}

// same reports whether both are the same files.
func (g Generation) same(o Generation) bool {
	return g.Version == o.Version && g.Bundled == o.Bundled && g.Manifest == o.Manifest && g.SHA256 == o.SHA256 && slices.Equal(g.Args, o.Args)
}

// Record is what the lock knows of one plugin.
type Record struct {
	Kind        string       `json:"kind"`
	Name        string       `json:"name"`
	Active      uint64       `json:"active"` // the generation that runs
	Generations []Generation `json:"generations"`
}

type lockFile struct {
	Format  int       `json:"format"`
	Plugins []*Record `json:"plugins"`
}

func (l *lockFile) record(kind, name string) *Record {
	i := slices.IndexFunc(l.Plugins, func(r *Record) bool { return r.Kind == kind && r.Name == name })
	if i < 0 {
		return nil
	}
	return l.Plugins[i]
}

// make returns the record, a new one if there is none.
func (l *lockFile) make(kind, name string) *Record {
	if r := l.record(kind, name); r != nil {
		return r
	}
	r := &Record{Kind: kind, Name: name}
	l.Plugins = append(l.Plugins, r)
	return r
}

// active is the generation that runs, nil if there is none.
func (r *Record) active() *Generation { return r.generation(r.Active) }

func (r *Record) generation(n uint64) *Generation {
	i := slices.IndexFunc(r.Generations, func(g Generation) bool { return g.Generation == n })
	if i < 0 {
		return nil
	}
	return &r.Generations[i]
}

// of is the newest generation of the same files.
func (r *Record) of(g Generation) *Generation {
	for i := range slices.Backward(r.Generations) {
		if r.Generations[i].same(g) {
			return &r.Generations[i]
		}
	}
	return nil
}

// lastGood is the newest generation besides the active one that ran well.
func (r *Record) lastGood() *Generation {
	var best *Generation
	for i := range r.Generations {
		g := &r.Generations[i]
		if g.Generation != r.Active && g.Good != nil && g.Failed == "" && (best == nil || g.Good.After(*best.Good)) {
			best = g
		}
	}
	return best
}

// add makes g the active generation and forgets the oldest ones, but for the
// last that ran well. It returns what was forgotten.
func (r *Record) add(g Generation) []Generation {
	g.Generation = 1
	for _, o := range r.Generations {
		g.Generation = max(g.Generation, o.Generation+1)
	}
	r.Active = g.Generation
	r.Generations = append(r.Generations, g)
	var gone []Generation
	keep := r.lastGood()
	for i := 0; i < len(r.Generations) && len(r.Generations) > history; {
		if keep != nil && r.Generations[i].Generation == keep.Generation {
			i++
			continue
		}
		gone = append(gone, r.Generations[i])
		r.Generations = slices.Delete(r.Generations, i, i+1)
		keep = r.lastGood()
	}
	return gone
}

func (c *Catalog) lockPath() string { return c.plugins(LockName) }

// readLock reads the lock; a missing one is empty.
func (c *Catalog) readLock() (*lockFile, error) {
	data, err := os.ReadFile(c.lockPath())
	if errors.Is(err, fs.ErrNotExist) {
		return &lockFile{Format: lockFormat}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read plugin lock: %w", err)
	}
	l, err := parseLock(data)
	if err != nil {
		return nil, config.Hinted(fmt.Errorf("read plugin lock %s: %w", c.lockPath(), err),
			"it is not meant to be edited: restore it, or remove it and install the plugins again")
	}
	return l, nil
}

func parseLock(data []byte) (*lockFile, error) {
	if len(data) > maxLock {
		return nil, fmt.Errorf("it has %d bytes, at most %d", len(data), maxLock)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var l lockFile
	if err := decoder.Decode(&l); err != nil {
		return nil, err
	}
	if l.Format != lockFormat {
		return nil, fmt.Errorf("format %d, want %d", l.Format, lockFormat)
	}
	for _, r := range l.Plugins {
		if r == nil || r.Kind == "" || r.Name == "" || len(r.Generations) > 0 && r.active() == nil {
			return nil, errors.New("a record without kind, name or active generation")
		}
		for _, g := range r.Generations {
			if !validHex(g.SHA256) || g.Manifest != "" && !validHex(g.Manifest) || g.Path == "" {
				return nil, fmt.Errorf("%s: generation %d: not a digest, or no path", plugin(r.Kind, r.Name), g.Generation)
			}
		}
	}
	return &l, nil
}

// change calls do with the lock's content under the file lock and writes it
// when do says that it changed.
func (c *Catalog) change(do func(l *lockFile) (changed bool, err error)) error {
	held, err := c.hold(".lock")
	if err != nil {
		return err
	}
	l, err := c.readLock()
	changed := false
	if err == nil {
		changed, err = do(l)
	}
	if err == nil && changed {
		err = c.writeLock(l)
	}
	return errors.Join(err, held.Unlock())
}

func (c *Catalog) writeLock(l *lockFile) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("write plugin lock: %w", err)
	}
	c.at("lock")
	return datadir.WriteFile(c.lockPath(), append(data, '\n'), 0o644)
}

// hold takes a file lock in plugins/, waiting for its holder for a while.
func (c *Catalog) hold(name string) (*datadir.Held, error) {
	if err := datadir.MkdirAll(c.plugins(), 0o755); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		held, err := datadir.Lock(c.plugins(name))
		if busy, ok := errors.AsType[*datadir.HeldError](err); !ok || err == nil {
			return held, err
		} else if ctx.Err() != nil {
			return nil, config.Hinted(fmt.Errorf("plugins: %s is locked by process %d", busy.Path, busy.PID), "wait until it has finished, then try again")
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
