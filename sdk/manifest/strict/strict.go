// Package strict reads YAML files in which every key is known. A key that is
// unknown or written twice, a value of the wrong type, a missing value: each is
// reported with file, line, key and remedy, all of them at once.
//
// Invariants: anchors, aliases, merge keys and custom tags are refused, so that
// the size of a value is bounded by the size of its file, which is bounded too.
// The package keeps no state; a Document may be used by one goroutine at a time.
package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxFile  = 1 << 20
	maxDepth = 100
)

// Document remembers where the keys of a decoded file were written.
type Document struct {
	file     string
	lines    map[string]int
	problems Problems
}

// Decode reads one YAML mapping into a struct, whose fields have the tag
// `yaml:"key"`. Fields are strings, booleans, integers, json.RawMessage (any
// mapping), structs, pointers to, slices of and maps by string of these. file
// stands in the messages. The error is of type Problems; the Document can be
// used in any case, and the struct holds what was sound.
func Decode(data []byte, file string, into any) (*Document, error) {
	d := &Document{file: file, lines: map[string]int{}}
	if root := d.parse(data); root != nil {
		d.value(root, "", reflect.ValueOf(into).Elem(), 0)
	}
	return d, d.problems.OrNil()
}

// At makes a Problem of what is wrong with key ("requests.caps.0"). The line is
// the key's, or that of the nearest key around it.
func (d *Document) At(key, msg, remedy string) Problem {
	p := Problem{File: d.file, Key: key, Msg: msg, Remedy: remedy, Line: 1}
	for at := key; ; {
		if line, ok := d.lines[at]; ok {
			p.Line = line
			return p
		}
		i := strings.LastIndexByte(at, '.')
		if i < 0 {
			return p
		}
		at = at[:i]
	}
}

func (d *Document) add(n *yaml.Node, key, msg, remedy string) {
	d.problems = append(d.problems, Problem{File: d.file, Line: max(n.Line, 1), Key: key, Msg: msg, Remedy: remedy})
}

func (d *Document) parse(data []byte) *yaml.Node {
	if len(data) > maxFile {
		d.add(&yaml.Node{}, "", fmt.Sprintf("the file has %d bytes, at most %d", len(data), maxFile), "this is not the file that is meant")
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.add(&yaml.Node{}, "", "the file is empty", "write one key: value a line")
		return nil
	case err != nil:
		line, msg := yamlError(err)
		d.add(&yaml.Node{Line: line}, "", "not YAML: "+msg, "write one key: value a line")
		return nil
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		d.add(&second, "", "something behind the first document", "remove it: the file is one document")
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		d.add(&doc, "", "not a mapping of keys to values", "write one key: value a line")
		return nil
	}
	return doc.Content[0]
}

// value decodes n, the value of key, into v.
func (d *Document) value(n *yaml.Node, key string, v reflect.Value, depth int) {
	if key != "" {
		if _, ok := d.lines[key]; !ok {
			d.lines[key] = n.Line
		}
	}
	switch {
	case depth > maxDepth:
		d.add(n, key, "nested too deep", "flatten it")
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.add(n, key, "anchors and aliases are not allowed", "write the value out")
	case v.Type() == reflect.TypeFor[json.RawMessage]():
		d.raw(n, key, v)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, key, v.Elem(), depth)
	case v.Kind() == reflect.Struct:
		d.structure(n, key, v, depth)
	case v.Kind() == reflect.Map:
		d.mapping(n, key, v, depth)
	case v.Kind() == reflect.Slice:
		d.sequence(n, key, v, depth)
	default:
		d.scalar(n, key, v)
	}
}

func (d *Document) structure(n *yaml.Node, key string, v reflect.Value, depth int) {
	fields := map[string]int{}
	var names []string
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			name, _, _ = strings.Cut(name, ",")
			fields[name] = i
			names = append(names, name)
		}
	}
	d.pairs(n, key, func(k, child *yaml.Node) {
		i, ok := fields[k.Value]
		if !ok {
			remedy := "known keys: " + strings.Join(names, ", ")
			if near := nearest(k.Value, names); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			d.add(k, join(key, k.Value), "unknown key", remedy)
			return
		}
		d.lines[join(key, k.Value)] = k.Line
		d.value(child, join(key, k.Value), v.Field(i), depth+1)
	})
}

func (d *Document) mapping(n *yaml.Node, key string, v reflect.Value, depth int) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, key, func(k, child *yaml.Node) {
		d.lines[join(key, k.Value)] = k.Line
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(child, join(key, k.Value), item, depth+1)
		v.SetMapIndex(reflect.ValueOf(k.Value), item)
	})
}

// pairs visits the entries of a mapping whose keys are text and unique.
func (d *Document) pairs(n *yaml.Node, key string, visit func(k, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.add(n, key, "want a mapping, found "+describe(n), "write key: value pairs, indented")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		line, twice := seen[k.Value]
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge" || k.Anchor != "":
			d.add(k, key, "a key that is not text", "write key: value")
		case twice:
			d.add(k, join(key, k.Value), fmt.Sprintf("written before, in line %d", line), "keep one of the two")
		default:
			seen[k.Value] = k.Line
			visit(k, n.Content[i+1])
		}
	}
}

func (d *Document) sequence(n *yaml.Node, key string, v reflect.Value, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.add(n, key, "want a list, found "+describe(n), "write [VALUE, VALUE]")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, child := range n.Content {
		d.value(child, join(key, strconv.Itoa(i)), v.Index(i), depth+1)
	}
}

func (d *Document) scalar(n *yaml.Node, key string, v reflect.Value) {
	want := "text"
	ok := n.Kind == yaml.ScalarNode
	tag := n.ShortTag()
	switch v.Kind() {
	case reflect.String:
		if ok = ok && slices.Contains([]string{"!!str", "!!int", "!!float", "!!timestamp"}, tag); ok {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		want = "true or false"
		if ok = ok && tag == "!!bool"; ok {
			v.SetBool(strings.EqualFold(n.Value, "true"))
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		want = "a whole number"
		x, err := strconv.ParseInt(n.Value, 10, v.Type().Bits())
		if ok = ok && tag == "!!int" && err == nil; ok {
			v.SetInt(x)
		}
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		want = "a whole number, not negative"
		x, err := strconv.ParseUint(n.Value, 10, v.Type().Bits())
		if ok = ok && tag == "!!int" && err == nil; ok {
			v.SetUint(x)
		}
	default:
		ok = false
	}
	if !ok {
		remedy := "write " + want
		if want == "text" {
			remedy += ", in quotes if it looks like something else"
		}
		d.add(n, key, "want "+want+", found "+describe(n), remedy)
	}
}

func (d *Document) raw(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.add(n, key, "want a mapping, found "+describe(n), "write key: value pairs, indented")
		return
	}
	value, ok := d.plain(n, key, 0)
	if !ok {
		return
	}
	data, err := json.Marshal(value)
	if err != nil {
		d.add(n, key, "not JSON: "+err.Error(), "use text, numbers, true, false, lists and mappings only")
		return
	}
	v.SetBytes(data)
}

// plain turns a node into what encoding/json understands.
func (d *Document) plain(n *yaml.Node, key string, depth int) (any, bool) {
	if depth > maxDepth || n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.add(n, key, "nested too deep, or an anchor or alias", "write the value out")
		return nil, false
	}
	sound := true
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		before := len(d.problems)
		d.pairs(n, key, func(k, child *yaml.Node) {
			value, ok := d.plain(child, join(key, k.Value), depth+1)
			out[k.Value], sound = value, sound && ok
		})
		return out, sound && before == len(d.problems)
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, child := range n.Content {
			value, ok := d.plain(child, join(key, strconv.Itoa(i)), depth+1)
			out[i], sound = value, sound && ok
		}
		return out, sound
	}
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return n.Value, true
	case "!!null":
		return nil, true
	case "!!bool", "!!int", "!!float":
		var value any
		if err := n.Decode(&value); err == nil {
			return value, true
		}
	}
	d.add(n, key, "want text, a number, true or false, found "+describe(n), "write it in quotes if it is text")
	return nil, false
}

func join(key, child string) string {
	if key == "" {
		return child
	}
	return key + "." + child
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if n.ShortTag() == "!!null" {
			return "nothing"
		}
		return strconv.Quote(n.Value)
	default:
		return "nothing"
	}
}

// yamlError takes the line out of the YAML library's message.
func yamlError(err error) (int, string) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	match := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(msg)
	if match == nil {
		return 1, msg
	}
	line, convErr := strconv.Atoi(match[1])
	if convErr != nil {
		return 1, msg
	}
	return line, match[2]
}
