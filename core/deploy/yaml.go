package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// document is one YAML document of a file.
type document struct {
	Data  []byte
	Line  int // of the file, where Data begins; the first is 1
	Index int // of the file; the first is 1
}

// split cuts a file at its document separators: lines that begin with three
// hyphens and then end or go on with white space. What follows on the
// separator's line belongs to neither side.
func split(data []byte) []document {
	var docs []document
	start, startLine, line := 0, 1, 1
	cut := func(end int) {
		docs = append(docs, document{Data: data[start:end], Line: startLine, Index: len(docs) + 1})
	}
	for pos := 0; pos < len(data); line++ {
		next := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			next = pos + i + 1
		}
		if isSeparator(data[pos:next]) {
			// The first separator of a file opens its first document.
			if len(docs) > 0 || !blank(data[start:pos]) {
				cut(pos)
			}
			start, startLine = next, line+1
		}
		pos = next
	}
	if !blank(data[start:]) {
		cut(len(data))
	}
	return docs
}

func isSeparator(line []byte) bool {
	rest, found := bytes.CutPrefix(line, []byte("---"))
	return found && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// blank tells whether only white space and comments are there.
func blank(data []byte) bool {
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// decode returns the objects of one file: one per document, and the items of
// a List. All its faults are reported together, each with file, line and
// document.
func decode(path string, data []byte) ([]object, error) {
	docs := []document{{Data: data, Line: 1, Index: 1}}
	if filepath.Ext(path) != ".json" {
		docs = split(data)
	}
	var (
		objects []object
		faults  []error
	)
	for _, d := range docs {
		if blank(d.Data) {
			continue
		}
		found, err := decodeDocument(d)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s:%d: document %d: %w", path, d.Line, d.Index, err))
			continue
		}
		for _, u := range found {
			objects = append(objects, object{Unstructured: u, File: path, Line: d.Line})
		}
	}
	return objects, errors.Join(faults...)
}

func decodeDocument(d document) ([]*unstructured.Unstructured, error) {
	json, err := yaml.YAMLToJSONStrict(d.Data)
	if err != nil {
		// Parsed once more behind as many empty lines as precede it, so that
		// the parser names lines of the file.
		padded := append(bytes.Repeat([]byte("\n"), d.Line-1), d.Data...)
		if _, again := yaml.YAMLToJSONStrict(padded); again != nil {
			err = again
		}
		return nil, err
	}
	if bytes.Equal(bytes.TrimSpace(json), []byte("null")) {
		return nil, nil
	}
	decoded, err := runtime.Decode(unstructured.UnstructuredJSONScheme, json)
	if err != nil {
		return nil, plainDecodeError(json, err)
	}
	var found []*unstructured.Unstructured
	switch v := decoded.(type) {
	case *unstructured.Unstructured:
		found = []*unstructured.Unstructured{v}
	case *unstructured.UnstructuredList:
		for i := range v.Items {
			found = append(found, &v.Items[i])
		}
	default:
		return nil, fmt.Errorf("neither an object nor a list: %T", decoded)
	}
	for _, u := range found {
		if err := check(u); err != nil {
			return nil, err
		}
		clean(u)
	}
	return found, nil
}

// plainDecodeError replaces the decoder's message, which quotes the whole
// document, where the cause can be said in a few words.
func plainDecodeError(json []byte, err error) error {
	if trimmed := bytes.TrimSpace(json); len(trimmed) > 0 && trimmed[0] != '{' {
		return errors.New("not a mapping")
	}
	if runtime.IsMissingKind(err) {
		return errors.New("kind is missing")
	}
	return err
}

// check refuses what cannot be applied by name.
func check(u *unstructured.Unstructured) error {
	switch {
	case u.GetKind() == "":
		return errors.New("kind is missing")
	case u.GetAPIVersion() == "":
		return fmt.Errorf("%s: apiVersion is missing", u.GetKind())
	case u.GetName() == "" && u.GetGenerateName() != "":
		return fmt.Errorf("%s %s…: generateName is not supported, give it a name", u.GetKind(), u.GetGenerateName())
	case u.GetName() == "":
		return fmt.Errorf("%s: metadata.name is missing", u.GetKind())
	}
	// An unquoted n or off is a boolean in YAML; the object would go elsewhere.
	if _, _, err := unstructured.NestedString(u.Object, "metadata", "namespace"); err != nil {
		return fmt.Errorf("%s %s: metadata.namespace is not a string", u.GetKind(), u.GetName())
	}
	return nil
}

// clean removes what an exported object carries and a server-side apply
// refuses or misunderstands.
func clean(u *unstructured.Unstructured) {
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(u.Object, "status")
}
