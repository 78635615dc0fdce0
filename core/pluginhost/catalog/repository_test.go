package catalog

import (
	"os"
	"strings"
	"testing"
)

// TestBundledCatalog reads the file that the build ships.
func TestBundledCatalog(t *testing.T) {
	data, err := os.ReadFile("../../../plugin-catalog.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseCatalog(data, FileName, true)
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]int{}
	for _, e := range f.Plugins {
		if e.SHA256 != "" {
			t.Errorf("%s has a digest: the build writes it", e.Plugin())
		}
		if strings.Join(e.Args, " ") != e.Kind+" "+e.Name {
			t.Errorf("%s has the arguments %v", e.Plugin(), e.Args)
		}
		if e.Default {
			defaults[e.Kind]++
		}
	}
	if defaults["cni"] != 1 {
		t.Errorf("defaults: %v", defaults)
	}
	pinned, err := Pin(data, "1.37.2+kelson1", sum("x"))
	if err != nil {
		t.Fatal(err)
	}
	f, err = parseCatalog(pinned, FileName, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range f.Plugins {
		if e.SHA256 != sum("x") || e.Version != "1.37.2+kelson1" {
			t.Errorf("pinned as %+v", e)
		}
	}
	for version, digest := range map[string]string{"v1": sum("x"), "1.0.0": "x"} {
		if _, err := Pin(data, version, digest); err == nil {
			t.Errorf("pinned to %s, %s", version, digest)
		}
	}
}
