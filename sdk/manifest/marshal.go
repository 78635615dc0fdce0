package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Marshal returns the file's content, the keys always in the same order. It
// refuses a Manifest that Check refuses.
func Marshal(m Manifest) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	root := mapping()
	put := func(key string, value any) {
		node := &yaml.Node{}
		if err := node.Encode(value); err == nil && !node.IsZero() {
			root.Content = append(root.Content, text(key), node)
		}
	}
	put("apiVersion", m.APIVersion)
	put("kind", m.Kind)
	put("name", m.Name)
	put("version", m.Version)
	if m.Summary != "" {
		put("summary", m.Summary)
	}
	put("protocols", flow(m.Protocols))
	if len(m.Capabilities) > 0 {
		put("capabilities", flow(m.Capabilities))
	}
	put("lifetime", m.Lifetime)
	if requests := m.Requests.node(); len(requests.Content) > 0 {
		put("requests", requests)
	}
	put("exec", m.Exec)
	if len(m.Args) > 0 {
		put("args", flow(m.Args))
	}
	put("files", m.Files)
	if len(m.ConfigSchema) > 0 {
		schema, err := schemaNode(m.ConfigSchema)
		if err != nil {
			return nil, err
		}
		put("configSchema", schema)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return out.Bytes(), nil
}

func (r Requests) node() *yaml.Node {
	n := mapping()
	if len(r.Caps) > 0 {
		n.Content = append(n.Content, text("caps"), flow(r.Caps))
	}
	if len(r.Paths) > 0 {
		n.Content = append(n.Content, text("paths"), flow(r.Paths))
	}
	if r.Network {
		n.Content = append(n.Content, text("network"), &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "true"})
	}
	if r.Memory != "" {
		n.Content = append(n.Content, text("memory"), text(r.Memory))
	}
	return n
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// flow is a list written in one line.
func flow[T any](list []T) *yaml.Node {
	n := &yaml.Node{}
	if err := n.Encode(list); err != nil {
		return nil
	}
	n.Style = yaml.FlowStyle
	return n
}

func schemaNode(raw json.RawMessage) (*yaml.Node, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("write manifest: configSchema: %w", err)
	}
	return jsonNode(value), nil
}

// jsonNode builds the node of a decoded JSON value, keys sorted.
func jsonNode(value any) *yaml.Node {
	switch v := value.(type) {
	case map[string]any:
		n := mapping()
		for _, key := range slices.Sorted(maps.Keys(v)) {
			n.Content = append(n.Content, text(key), jsonNode(v[key]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, item := range v {
			n.Content = append(n.Content, jsonNode(item))
		}
		return n
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}
	case string:
		return text(v)
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(v)}
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
}
