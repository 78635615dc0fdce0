package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

func (s *Store) ensureServiceKey() error {
	path := ServiceKeyFile(s.cfg.Layout)
	data, err := readOptional(path)
	if err != nil {
		return fmt.Errorf("read service-account key: %w", err)
	}
	if len(data) == 0 {
		_, made, err := newKey()
		if err != nil {
			return fmt.Errorf("service-account key: %w", err)
		}
		if err := s.write(path, made, 0o600); err != nil {
			return fmt.Errorf("service-account key: %w", err)
		}
		s.cfg.Log.Info("generated service-account key", "file", path)
		return nil
	}
	key, err := parseKey(data)
	if err == nil && !usableForTokens(key) {
		err = fmt.Errorf("a key of type %T cannot sign service-account tokens", key)
	}
	if err != nil {
		return config.Hinted(fmt.Errorf("service-account key: read %s: %w", path, err),
			"restore the file from a backup, or remove it to have one made (all pods must then be restarted for new tokens); nothing was changed")
	}
	return s.restrict(path)
}

// restrict takes a private key away from everyone but its owner.
func (s *Store) restrict(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	s.cfg.Log.Warn("private key was readable by others: restricted to its owner", "file", path, "mode", info.Mode().Perm().String())
	return os.Chmod(path, 0o600)
}

// writeIfChanged spares the disk on a start that has nothing to change.
func (s *Store) writeIfChanged(path string, data []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := s.write(path, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// readOptional returns nothing for a file that does not exist.
func readOptional(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (s *Store) makeFolders() error {
	l := s.cfg.Layout
	for _, dir := range []string{l.Server(), l.TLS(), l.TLS("etcd"), l.Cred()} {
		if err := datadir.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := sweep(dir); err != nil {
			return err
		}
	}
	return nil
}

// sweepAge keeps sweep away from the writes of others that are under way.
const sweepAge = 10 * time.Minute

// sweep removes the temporary files of writes that a crash cut short.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
	if err != nil {
		return fmt.Errorf("clean %s: %w", dir, err)
	}
	for _, path := range left {
		if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) < sweepAge {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean %s: %w", dir, err)
		}
	}
	return nil
}
