package deploy

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the folder must be quiet before it is read: an editor or
// a copy writes a file in several steps.
const settle = 200 * time.Millisecond

// watch reports changes below the manifests folder.
type watch struct {
	root    string
	watcher *fsnotify.Watcher
}

func newWatch(root string) (*watch, error) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", root, err)
	}
	w := &watch{root: root, watcher: watcher}
	if err := watcher.Add(root); err != nil {
		watcher.Close()
		return nil, fmt.Errorf("watch %s: %w", root, err)
	}
	w.addFolders()
	return w, nil
}

func (w *watch) close() { w.watcher.Close() }

// addFolders watches every folder below the root, linked ones of the top level
// too. Adding one twice does nothing; one that vanished is of no interest.
func (w *watch) addFolders() {
	entries, err := os.ReadDir(w.root)
	if err != nil {
		return
	}
	for _, e := range entries {
		top, err := filepath.EvalSymlinks(filepath.Join(w.root, e.Name()))
		if err != nil {
			continue
		}
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = w.watcher.Add(path)
			}
			return nil
		})
	}
}

// run sends on the returned channel after each burst of changes, until ctx ends.
func (w *watch) run(ctx context.Context, wg *sync.WaitGroup) <-chan struct{} {
	changes := make(chan struct{}, 1)
	wg.Go(func() {
		quiet := time.NewTimer(settle)
		quiet.Stop()
		defer quiet.Stop()
		for {
			select {
			case event, ok := <-w.watcher.Events:
				if !ok {
					return
				}
				if event.Op != fsnotify.Chmod {
					quiet.Reset(settle)
				}
			case _, ok := <-w.watcher.Errors: // events were lost: look
				if !ok {
					return
				}
				quiet.Reset(settle)
			case <-quiet.C:
				w.addFolders()
				select {
				case changes <- struct{}{}:
				default:
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return changes
}
