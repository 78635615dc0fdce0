package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file; a larger one is something else.
const maxFile = 1 << 20

// item is one value, as text, and where it was written.
type item struct {
	text string
	src  Source
}

// entry is one key of one layer.
type entry struct {
	option  Option
	src     Source
	items   []item
	appends bool // written "key+": adds to the files before
}

// parseFile reads one configuration file. It reports every problem it finds
// and returns the entries that are sound.
func parseFile(name string, data []byte, t table) ([]entry, []Problem) {
	p := fileParser{name: name, table: t}
	root, ok := p.document(data)
	if !ok {
		return nil, p.problems
	}
	var entries []entry
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		e, ok := p.entry(key, value)
		if !ok {
			continue
		}
		if line, twice := seen[key.Value]; twice {
			p.add(key, key.Value, fmt.Sprintf("written before, in line %d", line), "keep one of the two")
			continue
		}
		seen[key.Value] = key.Line
		entries = append(entries, e)
	}
	return entries, p.problems
}

type fileParser struct {
	name     string
	table    table
	problems []Problem
}

func (p *fileParser) source(line int) Source {
	return Source{Kind: FromFile, Name: p.name, Line: line}
}

func (p *fileParser) add(at *yaml.Node, key, msg, remedy string) {
	p.problems = append(p.problems, Problem{Source: p.source(at.Line), Key: key, Msg: msg, Remedy: remedy})
}

// document returns the mapping at the top, or false if there is nothing to read.
func (p *fileParser) document(data []byte) (*yaml.Node, bool) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, false // empty, or comments only
	case err != nil:
		line, msg := yamlError(err)
		p.problems = append(p.problems, Problem{Source: p.source(line), Msg: "not YAML: " + msg, Remedy: "write one key: value a line"})
		return nil, false
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, false
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		p.add(root, "", "not a mapping of keys to values", "write one key: value a line")
		return nil, false
	}
	if err := decoder.Decode(&second); err == nil {
		p.add(&second, "", "a second document", "use a file of its own in the folder with .d for further keys")
	}
	return root, true
}

func (p *fileParser) entry(key, value *yaml.Node) (entry, bool) {
	if key.Kind != yaml.ScalarNode {
		p.add(key, "", "a key that is not text", "write one key: value a line")
		return entry{}, false
	}
	name, appends := strings.CutSuffix(key.Value, "+")
	option, ok := p.table.option(name)
	if !ok {
		p.unknown(key)
		return entry{}, false
	}
	if option.NoFile {
		p.add(key, key.Value, "cannot be set in a file", "use the flag --"+option.Name+" or $"+option.Env)
		return entry{}, false
	}
	if appends && !option.Many() {
		p.add(key, key.Value, "not a list, nothing can be appended", "write "+option.Name+": VALUE")
		return entry{}, false
	}
	e := entry{option: option, src: p.source(key.Line), appends: appends}
	items, ok := p.items(option, key.Value, value)
	e.items = items
	return e, ok
}

func (p *fileParser) unknown(key *yaml.Node) {
	remedy := "run 'kelson server --help' for the list of keys"
	if near := p.table.nearest(strings.TrimSuffix(key.Value, "+")); near != "" {
		remedy = fmt.Sprintf("did you mean %q?", near)
	}
	if key.Value == "plugins" {
		remedy = "plugins are not available in this version; remove the block"
	}
	p.add(key, "", fmt.Sprintf("unknown key %q", key.Value), remedy)
}

// items checks the shape of a value and returns it as text.
func (p *fileParser) items(o Option, key string, value *yaml.Node) ([]item, bool) {
	value = target(value)
	switch value.Kind {
	case yaml.ScalarNode:
		text, ok := p.scalar(o, key, value)
		if !ok {
			return nil, false
		}
		return splitItems(o, text, p.source(value.Line)), true
	case yaml.SequenceNode:
		if !o.Many() {
			p.add(value, key, fmt.Sprintf("want %s, got a list", o.Type), "write one value")
			return nil, false
		}
		return p.sequence(o, key, value)
	default:
		p.add(value, key, fmt.Sprintf("want %s, got a mapping", o.Type), wantExample(o))
		return nil, false
	}
}

func (p *fileParser) sequence(o Option, key string, value *yaml.Node) ([]item, bool) {
	out, ok := []item{}, true
	for _, child := range value.Content {
		child = target(child)
		if child.Kind != yaml.ScalarNode {
			p.add(child, key, "a list item that is not text", wantExample(o))
			ok = false
			continue
		}
		text, sound := p.scalar(o, key, child)
		ok = ok && sound
		out = append(out, splitItems(o, text, p.source(child.Line))...)
	}
	return out, ok
}

func (p *fileParser) scalar(o Option, key string, value *yaml.Node) (string, bool) {
	if value.Tag == "!!null" {
		p.add(value, key, "has no value", "write a value, or remove the key")
		return "", false
	}
	if msg, remedy := checkType(o, value.Value); msg != "" {
		p.add(value, key, msg, remedy)
		return "", false
	}
	return value.Value, true
}

// target follows an alias; YAML forbids an alias to an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// checkType returns what is wrong with text as a value of o, and the remedy.
func checkType(o Option, text string) (msg, remedy string) {
	switch o.Type {
	case Bool:
		if text != "true" && text != "false" {
			return fmt.Sprintf("want true or false, got %q", text), "write true or false"
		}
	case Number:
		if _, err := strconv.ParseInt(text, 10, 32); err != nil {
			return fmt.Sprintf("want a number, got %q", text), "write digits only"
		}
	}
	return "", ""
}

func wantExample(o Option) string {
	if o.Many() {
		return fmt.Sprintf("write %s: [VALUE, VALUE]", o.Name)
	}
	return fmt.Sprintf("write %s: VALUE", o.Name)
}

// splitItems splits a List at commas; other values are one item.
func splitItems(o Option, text string, src Source) []item {
	if o.Type != List {
		return []item{{text, src}}
	}
	out := []item{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, item{part, src})
		}
	}
	return out
}

// yamlError takes the line out of the YAML library's message.
func yamlError(err error) (int, string) {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	match := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(msg)
	if match == nil {
		return 0, msg
	}
	line, convErr := strconv.Atoi(match[1])
	if convErr != nil {
		return 0, msg
	}
	return line, match[2]
}
