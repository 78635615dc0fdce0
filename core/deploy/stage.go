package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/kelson-io/kelson/core/datadir"
)

// aliases are further names that --disable accepts: K3s' where ours differ.
func aliases() map[string]string {
	return map[string]string{"local-storage": "local-path"}
}

// packagedFile is a packaged manifest with its tokens filled in.
type packagedFile struct {
	Path string // relative to the manifests folder: <addon>/<file>
	Data []byte
}

// packaged renders the packaged manifests of each addon. They are ours, so a
// fault in one is an error at once rather than an addon that never applies.
func packaged(files fs.FS, values map[string]string) (map[string][]packagedFile, error) {
	addons := map[string][]packagedFile{}
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !isManifest(d.Name()) {
			return err
		}
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		data, err := substitute(text, values)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if _, err := decode(path, data); err != nil {
			return err
		}
		addon, _, nested := strings.Cut(path, "/")
		if !nested {
			return fmt.Errorf("%s: not in a folder", path)
		}
		addons[addon] = append(addons[addon], packagedFile{Path: path, Data: data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("render packaged components: %w", err)
	}
	return addons, nil
}

// stage writes the packaged components that are wanted into the manifests
// folder, over local edits, and removes what it wrote of others before. It
// returns the names of the wanted and of those to be removed from the cluster.
func (e *Engine) stage(inv *inventory) (wanted, removed []string, err error) {
	addons, err := packaged(e.cfg.Packaged, e.cfg.Values)
	if err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(e.manifests, 0o700); err != nil {
		return nil, nil, fmt.Errorf("stage manifests: %w", err)
	}
	for _, addon := range sortedKeys(addons) {
		if e.disabled(addon) {
			// By name too: a start may have ended before the inventory was written.
			if err := e.unstage(pathsOf(addons[addon]), nil); err != nil {
				return nil, nil, err
			}
			continue
		}
		if err := e.stageAddon(inv, addon, addons[addon]); err != nil {
			return nil, nil, err
		}
		wanted = append(wanted, addon)
	}
	for _, addon := range inv.packagedAddons() {
		if slices.Contains(wanted, addon) {
			continue
		}
		if err := e.unstage(inv.get(addon).Files, nil); err != nil {
			return nil, nil, err
		}
		removed = append(removed, addon)
	}
	return wanted, removed, nil
}

func (e *Engine) stageAddon(inv *inventory, addon string, files []packagedFile) error {
	paths := pathsOf(files)
	for _, f := range files {
		path := filepath.Join(e.manifests, f.Path)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, f.Data) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("stage %s: %w", addon, err)
		}
		e.cfg.Log.Info("Writing manifest: "+path, "addon", addon)
		if err := datadir.WriteFile(path, f.Data, 0o600); err != nil {
			return fmt.Errorf("stage %s: %w", addon, err)
		}
	}
	if err := e.unstage(inv.get(addon).Files, paths); err != nil {
		return err
	}
	inv.stage(addon, paths)
	return nil
}

func pathsOf(files []packagedFile) []string {
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

// unstage removes files that were staged once and are not in keep, and the
// folders that this empties.
func (e *Engine) unstage(files, keep []string) error {
	for _, f := range files {
		if slices.Contains(keep, f) {
			continue
		}
		path := filepath.Join(e.manifests, f)
		if err := os.Remove(path); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove manifest: %w", err)
			}
			continue
		}
		e.cfg.Log.Info("Removed manifest: " + path)
		os.Remove(filepath.Dir(path)) // fails, rightly, unless it is empty now
	}
	return nil
}

// disabled tells whether the administrator does not want a packaged component.
func (e *Engine) disabled(addon string) bool {
	return slices.ContainsFunc(e.cfg.Disable, func(name string) bool {
		return name == addon || aliases()[name] == addon
	})
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
