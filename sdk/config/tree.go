package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// maxDepth bounds nesting, so that a hostile configuration cannot exhaust the
// stack.
const maxDepth = 64

// node is a JSON value that still knows repeated keys.
type node struct {
	value   any // nil, bool, string, json.Number, []node, or []member
	repeats bool
}

type member struct {
	key  string
	node node
}

// kind names the node's JSON type as a person would.
func (n node) kind() string {
	switch n.value.(type) {
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case []node:
		return "a list"
	case []member:
		return "an object"
	default:
		return "null"
	}
}

func parse(raw []byte) (node, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return node{value: []member{}}, nil
	}
	if !utf8.Valid(raw) {
		return node{}, errors.New("not UTF-8")
	}
	// The decoder's tokens alone would let some bad syntax pass.
	var whole json.RawMessage
	if err := json.Unmarshal(raw, &whole); err != nil {
		return node{}, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return next(dec, 0)
}

func next(dec *json.Decoder, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return node{}, err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return node{value: tok}, nil
	}
	if delim == '[' {
		list := []node{}
		for dec.More() {
			n, err := next(dec, depth+1)
			if err != nil {
				return node{}, err
			}
			list = append(list, n)
		}
		_, err := dec.Token()
		return node{value: list}, err
	}
	members := []member{}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return node{}, err
		}
		key, _ := tok.(string)
		n, err := next(dec, depth+1)
		if err != nil {
			return node{}, err
		}
		n.repeats = seen[key]
		seen[key] = true
		members = append(members, member{key, n})
	}
	_, err = dec.Token()
	return node{value: members}, err
}

// MarshalJSON writes the value again.
func (n node) MarshalJSON() ([]byte, error) {
	members, ok := n.value.([]member)
	if !ok {
		return json.Marshal(n.value)
	}
	object := make(map[string]node, len(members))
	for _, m := range members {
		object[m.key] = m.node
	}
	return json.Marshal(object)
}
