package bootstrap

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
)

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
