package config

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"time"
)

// durationPattern is the part of time.ParseDuration's language that the schema
// describes too: no signs, and digits around the point.
const durationPattern = `^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`

func parseDuration(text string) (time.Duration, error) {
	if !regexp.MustCompile(durationPattern).MatchString(text) {
		return 0, errors.New("not a duration")
	}
	return time.ParseDuration(text)
}

// Decode fills a T from a JSON object and says everything that is wrong with
// it; no input is the same as {}. The T is complete only if the diagnostics
// have no errors. secrets are the values by name, as JSON strings; nil means
// that the values are not known yet, as while validating: then the secrets in T
// are set but empty. Diagnostics never contain a secret.
func Decode[T any](raw json.RawMessage, secrets map[string]json.RawMessage) (T, Diagnostics) {
	var out T
	s, err := inspect[T]()
	if err != nil {
		return out, Diagnostics{Errorf("", "%v", err).WithHint("this is a defect of the plugin")}
	}
	n, err := parse(raw)
	if err != nil {
		return out, Diagnostics{Errorf("", "is not valid JSON: %v", err)}
	}
	d := decoder{secrets: secrets}
	d.value(s, n, "", reflect.ValueOf(&out).Elem())
	return out, d.found
}

type decoder struct {
	secrets map[string]json.RawMessage
	found   Diagnostics
}

func (d *decoder) errorf(path, format string, args ...any) {
	d.found = append(d.found, Errorf(path, format, args...))
}

// value decodes n into out and reports what is wrong under path.
func (d *decoder) value(s *shape, n node, path string, out reflect.Value) {
	if n.value == nil && s.kind != kindRaw {
		d.found = append(d.found, Errorf(path, "must be %s, not null", s.wants()).WithHint("leave the key out"))
		return
	}
	if s.pointer {
		out.Set(reflect.New(out.Type().Elem()))
		out = out.Elem()
	}
	switch s.kind {
	case kindStruct, kindMap:
		members, ok := n.value.([]member)
		if !ok {
			d.errorf(path, "must be %s, not %s", s.wants(), n.kind())
			return
		}
		if s.kind == kindStruct {
			d.object(s, members, path, out)
			return
		}
		d.mapping(s, members, path, out)
	case kindList:
		list, ok := n.value.([]node)
		if !ok {
			d.errorf(path, "must be a list, not %s", n.kind())
			return
		}
		out.Set(reflect.MakeSlice(out.Type(), len(list), len(list)))
		for i, e := range list {
			d.value(s.elem, e, join(path, strconv.Itoa(i)), out.Index(i))
		}
	case kindSecret:
		d.secret(n, path, out)
		return
	case kindRaw:
		raw, err := json.Marshal(n)
		if err != nil {
			d.errorf(path, "%v", err)
			return
		}
		out.SetBytes(raw)
		return
	default:
		d.scalar(s, n, path, out)
		return
	}
	d.bounds(s, path, out, "")
}

func (d *decoder) bounds(s *shape, path string, out reflect.Value, text string) {
	if summary, hint := s.breach(out, text); summary != "" {
		d.found = append(d.found, Diagnostic{Path: path, Summary: summary, Hint: hint})
	}
}

func (d *decoder) object(s *shape, members []member, path string, out reflect.Value) {
	given := d.unique(members, path)
	for _, m := range members {
		if !contains(s.fields, m.key) {
			d.found = append(d.found, Errorf(join(path, m.key), "unknown key").WithHint("%s", nearest(m.key, s.keys())))
		}
	}
	for _, f := range s.fields {
		at, target := join(path, f.name), out.Field(f.index)
		n, ok := given[f.name]
		switch {
		case ok:
			d.value(f.shape, n, at, target)
		case f.fallback != nil:
			d.value(f.shape, *f.fallback, at, target)
		case f.required && f.shape.kind != kindStruct:
			d.errorf(at, "is required")
		case f.shape.kind == kindStruct && (f.required || !f.shape.pointer):
			d.value(f.shape, node{value: []member{}}, at, target)
			if f.required && !f.shape.hasRequired() {
				d.errorf(at, "is required")
			}
		}
	}
}

// hasRequired tells a struct whose absence shows by the keys it lacks.
func (s *shape) hasRequired() bool {
	for _, f := range s.fields {
		if f.mustBeGiven() {
			return true
		}
	}
	return false
}

func contains(fields []field, key string) bool {
	for _, f := range fields {
		if f.name == key {
			return true
		}
	}
	return false
}

func (d *decoder) mapping(s *shape, members []member, path string, out reflect.Value) {
	out.Set(reflect.MakeMapWithSize(out.Type(), len(members)))
	d.unique(members, path)
	for _, m := range members {
		v := reflect.New(out.Type().Elem()).Elem()
		d.value(s.elem, m.node, join(path, m.key), v)
		out.SetMapIndex(reflect.ValueOf(m.key).Convert(out.Type().Key()), v)
	}
}

// unique indexes members and refuses repeated keys.
func (d *decoder) unique(members []member, path string) map[string]node {
	index := make(map[string]node, len(members))
	for _, m := range members {
		if m.node.repeats {
			d.errorf(join(path, m.key), "is given twice")
		}
		index[m.key] = m.node
	}
	return index
}

func (d *decoder) scalar(s *shape, n node, path string, out reflect.Value) {
	text, isText := n.value.(string)
	switch v := n.value.(type) {
	case bool:
		if s.kind == kindBool {
			out.SetBool(v)
			return
		}
	case json.Number:
		if s.kind == kindInt || s.kind == kindUint || s.kind == kindFloat {
			if !setNumber(s, v.String(), out) {
				d.errorf(path, "must be %s", s.wants())
				return
			}
			d.bounds(s, path, out, "")
			return
		}
	}
	if !isText || s.kind != kindString && s.kind != kindDuration && s.kind != kindText {
		d.errorf(path, "must be %s, not %s", s.wants(), n.kind())
		return
	}
	switch s.kind {
	case kindDuration:
		t, err := parseDuration(text)
		if err != nil {
			d.found = append(d.found, Errorf(path, "must be a duration").WithHint(`write it like "1m30s"`))
			return
		}
		out.SetInt(int64(t))
	case kindText:
		u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](out.Addr())
		if !ok {
			d.errorf(path, "cannot be read")
			return
		}
		if err := u.UnmarshalText([]byte(text)); err != nil {
			d.errorf(path, "%v", err)
			return
		}
	default:
		out.SetString(text)
	}
	d.bounds(s, path, out, text)
}

// setNumber reads whole numbers in every way that JSON Schema counts as whole
// (1, 1.0, 1e2).
func setNumber(s *shape, text string, out reflect.Value) bool {
	if s.kind == kindFloat {
		f, err := strconv.ParseFloat(text, s.limits.bits)
		out.SetFloat(f)
		return err == nil
	}
	if s.kind == kindUint {
		if u, err := strconv.ParseUint(text, 10, s.limits.bits); err == nil {
			out.SetUint(u)
			return true
		}
	} else if i, err := strconv.ParseInt(text, 10, s.limits.bits); err == nil {
		out.SetInt(i)
		return true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<53 {
		return false
	}
	if s.kind == kindUint {
		if f < 0 || out.OverflowUint(uint64(f)) {
			return false
		}
		out.SetUint(uint64(f))
		return true
	}
	if out.OverflowInt(int64(f)) {
		return false
	}
	out.SetInt(int64(f))
	return true
}

// secret resolves a reference. Its messages name keys only: what was written in
// place of a reference may be the secret itself.
func (d *decoder) secret(n node, path string, out reflect.Value) {
	wrong := Errorf(path, "must refer to a secret").WithHint(`write {"secret": "NAME"} and give the value as secret NAME`)
	members, ok := n.value.([]member)
	if !ok || len(members) != 1 || members[0].key != "secret" {
		d.found = append(d.found, wrong)
		return
	}
	name, ok := members[0].node.value.(string)
	if !ok || name == "" {
		d.found = append(d.found, wrong)
		return
	}
	s := sealed{name: name}
	if d.secrets != nil {
		raw, given := d.secrets[name]
		if !given {
			d.found = append(d.found, Errorf(path, "there is no secret %q", name).WithHint("give the plugin a secret of this name"))
			return
		}
		if err := json.Unmarshal(raw, &s.value); err != nil || len(raw) == 0 || raw[0] != '"' {
			d.errorf(path, "the value of secret %q is not a JSON string", name)
			return
		}
	}
	out.Set(reflect.ValueOf(seal(s)))
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// wants names what the shape takes.
func (s *shape) wants() string {
	switch s.kind {
	case kindBool:
		return "a boolean"
	case kindInt, kindUint:
		lowest, highest := s.integers()
		return fmt.Sprintf("a whole number from %v to %v", lowest, highest)
	case kindFloat:
		return "a number"
	case kindDuration:
		return "a duration such as \"1m30s\""
	case kindList:
		return "a list"
	case kindMap, kindStruct:
		return "an object"
	case kindSecret:
		return "a reference to a secret"
	default:
		return "a string"
	}
}
