package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// maxFile bounds one manifest file; a larger one is refused by name.
const maxFile = 32 << 20

// addonName is what a label value and a field manager can carry.
var addonName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// source is the files of one addon. A file of the manifests folder is an addon
// of its own, a folder is one addon with all the files in it.
type source struct {
	Addon   string
	Files   []sourceFile // by path
	Skipped bool         // every file has a .skip beside it
	Faults  []error      // what could not be read
}

type sourceFile struct {
	Path string // relative to the manifests folder
	Data []byte
}

// sum identifies the content, so that an unchanged addon is not applied again.
func (s source) sum() string {
	h := sha256.New()
	for _, f := range s.Files {
		fmt.Fprintf(h, "%s %d\n", f.Path, len(f.Data))
		h.Write(f.Data)
	}
	fmt.Fprintf(h, "%t %v", s.Skipped, s.Faults)
	return hex.EncodeToString(h.Sum(nil))
}

// scan reads the manifests folder. The result is in the order of names; a
// folder comes before a file of the same name, which is then refused.
func scan(dir string) ([]source, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	found := map[string]*source{}
	for _, folders := range []bool{true, false} {
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := os.Stat(path) // follows a linked folder or file
			if err != nil || info.IsDir() != folders || hidden(e.Name()) {
				continue
			}
			if folders {
				if s := scanFolder(dir, e.Name()); len(s.Files)+len(s.Faults) > 0 || s.Skipped {
					found[s.Addon] = &s
				}
				continue
			}
			addFile(found, dir, e.Name(), info.Size())
		}
	}
	sources := make([]source, 0, len(found))
	for _, s := range found {
		sources = append(sources, *s)
	}
	sort.Slice(sources, func(i, j int) bool { return sources[i].Addon < sources[j].Addon })
	return sources, nil
}

// addFile adds a file of the top folder.
func addFile(found map[string]*source, dir, name string, size int64) {
	if !isManifest(name) {
		return
	}
	addon := strings.TrimSuffix(name, filepath.Ext(name))
	if other, taken := found[addon]; taken {
		other.Faults = append(other.Faults, fmt.Errorf("%s: ignored, the name %s is taken by another file or folder", name, addon))
		return
	}
	s := &source{Addon: addon}
	s.read(dir, name, size)
	found[addon] = s
}

func scanFolder(dir, name string) source {
	s := source{Addon: name}
	root := filepath.Join(dir, name)
	if resolved, err := filepath.EvalSymlinks(root); err == nil {
		root = resolved
	}
	if skipped(dir, name) {
		s.Skipped = true
		return s
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if hidden(d.Name()) && path != root {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || !isManifest(d.Name()) {
			return nil
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s.readAs(dir, filepath.Join(name, rel), path, info.Size())
		return nil
	})
	if err != nil {
		s.Faults = append(s.Faults, fmt.Errorf("read %s: %w", name, err))
	}
	return s
}

func (s *source) read(dir, rel string, size int64) {
	s.readAs(dir, rel, filepath.Join(dir, rel), size)
}

func (s *source) readAs(dir, rel, path string, size int64) {
	if !addonName.MatchString(s.Addon) {
		s.Faults = append(s.Faults, fmt.Errorf("%s: %q is no name for an addon: letters, digits, '-', '_' and '.', at most 63", rel, s.Addon))
		return
	}
	// As in K3s, a .skip is honoured beside the file and in the top folder.
	if skipped(filepath.Dir(path), filepath.Base(path)) || skipped(dir, filepath.Base(path)) {
		s.Skipped = len(s.Files) == 0
		return
	}
	if size > maxFile {
		s.Faults = append(s.Faults, fmt.Errorf("%s: %d MiB is more than the %d MiB that a manifest may have", rel, size>>20, maxFile>>20))
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) { // gone since it was listed
			s.Faults = append(s.Faults, fmt.Errorf("read %s: %w", rel, err))
		}
		return
	}
	s.Skipped = false
	s.Files = append(s.Files, sourceFile{Path: rel, Data: data})
}

func skipped(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name+".skip"))
	return err == nil
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !hidden(name)
	}
	return false
}
