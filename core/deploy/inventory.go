package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kelson-io/kelson/core/datadir"
)

// ref names an object in the cluster. An empty namespace of a namespaced kind
// is "default".
type ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

func refOf(u *unstructured.Unstructured) ref {
	return ref{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
}

func (r ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// entry is what the inventory knows of one addon.
type entry struct {
	Packaged bool     `json:"packaged,omitempty"`
	Files    []string `json:"files,omitempty"`   // staged by us, relative to the manifests folder
	Objects  []ref    `json:"objects,omitempty"` // everything ever applied and not removed since
}

// inventory remembers across restarts what each addon brought. It only grows
// by note, which is called before the cluster is touched.
type inventory struct {
	path string

	mu     sync.Mutex
	addons map[string]entry
	dirty  bool // differs from the file
}

// openInventory reads the file; none is an empty inventory.
func openInventory(path string) (*inventory, error) {
	inv := &inventory{path: path, addons: map[string]entry{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return inv, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &inv.addons)
	}
	if err != nil {
		inv.addons = map[string]entry{}
		return inv, fmt.Errorf("read addon inventory %s: %w", path, err)
	}
	return inv, nil
}

func (inv *inventory) get(addon string) entry {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.addons[addon]
}

// stage sets which files of an addon are ours; the next note writes it down.
func (inv *inventory) stage(addon string, files []string) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	e := inv.addons[addon]
	inv.dirty = inv.dirty || !e.Packaged || !slices.Equal(e.Files, files)
	e.Packaged, e.Files = true, files
	inv.addons[addon] = e
}

// note adds objects and writes the file if anything is new.
func (inv *inventory) note(batch []rendered) error {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	for _, r := range batch {
		e := inv.addons[r.Addon]
		known := make(map[ref]bool, len(e.Objects))
		for _, id := range e.Objects {
			known[id] = true
		}
		e.Objects = slices.Clip(e.Objects) // what get returned stays as it was
		for _, o := range r.Objects {
			if id := refOf(o.Unstructured); !known[id] {
				e.Objects = append(e.Objects, id)
				inv.dirty = true
			}
		}
		inv.addons[r.Addon] = e
	}
	if !inv.dirty {
		return nil
	}
	return inv.write()
}

// forget removes an addon, once nothing of it is left.
func (inv *inventory) forget(addon string) error {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if _, known := inv.addons[addon]; !known {
		return nil
	}
	delete(inv.addons, addon)
	return inv.write()
}

func (inv *inventory) write() error {
	data, err := json.MarshalIndent(inv.addons, "", "  ")
	if err != nil {
		return err
	}
	if err := datadir.WriteFile(inv.path, append(data, '\n'), 0o600); err != nil {
		return err
	}
	inv.dirty = false
	return nil
}

// packagedAddons are the addons that were staged by us, by name.
func (inv *inventory) packagedAddons() []string {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	var names []string
	for _, name := range sortedKeys(inv.addons) {
		if inv.addons[name].Packaged {
			names = append(names, name)
		}
	}
	return names
}
