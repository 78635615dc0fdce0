package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

type kind int

const (
	kindString kind = iota
	kindBool
	kindInt
	kindUint
	kindFloat
	kindDuration
	kindText
	kindSecret
	kindRaw
	kindList
	kindMap
	kindStruct
)

// shape is what inspection knows of a type at one place of the configuration.
type shape struct {
	kind    kind
	pointer bool
	elem    *shape // of a list or map
	fields  []field
	limits  limits
}

type field struct {
	index    int
	name     string
	doc      string
	required bool
	fallback *node // the default
	shape    *shape
}

// mustBeGiven tells a struct that cannot be left out, because something in it
// is required.
func (f field) mustBeGiven() bool {
	if f.required {
		return true
	}
	return f.shape.kind == kindStruct && !f.shape.pointer && slices.ContainsFunc(f.shape.fields, field.mustBeGiven)
}

func (s *shape) keys() []string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = f.name
	}
	return names
}

// Inspect tells whether T and its tags can describe a configuration. An error
// is the author's mistake; a test should call it.
func Inspect[T any]() error {
	_, err := inspect[T]()
	return err
}

func inspect[T any]() (*shape, error) {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("configuration type %v: not a struct", t)
	}
	s, err := shapeOf(t, nil)
	if err != nil {
		return nil, fmt.Errorf("configuration type %v: %w", t, err)
	}
	return s, nil
}

// shapeOf inspects a type; outer are the structs around it.
func shapeOf(t reflect.Type, outer []reflect.Type) (*shape, error) {
	if k, ok := special(t); ok {
		return &shape{kind: k}, nil
	}
	switch t.Kind() {
	case reflect.String:
		return &shape{kind: kindString}, nil
	case reflect.Bool:
		return &shape{kind: kindBool}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &shape{kind: kindInt, limits: limits{bits: t.Bits()}}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &shape{kind: kindUint, limits: limits{bits: t.Bits()}}, nil
	case reflect.Float32, reflect.Float64:
		return &shape{kind: kindFloat, limits: limits{bits: t.Bits()}}, nil
	case reflect.Pointer:
		s, err := shapeOf(t.Elem(), outer)
		if err != nil {
			return nil, err
		}
		if s.pointer || s.kind == kindList || s.kind == kindMap || s.kind == kindRaw || s.kind == kindSecret {
			return nil, fmt.Errorf("%v: a pointer adds nothing here", t)
		}
		s.pointer = true
		return s, nil
	case reflect.Slice:
		elem, err := shapeOf(t.Elem(), outer)
		return &shape{kind: kindList, elem: elem}, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return nil, fmt.Errorf("%v: keys of a map must be strings", t)
		}
		elem, err := shapeOf(t.Elem(), outer)
		return &shape{kind: kindMap, elem: elem}, err
	case reflect.Struct:
		if slices.Contains(outer, t) {
			return nil, fmt.Errorf("%v contains itself", t)
		}
		return structShape(t, append(slices.Clone(outer), t))
	default:
		return nil, fmt.Errorf("%v cannot be configured", t)
	}
}

// special tells the types that are not what their Go kind says.
func special(t reflect.Type) (kind, bool) {
	switch t {
	case reflect.TypeFor[Secret]():
		return kindSecret, true
	case reflect.TypeFor[time.Duration]():
		return kindDuration, true
	case reflect.TypeFor[json.RawMessage]():
		return kindRaw, true
	}
	if t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return kindText, true
	}
	return 0, false
}

func structShape(t reflect.Type, outer []reflect.Type) (*shape, error) {
	s := &shape{kind: kindStruct}
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("kelson")
		switch {
		case tag == "-" || !sf.IsExported() && !tagged:
			continue
		case !sf.IsExported():
			return nil, fmt.Errorf("field %s has a tag but is not exported", sf.Name)
		case !tagged:
			return nil, fmt.Errorf(`field %s needs a tag kelson:"name", or kelson:"-"`, sf.Name)
		}
		f, err := fieldOf(sf, i, tag, outer)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", sf.Name, err)
		}
		if slices.Contains(s.keys(), f.name) {
			return nil, fmt.Errorf("field %s: a second key %q", sf.Name, f.name)
		}
		s.fields = append(s.fields, f)
	}
	return s, nil
}

func fieldOf(sf reflect.StructField, index int, tag string, outer []reflect.Type) (field, error) {
	name, options, _ := strings.Cut(tag, ",")
	if !regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`).MatchString(name) {
		return field{}, fmt.Errorf("key %q: want letters, digits, _ and -, a letter first", name)
	}
	s, err := shapeOf(sf.Type, outer)
	if err != nil {
		return field{}, err
	}
	f := field{index: index, name: name, doc: sf.Tag.Get("doc"), shape: s}
	var fallback *string
	for option := range strings.SplitSeq(options, ",") {
		key, value, valued := strings.Cut(option, "=")
		switch {
		case option == "" && options == "":
		case option == "required":
			f.required = true
		case key == "default" && valued:
			fallback = &value
		case valued && (key == "min" || key == "max" || key == "enum"):
			if err := s.limit(key, value); err != nil {
				return field{}, fmt.Errorf("option %s: %w", option, err)
			}
		default:
			return field{}, fmt.Errorf("unknown option %q", option)
		}
	}
	if fallback == nil {
		return f, nil
	}
	if f.required {
		return field{}, fmt.Errorf("a required key needs no default")
	}
	n, err := s.literal(*fallback)
	if err != nil {
		return field{}, fmt.Errorf("default %q: %w", *fallback, err)
	}
	f.fallback = &n
	d := decoder{}
	d.value(s, n, "", reflect.New(sf.Type).Elem())
	if len(d.found) > 0 {
		return field{}, fmt.Errorf("default %q %s", *fallback, d.found[0].Summary)
	}
	return f, nil
}

// literal is a default, as it would stand in the configuration.
func (s *shape) literal(text string) (node, error) {
	switch s.kind {
	case kindString, kindDuration, kindText:
		return node{value: text}, nil
	case kindBool, kindInt, kindUint, kindFloat:
		n, err := parse([]byte(text))
		return n, err
	case kindList:
		list := []node{}
		if text == "" {
			return node{value: list}, nil
		}
		for part := range strings.SplitSeq(text, "|") {
			n, err := s.elem.literal(part)
			if err != nil {
				return node{}, err
			}
			list = append(list, n)
		}
		return node{value: list}, nil
	default:
		return node{}, fmt.Errorf("only plain values and lists of them have one")
	}
}
