package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kelson-io/kelson/sdk/config"
)

// maxDepth bounds the nesting of a file.
const maxDepth = 64

// document is a YAML or JSON file as JSON, with the line of each path. Repeated
// keys stay repeated: judging them is the decoder's part.
type document struct {
	json  json.RawMessage
	lines map[string]int
}

func readDocument(data []byte) (*document, config.Diagnostics) {
	doc := &document{lines: map[string]int{}}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root, second yaml.Node
	switch err := dec.Decode(&root); {
	case errors.Is(err, io.EOF):
		doc.json = json.RawMessage("{}")
		return doc, nil
	case err != nil:
		msg := strings.TrimPrefix(err.Error(), "yaml: ")
		if m := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(msg); m != nil {
			doc.lines[""], _ = strconv.Atoi(m[1])
			msg = m[2]
		}
		return doc, config.Diagnostics{config.Errorf("", "neither YAML nor JSON: %s", msg)}
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		doc.lines[""] = second.Line
		return doc, config.Diagnostics{config.Errorf("", "something behind the first document").WithHint("remove it")}
	}
	var out bytes.Buffer
	if d := doc.write(&out, root.Content[0], "", 0); d != nil {
		return doc, config.Diagnostics{*d}
	}
	doc.json = out.Bytes()
	return doc, nil
}

// line is that of the path, or of the nearest one around it.
func (d *document) line(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		if path == "" {
			return 1
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
}

// write writes a node as JSON; the first thing that has no JSON ends it.
func (d *document) write(out *bytes.Buffer, n *yaml.Node, path string, depth int) *config.Diagnostic {
	if _, ok := d.lines[path]; !ok {
		d.lines[path] = n.Line
	}
	refuse := func(what, hint string) *config.Diagnostic {
		r := config.Errorf(path, "%s", what).WithHint("%s", hint)
		return &r
	}
	switch {
	case depth > maxDepth:
		return refuse(fmt.Sprintf("is nested deeper than %d levels", maxDepth), "flatten it")
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return refuse("is an anchor or an alias", "write the value out")
	case n.Kind == yaml.MappingNode:
		return d.mapping(out, n, path, depth)
	case n.Kind == yaml.SequenceNode:
		out.WriteByte('[')
		for i, child := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if r := d.write(out, child, joined(path, strconv.Itoa(i)), depth+1); r != nil {
				return r
			}
		}
		out.WriteByte(']')
		return nil
	}
	raw, err := scalar(n)
	if err != nil {
		return refuse("has no JSON form", "put it in quotes if it is text")
	}
	out.Write(raw)
	return nil
}

func (d *document) mapping(out *bytes.Buffer, n *yaml.Node, path string, depth int) *config.Diagnostic {
	out.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := joined(path, key.Value)
		d.lines[at] = key.Line
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			r := config.Errorf(path, "has a key that is not text").WithHint("write key: value")
			return &r
		}
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(key.Value)
		if err != nil {
			r := config.Errorf(path, "%v", err)
			return &r
		}
		out.Write(name)
		out.WriteByte(':')
		if r := d.write(out, n.Content[i+1], at, depth+1); r != nil {
			return r
		}
	}
	out.WriteByte('}')
	return nil
}

func scalar(n *yaml.Node) ([]byte, error) {
	switch n.ShortTag() {
	case "!!null":
		return []byte("null"), nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return strconv.AppendBool(nil, b), err
	case "!!int", "!!float":
		// As written, if JSON writes numbers so; else what YAML makes of it.
		if json.Valid([]byte(n.Value)) {
			return []byte(n.Value), nil
		}
		var value any
		if err := n.Decode(&value); err != nil {
			return nil, err
		}
		return json.Marshal(value)
	case "!!str", "!!timestamp":
		return json.Marshal(n.Value)
	default:
		return nil, fmt.Errorf("tag %s", n.ShortTag())
	}
}

func joined(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
