package arch

import (
	"go/ast"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	maxFile     = 500 // lines
	maxFunction = 80  // lines, signature and braces included
)

func TestSizes(t *testing.T) {
	files, functions := newReport(t, "file-size"), newReport(t, "function-size")
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		if n := s.fset.File(s.file.Pos()).LineCount(); n > maxFile {
			files.breaks(s.path, s.path, 0, "%d lines, at most %d: split it by topic", n, maxFile)
		}
		for _, decl := range s.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil || s.test {
				continue
			}
			if n := s.line(fn.End()) - s.line(fn.Pos()) + 1; n > maxFunction {
				functions.breaks(s.path+":"+fn.Name.Name, s.path, s.line(fn.Pos()), "%s has %d lines, at most %d", fn.Name.Name, n, maxFunction)
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	r := newReport(t, "package-name")
	vague := []string{"util", "utils", "common", "helper", "helpers", "types", "base", "misc", "shared", "lib"}
	for _, s := range sources(t) {
		if name := strings.TrimSuffix(s.file.Name.Name, "_test"); slices.Contains(vague, name) {
			r.breaks(s.pkg, s.path, s.line(s.file.Name.Pos()), "package %s says nothing: name the domain", name)
		}
	}
}

func TestPackageDocs(t *testing.T) {
	r := newReport(t, "package-doc")
	type docs struct{ first, doc []*source }
	packages := map[string]*docs{}
	for _, s := range sources(t) {
		key := s.pkg + " " + strings.TrimSuffix(s.file.Name.Name, "_test")
		if packages[key] == nil {
			packages[key] = &docs{}
		}
		d := packages[key]
		d.first = append(d.first, s)
		if s.file.Doc != nil {
			d.doc = append(d.doc, s)
		}
	}
	for _, d := range packages {
		s := d.first[0]
		switch {
		case len(d.doc) == 0:
			r.breaks(s.pkg, s.path, 0, "package %s has no package comment: purpose, invariants, concurrency", s.file.Name.Name)
		case len(d.doc) > 1:
			r.breaks(s.pkg, d.doc[1].path, 0, "package %s has a second package comment; the first is in %s", s.file.Name.Name, d.doc[0].path)
		case s.file.Name.Name != "main":
			doc := d.doc[0]
			if want := "Package " + strings.TrimSuffix(doc.file.Name.Name, "_test") + " "; !strings.HasPrefix(doc.file.Doc.Text(), want) {
				r.breaks(s.pkg, doc.path, 0, "the package comment begins with %q", want)
			}
		}
	}
}

// contractMethods are documented once, at the interface they implement.
var contractMethods = []string{
	"Name", "Start", "Ready", "Stop", "Exited", // boot.Step, boot.Watched
	"Error", "Unwrap", "Is", "As", "Hint", "ExitCode", // errors
	"String", "Read", "Write", "Close", "Len", "Less", "Swap", "ServeHTTP",
	"MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText", "UnmarshalYAML", "MarshalYAML",
}

func TestExportedAreDocumented(t *testing.T) {
	r := newReport(t, "exported-doc")
	for _, s := range sources(t) {
		if s.test || s.generated || s.file.Name.Name == "main" {
			continue
		}
		missing := func(id *ast.Ident) {
			r.breaks(s.path+":"+id.Name, s.path, s.line(id.Pos()), "exported %s has no comment: state its contract", id.Name)
		}
		for _, decl := range s.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) &&
					!(d.Recv != nil && slices.Contains(contractMethods, d.Name.Name)) {
					missing(d.Name)
				}
			case *ast.GenDecl:
				undocumented(d, missing)
			}
		}
	}
}

func undocumented(d *ast.GenDecl, missing func(*ast.Ident)) {
	for _, spec := range d.Specs {
		switch sp := spec.(type) {
		case *ast.TypeSpec:
			if sp.Name.IsExported() && sp.Doc == nil && sp.Comment == nil && d.Doc == nil {
				missing(sp.Name)
			}
		case *ast.ValueSpec:
			if sp.Doc == nil && sp.Comment == nil && d.Doc == nil {
				for _, id := range sp.Names {
					if id.IsExported() {
						missing(id)
					}
				}
			}
		}
	}
}

func exportedReceiver(fn *ast.FuncDecl) bool {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return true
	}
	exported := true
	ast.Inspect(fn.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			exported = id.IsExported()
			return false
		}
		return true
	})
	return exported
}

func TestNoInit(t *testing.T) {
	r := newReport(t, "init")
	for _, s := range sources(t) {
		for _, decl := range s.file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !s.generated {
				r.breaks(s.path, s.path, s.line(fn.Pos()), "init() runs in every program that links it: build the value in a constructor")
			}
		}
	}
}

// TestTopLevel allows only the folders that the architecture names.
func TestTopLevel(t *testing.T) {
	allowed := []string{"cmd", "core", "sdk", "plugins", "manifests", "embed", "docs", "dist"}
	top, err := root()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("folder %s at the top: allowed are %v", e.Name(), allowed)
		}
	}
}

// mainFile tells a file that may end its process: the entry of a command.
func mainFile(s *source) bool {
	return s.file.Name.Name == "main" && strings.HasSuffix(s.path, "/main.go") &&
		(under(s.pkg, "cmd") || under(s.pkg, "embed") || under(s.pkg, "plugins") || under(s.pkg, "sdk"))
}

func TestNothingEndsTheProcess(t *testing.T) {
	r := newReport(t, "exit")
	calls := map[string][]string{
		"os":      {"Exit"},
		"syscall": {"Exit"},
		"log":     {"Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln"},
	}
	for _, s := range sources(t) {
		if s.test || s.generated || mainFile(s) {
			continue
		}
		forEachCall(s, func(recv, name string, at token.Pos) {
			switch {
			case recv == "" && name == "panic":
				r.breaks(s.path, s.path, s.line(at), "panic outside a main.go: return an error")
			case recv != "":
				for pkg, names := range calls {
					if s.localName(pkg) == recv && slices.Contains(names, name) {
						r.breaks(s.path, s.path, s.line(at), "%s.%s outside cmd/*/main.go: return an error", recv, name)
					}
				}
			}
		})
	}
}

func TestNoLooseWaits(t *testing.T) {
	r := newReport(t, "waits")
	for _, s := range sources(t) {
		if s.test || s.generated {
			continue
		}
		forEachCall(s, func(recv, name string, at token.Pos) {
			switch {
			case recv != "" && recv == s.localName("time") && name == "Sleep":
				r.breaks(s.path, s.path, s.line(at), "time.Sleep is no wait: poll a condition with a deadline")
			case recv != "" && recv == s.localName("context") && name == "TODO":
				r.breaks(s.path, s.path, s.line(at), "context.TODO: take the caller's context")
			}
		})
	}
}

// forEachCall visits calls of the forms name(…) and recv.name(…).
func forEachCall(s *source, visit func(recv, name string, at token.Pos)) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch fn := call.Fun.(type) {
		case *ast.Ident:
			visit("", fn.Name, call.Pos())
		case *ast.SelectorExpr:
			if id, ok := fn.X.(*ast.Ident); ok {
				visit(id.Name, fn.Sel.Name, call.Pos())
			}
		}
		return true
	})
}
