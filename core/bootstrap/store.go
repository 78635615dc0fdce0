package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

// Prefix is what all bootstrap keys in the datastore start with.
const Prefix = "/bootstrap/"

// What a KV returns when the key is not in the state that the caller expects.
var (
	ErrExists   = errors.New("the key exists already")
	ErrConflict = errors.New("the key was changed meanwhile")
)

// KeyValue is a key of the datastore.
type KeyValue struct {
	Key   string
	Value []byte
	Rev   int64
}

// KV is the datastore as the bootstrap data needs it. Values may be empty.
type KV interface {
	// Get returns revision 0 and no error for a key that does not exist.
	Get(ctx context.Context, key string) (value []byte, rev int64, err error)
	// Create returns ErrExists when the key exists.
	Create(ctx context.Context, key string, value []byte) error
	// Update returns ErrConflict when the key is not at the revision.
	Update(ctx context.Context, key string, value []byte, rev int64) error
	// List returns the keys that start with the prefix.
	List(ctx context.Context, prefix string) ([]KeyValue, error)
}

// StoreConfig says where the bootstrap data is and what belongs to it.
type StoreConfig struct {
	KV     KV
	Layout datadir.Layout
	Token  Token    // as LoadToken returned it
	Files  []string // slash-separated, relative to server/; those that exist are saved

	// Exclusive says that no other server can be using the datastore (it lies
	// in this data dir, whose lock is held), so that a lock found is a dead one.
	Exclusive bool
	// LockDeadline is how long another server's lock may stay unchanged before
	// its creator counts as dead. Default 30 s.
	LockDeadline time.Duration
	// Key is the derived key, from an early StartKey. Default: derived while
	// the files are being made.
	Key func() (*Key, error)
	Log hclog.Logger // default: none
}

// Store keeps the bootstrap data of a cluster in its datastore.
//
//	Load: absent → locked (New) ┐
//	Load: lock of a dead server ┴→ Save: stored
//	Load: stored → files restored → Save: stored again when files were added
type Store struct {
	cfg    StoreConfig
	key    string // in the datastore
	poll   time.Duration
	now    func() time.Time
	write  func(path string, data []byte, mode os.FileMode) error
	loaded bool
	fresh  bool    // this server holds the lock
	rev    int64   // of the value that this server read or wrote
	digest string  // of the stored entries
	stored Entries // nil until they had to be decrypted
}

// Loaded is what Load found.
type Loaded struct {
	New      bool     // nothing was stored: this server makes the cluster's first data, and holds the lock
	Restored []string // files that were missing on disk and were restored
}

// NewStore returns the store. It does nothing yet.
func NewStore(cfg StoreConfig) *Store {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.LockDeadline <= 0 {
		cfg.LockDeadline = 30 * time.Second
	}
	return &Store{cfg: cfg, key: Prefix + cfg.Token.Fingerprint(), poll: 200 * time.Millisecond, now: time.Now, write: datadir.WriteFile}
}

// Load reads the bootstrap data and restores the files that are missing on
// disk, or takes the lock when there is none. A file that differs from the
// stored one is an error, and nothing is written. While another server holds
// the lock it waits.
func (s *Store) Load(ctx context.Context) (Loaded, error) {
	var lockRev int64
	var since time.Time
	for {
		value, rev, err := s.cfg.KV.Get(ctx, s.key)
		if err != nil {
			return Loaded{}, fmt.Errorf("read bootstrap data: %w", err)
		}
		switch {
		case len(value) > 0:
			restored, err := s.reconcile(value, rev)
			return Loaded{Restored: restored}, err
		case rev == 0:
			if err := s.refuseOtherToken(ctx); err != nil {
				return Loaded{}, err
			}
			err = s.cfg.KV.Create(ctx, s.key, nil)
		default:
			if rev != lockRev {
				lockRev, since = rev, s.now()
			}
			if !s.cfg.Exclusive && s.now().Sub(since) < s.cfg.LockDeadline {
				if err := s.wait(ctx); err != nil {
					return Loaded{}, err
				}
				continue
			}
			s.cfg.Log.Warn("bootstrap key was locked by a server that did not finish: taking the lock over", "key", s.key)
			err = s.cfg.KV.Update(ctx, s.key, nil, rev)
		}
		if errors.Is(err, ErrExists) || errors.Is(err, ErrConflict) {
			continue // another server was faster
		}
		if err != nil {
			return Loaded{}, fmt.Errorf("lock bootstrap key: %w", err)
		}
		return Loaded{New: true}, s.locked(ctx)
	}
}

// wait pauses before the lock is looked at again.
func (s *Store) wait(ctx context.Context) error {
	timer := time.NewTimer(s.poll)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read bootstrap data: another server holds the lock of its initial create: %w", context.Cause(ctx))
	}
}

// locked notes that this server makes the first data.
func (s *Store) locked(ctx context.Context) error {
	value, rev, err := s.cfg.KV.Get(ctx, s.key)
	if err != nil {
		return fmt.Errorf("lock bootstrap key: %w", err)
	}
	if rev == 0 || len(value) > 0 {
		return fmt.Errorf("lock bootstrap key: %w", ErrConflict)
	}
	s.loaded, s.fresh, s.rev = true, true, rev
	if s.cfg.Key == nil {
		s.cfg.Key = StartKey(s.cfg.Token.Password)
	}
	s.cfg.Log.Info("bootstrap key locked for initial create", "key", s.key)
	return nil
}

// refuseOtherToken is an error when the datastore holds bootstrap data of
// another token, because that cluster's secrets cannot be read with this one.
func (s *Store) refuseOtherToken(ctx context.Context) error {
	all, err := s.cfg.KV.List(ctx, Prefix)
	if err != nil {
		return fmt.Errorf("list bootstrap data: %w", err)
	}
	var others []string
	for _, kv := range all {
		if kv.Key != s.key && len(kv.Value) > 0 {
			others = append(others, strings.TrimPrefix(kv.Key, Prefix))
		}
	}
	if len(others) == 0 {
		return nil
	}
	slices.Sort(others)
	return s.wrongToken(strings.Join(others, ", "))
}

func (s *Store) wrongToken(stored string) error {
	path := TokenFile(s.cfg.Layout)
	return config.Hinted(
		fmt.Errorf("%w: the token here has the fingerprint %s (%s), the datastore holds a cluster whose token has the fingerprint %s", ErrWrongToken, s.cfg.Token.Fingerprint(), path, stored),
		fmt.Sprintf("start with --token and that cluster's token (server/token on one of its servers), after removing %s if it was made by mistake; or use an empty datastore; nothing was changed", path))
}

// reconcile compares the stored value with the disk.
func (s *Store) reconcile(value []byte, rev int64) ([]string, error) {
	h, _, err := split(value)
	if err != nil {
		return nil, s.unreadable(err)
	}
	disk, err := s.readDisk(s.cfg.Files)
	if err != nil {
		return nil, err
	}
	if disk.digest() == h.Payload.Digest {
		s.loaded, s.rev, s.digest = true, rev, h.Payload.Digest
		return nil, nil // spares the key derivation on every start but the first
	}
	stored, err := Open(value, s.cfg.Token.Password)
	if errors.Is(err, ErrWrongToken) {
		return nil, s.wrongToken("other than this one's")
	}
	if err != nil {
		return nil, s.unreadable(err)
	}
	if disk, err = s.readDisk(stored.names()); err != nil {
		return nil, err
	}
	if err := s.refuseDifferences(disk, stored); err != nil {
		return nil, err
	}
	restored, err := s.restore(disk, stored)
	if err != nil {
		return nil, err
	}
	s.loaded, s.rev, s.digest, s.stored = true, rev, h.Payload.Digest, stored
	return restored, nil
}

func (s *Store) unreadable(err error) error {
	hint := "restore the datastore from a snapshot; nothing was changed"
	if errors.Is(err, ErrVersion) {
		hint = "start the release of Kelson that wrote it, or a newer one; nothing was changed"
	}
	return config.Hinted(fmt.Errorf("read bootstrap data %s: %w", s.key, err), hint)
}

func (s *Store) refuseDifferences(disk, stored Entries) error {
	var files []string
	for _, name := range stored.names() {
		if entry, ok := disk[name]; ok && !bytes.Equal(entry.Data, stored[name].Data) {
			files = append(files, s.path(name))
		}
	}
	if len(files) == 0 {
		return nil
	}
	return config.Hinted(
		fmt.Errorf("files on disk differ from the bootstrap data in the datastore: %s", strings.Join(files, ", ")),
		"the copy in the datastore is the one the cluster uses: move these files away and start again to have them restored from it (authorities are replaced with kelson certificate rotate-ca); nothing was changed")
}

// restore writes the stored files that the disk lacks.
func (s *Store) restore(disk, stored Entries) ([]string, error) {
	var restored []string
	for _, name := range stored.names() {
		if _, ok := disk[name]; ok {
			continue
		}
		path, entry := s.path(name), stored[name]
		if err := datadir.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("restore %s: %w", path, err)
		}
		if err := s.write(path, entry.Data, entry.Mode.Perm()&0o700); err != nil {
			return nil, fmt.Errorf("restore %s: %w", path, err)
		}
		if err := os.Chtimes(path, time.Time{}, entry.ModTime); err != nil {
			return nil, fmt.Errorf("restore %s: %w", path, err)
		}
		s.cfg.Log.Info("file restored from the bootstrap data", "file", path)
		restored = append(restored, name)
	}
	return restored, nil
}

// Save stores the files as they are on disk, if anything was added or changed
// since Load. Load comes first.
func (s *Store) Save(ctx context.Context) error {
	if !s.loaded {
		return errors.New("save bootstrap data: it was not loaded")
	}
	names := slices.Concat(s.cfg.Files, s.stored.names())
	entries, err := s.readDisk(names)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return errors.New("save bootstrap data: none of its files exists")
	}
	digest := entries.digest()
	if digest == s.digest {
		return nil
	}
	if s.fresh {
		if err := s.refuseOtherToken(ctx); err != nil {
			return err
		}
	}
	if s.cfg.Key == nil {
		s.cfg.Key = StartKey(s.cfg.Token.Password)
	}
	key, err := s.cfg.Key()
	if err != nil {
		return fmt.Errorf("save bootstrap data: %w", err)
	}
	blob, err := key.Seal(entries)
	if err != nil {
		return err
	}
	if err := s.cfg.KV.Update(ctx, s.key, blob, s.rev); err != nil {
		if errors.Is(err, ErrConflict) {
			return config.Hinted(fmt.Errorf("save bootstrap data: another server saved it meanwhile: %w", err), "start again")
		}
		return fmt.Errorf("save bootstrap data: %w", err)
	}
	_, rev, err := s.cfg.KV.Get(ctx, s.key)
	if err != nil {
		return fmt.Errorf("save bootstrap data: %w", err)
	}
	s.fresh, s.rev, s.digest, s.stored = false, rev, digest, entries
	s.cfg.Log.Info("bootstrap data saved", "key", s.key, "files", len(entries), "bytes", len(blob))
	return nil
}

func (s *Store) path(name string) string { return s.cfg.Layout.Server(filepath.FromSlash(name)) }

// readDisk reads those of the files that exist. An empty file is what a lost
// write leaves, and counts as missing.
func (s *Store) readDisk(names []string) (Entries, error) {
	entries := make(Entries, len(names))
	for _, name := range names {
		if !validName(name) {
			return nil, fmt.Errorf("bootstrap data: %q is not a plain relative path", name)
		}
		path := s.path(name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read bootstrap file: %w", err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read bootstrap file: %w", err)
		}
		if len(data) == 0 {
			continue
		}
		entries[name] = Entry{Data: data, Mode: info.Mode().Perm(), ModTime: info.ModTime()}
	}
	return entries, nil
}
