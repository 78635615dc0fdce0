package arch

import (
	"bytes"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// textual is what is read by people or a shell and may name a path.
var textual = []string{".go", ".md", ".yaml", ".yml", ".sh", ".mod", ".json", ".toml", ".tmpl", "", ".mk"}

// TestNoPathOfOneMachine keeps the folders of the machine it was written on
// out of the sources.
func TestNoPathOfOneMachine(t *testing.T) {
	r := newReport(t, "machine-path")
	personal := regexp.MustCompile(`(?m)(^|[\s"'=:(\x60])/(` + "work" + `|` + "root" + `|home/[a-z]+)(/[\w.-]+|["'\s\x60)])`)
	top, err := root()
	if err != nil {
		t.Fatal(err)
	}
	err = walk(top, func(rel string) error {
		if !slices.Contains(textual, path.Ext(rel)) {
			return nil
		}
		info, err := os.Stat(filepath.Join(top, rel))
		if err != nil || info.Size() > 1<<20 {
			return ignoreVanished(err)
		}
		text, err := os.ReadFile(filepath.Join(top, rel))
		if err != nil {
			return ignoreVanished(err)
		}
		for _, at := range personal.FindAllIndex(text, -1) {
			r.breaks(rel, rel, bytes.Count(text[:at[1]], []byte("\n"))+1, "names a path of one machine: %s", bytes.TrimSpace(text[at[0]:at[1]]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
