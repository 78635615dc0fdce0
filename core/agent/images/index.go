package images

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"

	"github.com/kelson-io/kelson/core/datadir"
)

// fileState tells whether a file is the one that was digested.
type fileState struct {
	Size    int64  `json:"size"`
	ModTime int64  `json:"modTime"` // nanoseconds
	Digest  string `json:"digest"`  // SHA-256 of the file
}

// index remembers what was imported. Losing it costs an import, nothing else.
type index struct {
	path string

	mu       sync.Mutex
	Files    map[string]fileState         `json:"files"`    // by path
	Contents map[string]map[string]string `json:"contents"` // by archive digest: image name → target digest
}

func loadIndex(path string) *index {
	ix := &index{path: path}
	if raw, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(raw, ix) // a damaged index is an empty one
	}
	if ix.Files == nil {
		ix.Files = map[string]fileState{}
	}
	if ix.Contents == nil {
		ix.Contents = map[string]map[string]string{}
	}
	return ix
}

// digest returns the digest of a file, reading it only if it changed.
func (ix *index) digest(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	ix.mu.Lock()
	known := ix.Files[path]
	ix.mu.Unlock()
	if known.Digest != "" && known.Size == info.Size() && known.ModTime == info.ModTime().UnixNano() {
		return known.Digest, nil
	}
	digest, err := digestFile(path)
	if err != nil {
		return "", err
	}
	ix.mu.Lock()
	ix.Files[path] = fileState{Size: info.Size(), ModTime: info.ModTime().UnixNano(), Digest: digest}
	ix.mu.Unlock()
	return digest, nil
}

// contents returns the images that an archive holds, nil if unknown.
func (ix *index) contents(digest string) map[string]string {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.Contents[digest]
}

func (ix *index) record(digest string, images map[string]string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.Contents[digest] = images
}

// save drops files that are gone, and contents that no file has, and writes.
func (ix *index) save() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	used := map[string]bool{}
	for path, state := range ix.Files {
		if _, err := os.Stat(path); err != nil {
			delete(ix.Files, path)
			continue
		}
		used[state.Digest] = true
	}
	for digest := range ix.Contents {
		if !used[digest] {
			delete(ix.Contents, digest)
		}
	}
	raw, err := json.Marshal(ix)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(ix.path); err == nil && string(have) == string(raw) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(ix.path), 0o700); err != nil {
		return err
	}
	return datadir.WriteFile(ix.path, raw, 0o600)
}
