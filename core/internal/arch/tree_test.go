package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/kelson-io/kelson"

// source is one parsed Go file.
type source struct {
	path      string // slash-separated, relative to the repository
	pkg       string // folder, relative to the repository
	text      []byte
	fset      *token.FileSet
	file      *ast.File
	test      bool
	generated bool
}

func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }

// imports yields the import paths with their line.
func (s *source) imports(yield func(importPath string, line int)) {
	for _, spec := range s.file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			yield(p, s.line(spec.Pos()))
		}
	}
}

// localName is the name under which the file uses an import, "" if it does not
// import it.
func (s *source) localName(importPath string) string {
	for _, spec := range s.file.Imports {
		if p, _ := strconv.Unquote(spec.Path.Value); p != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// root is the folder of the main module.
var root = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module "+module+"\n")) {
			return dir, nil
		}
	}
	return "", fs.ErrNotExist
})

// tree parses every Go file of the repository once.
var tree = sync.OnceValues(func() ([]*source, error) {
	top, err := root()
	if err != nil {
		return nil, err
	}
	var all []*source
	fset := token.NewFileSet()
	err = walk(top, func(rel string) error {
		if path.Ext(rel) != ".go" {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(top, rel))
		if err != nil {
			return ignoreVanished(err)
		}
		file, err := parser.ParseFile(fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, &source{
			path: rel, pkg: path.Dir(rel), text: text, fset: fset, file: file,
			test:      strings.HasSuffix(rel, "_test.go"),
			generated: ast.IsGenerated(file),
		})
		return nil
	})
	return all, err
})

// walk calls visit with every file that belongs to the sources.
func walk(top string, visit func(rel string) error) error {
	return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreVanished(err)
		}
		rel, err := filepath.Rel(top, p)
		if err != nil || rel == "." {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "dist" {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return visit(filepath.ToSlash(rel))
	})
}

// ignoreVanished forgives a file that is removed while the tree is walked.
func ignoreVanished(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func sources(t *testing.T) []*source {
	t.Helper()
	all, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("only %d Go files found: the walk is broken", len(all))
	}
	return all
}
