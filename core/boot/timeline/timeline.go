package timeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// Boot is one boot's timing.
type Boot struct {
	Version string    `json:"version"`
	Ready   bool      `json:"ready"` // false: it failed, or was still under way
	Error   string    `json:"error,omitempty"`
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"` // when it was ready, else when it was last heard of
	Entries []Entry   `json:"entries"`
}

// Entry is one step, or one part of it that was timed by itself.
type Entry struct {
	Phase    string    `json:"phase"`
	Step     string    `json:"step"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	StartMS  int64     `json:"startMs"` // since the boot began
	TookMS   int64     `json:"tookMs"`
	Critical bool      `json:"critical"` // its phase would have been shorter without it
	Error    string    `json:"error,omitempty"`
}

// Took is how long the entry lasted.
func (e Entry) Took() time.Duration { return e.Ended.Sub(e.Began) }

// Took is how long the boot lasted.
func (b Boot) Took() time.Duration { return b.Ended.Sub(b.Began) }

// Read reads the boot that Write left at path; the error is os.ErrNotExist when
// there was none.
func Read(path string) (Boot, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Boot{}, fmt.Errorf("read boot timings: %w", err)
	}
	var b Boot
	if err := json.Unmarshal(data, &b); err != nil {
		return Boot{}, fmt.Errorf("read boot timings %s: %w", path, err)
	}
	return b, nil
}

// Write replaces the file at path, which a crash leaves old or new.
func (b Boot) Write(path string) error {
	if err := b.write(path); err != nil {
		return fmt.Errorf("write boot timings: %w", err)
	}
	return nil
}

func (b Boot) write(path string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already after the rename
	if err := errors.Join(b.WriteJSON(tmp), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// WriteJSON writes the boot as an indented object.
func (b Boot) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(b)
}

// WriteTable writes a line per entry and a last one with the outcome.
func (b Boot) WriteTable(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PHASE\tSTEP\tSTART\tDURATION\tCRITICAL")
	phase := ""
	for _, e := range b.Entries {
		name := e.Phase
		if name == phase {
			name = ""
		}
		phase = e.Phase
		note := ""
		if e.Critical {
			note = "*"
		}
		if e.Error != "" {
			note += " " + oneLine(e.Error)
		}
		fmt.Fprintf(table, "%s\t%s\t+%s\t%s\t%s\n", name, e.Step, seconds(e.Began.Sub(b.Began)), seconds(e.Took()), note)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", b.outcome())
	return err
}

func (b Boot) outcome() string {
	text := fmt.Sprintf("%s, %s: ", b.Version, b.Began.UTC().Format(time.RFC3339))
	switch {
	case b.Ready:
		return text + "ready after " + seconds(b.Took())
	case b.Error != "":
		return text + "failed after " + seconds(b.Took()) + ": " + oneLine(b.Error)
	default:
		return text + "not ready after " + seconds(b.Took())
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func seconds(d time.Duration) string { return fmt.Sprintf("%.3fs", d.Seconds()) }
