package config

import (
	"encoding/json"
	"math"
	"strings"
)

// Draft is the JSON Schema draft of Schema.
const Draft = "https://json-schema.org/draft/2020-12/schema"

// secretMark marks schemas of secrets, for programs that show configurations.
const secretMark = "x-kelson-secret"

// Schema describes T. What Decode takes is valid by it; what it cannot express
// (bounds of durations, the language of types with UnmarshalText) Decode alone
// judges. A T that Inspect refuses has a schema that nothing fulfils.
func Schema[T any]() json.RawMessage {
	s, err := inspect[T]()
	if err != nil {
		return encode(map[string]any{"$schema": Draft, "type": "object", "not": map[string]any{}, "$comment": err.Error()})
	}
	schema := s.schema()
	schema["$schema"] = Draft
	return encode(schema)
}

func encode(schema map[string]any) json.RawMessage {
	raw, err := json.Marshal(schema)
	if err != nil { // unreachable: only strings, numbers and what they form
		return json.RawMessage(`{"type":"object","not":{}}`)
	}
	return raw
}

func (s *shape) schema() map[string]any {
	m := map[string]any{}
	switch s.kind {
	case kindString, kindText:
		m["type"] = "string"
		s.limits.write(m, "minLength", "maxLength")
	case kindBool:
		m["type"] = "boolean"
	case kindInt, kindUint:
		m["type"] = "integer"
		m["minimum"], m["maximum"] = s.integers()
		s.limits.write(m, "minimum", "maximum")
	case kindFloat:
		m["type"] = "number"
		s.limits.write(m, "minimum", "maximum")
	case kindDuration:
		m["type"], m["pattern"] = "string", durationPattern
	case kindList:
		m["type"], m["items"] = "array", s.elem.schema()
		s.limits.write(m, "minItems", "maxItems")
	case kindMap:
		m["type"], m["additionalProperties"] = "object", s.elem.schema()
		s.limits.write(m, "minProperties", "maxProperties")
	case kindSecret:
		m["type"], m["additionalProperties"], m["required"] = "object", false, []string{"secret"}
		m["properties"] = map[string]any{"secret": map[string]any{"type": "string", "minLength": 1}}
		m[secretMark] = true
	case kindStruct:
		s.object(m)
	}
	if s.limits.enum != nil {
		m["enum"] = s.limits.enum
	}
	return m
}

func (s *shape) object(m map[string]any) {
	properties := map[string]any{}
	required := []string{}
	for _, f := range s.fields {
		p := f.shape.schema()
		if doc := f.describe(); doc != "" {
			p["description"] = doc
		}
		if f.fallback != nil {
			p["default"] = *f.fallback
		}
		if f.mustBeGiven() {
			required = append(required, f.name)
		}
		properties[f.name] = p
	}
	m["type"], m["properties"], m["additionalProperties"] = "object", properties, false
	if len(required) > 0 {
		m["required"] = required
	}
}

// describe is the doc, with the bounds that the schema cannot express.
func (f field) describe() string {
	doc := f.doc
	if f.shape.kind != kindDuration {
		return doc
	}
	var bounds []string
	if b := f.shape.limits.min; b != nil {
		bounds = append(bounds, "at least "+b.text)
	}
	if b := f.shape.limits.max; b != nil {
		bounds = append(bounds, "at most "+b.text)
	}
	if len(bounds) == 0 {
		return doc
	}
	return strings.TrimSpace(doc + " (" + strings.Join(bounds, ", ") + ")")
}

// write sets the schema's keywords for the author's bounds.
func (l limits) write(m map[string]any, lowest, highest string) {
	if l.min != nil {
		m[lowest] = l.min.value
	}
	if l.max != nil {
		m[highest] = l.max.value
	}
}

// integers is the range of the Go type.
func (s *shape) integers() (lowest, highest any) {
	if s.kind == kindUint {
		return 0, uint64(math.MaxUint64) >> (64 - s.limits.bits)
	}
	return int64(math.MinInt64) >> (64 - s.limits.bits), int64(math.MaxInt64) >> (64 - s.limits.bits)
}
