package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

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
