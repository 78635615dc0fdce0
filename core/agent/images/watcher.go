package images

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it is read: a copy
// writes it piece by piece.
const settle = 2 * time.Second

// watcher reports archives that appear or change in a folder.
type watcher struct {
	notify *fsnotify.Watcher
	settle time.Duration
}

func newWatcher(dir string) (*watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	if err := notify.Add(dir); err != nil {
		_ = notify.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &watcher{notify: notify, settle: settle}, nil
}

// run calls changed for each file that has settled, one at a time, until ctx
// ends, and lost when changes went by unseen. While nothing changes it sleeps.
func (w *watcher) run(ctx context.Context, changed func(path string), lost func(error)) {
	defer w.notify.Close()
	pending := map[string]time.Time{}
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			return
		case event, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if !isArchive(event.Name) {
				continue
			}
			if event.Has(fsnotify.Create) || event.Has(fsnotify.Write) {
				pending[event.Name] = time.Now().Add(w.settle)
				timer.Reset(w.settle)
			}
			if event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename) {
				delete(pending, event.Name)
			}
		case err, ok := <-w.notify.Errors:
			if !ok {
				return
			}
			lost(err)
		case now := <-timer.C:
			var next time.Duration
			for path, due := range pending {
				if wait := due.Sub(now); wait > 0 {
					if next == 0 || wait < next {
						next = wait
					}
					continue
				}
				delete(pending, path)
				changed(path)
			}
			if next > 0 {
				timer.Reset(next)
			}
		}
	}
}
