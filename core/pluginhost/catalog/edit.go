package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/datadir"
	"github.com/kelson-io/kelson/sdk/manifest"
)

// Pin returns the bundled catalog with the version and the digest of the program
// that holds all bundled plugins in every entry. The build writes that into the
// payload.
func Pin(data []byte, version, sha256 string) ([]byte, error) {
	if !validHex(sha256) {
		return nil, fmt.Errorf("pin plugin catalog: %q is not a SHA-256", sha256)
	}
	out, err := edit(data, onPlugins(func(plugins *yaml.Node) {
		for _, e := range plugins.Content {
			put(e, "version", version)
			put(e, "sha256", sha256)
		}
	}))
	if err != nil {
		return nil, fmt.Errorf("pin plugin catalog: %w", err)
	}
	if _, err := parseCatalog(out, FileName, true); err != nil {
		return nil, fmt.Errorf("pin plugin catalog: %w", err)
	}
	return out, nil
}

// SetEnabled lets a plugin run, or no longer. It also forgets that the listed
// version had failed. The change is written into the administrator's catalog.
func (c *Catalog) SetEnabled(kind, name string, on bool) error {
	s, err := c.load()
	if err != nil {
		return err
	}
	e, ok := s.find(kind, name)
	if !ok {
		return c.unlisted(s, kind, name)
	}
	if e.On() != on {
		err := c.editFile(func(plugins *yaml.Node) {
			entry := entryNode(plugins, kind, name)
			if on {
				drop(entry, "enabled")
			} else {
				put(entry, "enabled", false)
			}
			if len(entry.Content) == len("kn")*2 { // says nothing any more
				removeNode(plugins, entry)
			}
		})
		if err != nil {
			return err
		}
	}
	if !on {
		return nil
	}
	return c.change(func(l *lockFile) (bool, error) { return l.forgive(e), nil })
}

// forgive gives the listed version another chance.
func (l *lockFile) forgive(e Entry) bool {
	r, changed := l.record(e.Kind, e.Name), false
	if r == nil {
		return false
	}
	for i := range r.Generations {
		if g := &r.Generations[i]; g.Version == e.Version && g.Failed != "" {
			g.Failed, changed = "", true
		}
	}
	return changed
}

// editFile changes the list of plugins in the administrator's catalog and keeps
// its comments. A result that could not be read is not written.
func (c *Catalog) editFile(do func(plugins *yaml.Node)) error { return c.editRoot(onPlugins(do)) }

func (c *Catalog) editRoot(do func(root *yaml.Node)) error {
	held, err := c.hold(".lock")
	if err != nil {
		return err
	}
	return errors.Join(c.rewrite(do), held.Unlock())
}

func (c *Catalog) rewrite(do func(root *yaml.Node)) error {
	mode := os.FileMode(0o644)
	data, err := os.ReadFile(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(filepath.Dir(c.file), 0o755)
	} else if info, statErr := os.Stat(c.file); statErr == nil {
		mode = info.Mode().Perm()
	}
	if err != nil {
		return fmt.Errorf("change plugin catalog: %w", err)
	}
	out, err := edit(data, do)
	if err == nil {
		_, err = parseCatalog(out, c.file, false)
	}
	if err != nil {
		return fmt.Errorf("change plugin catalog %s: %w", c.file, err)
	}
	if bytes.Equal(out, data) {
		return nil
	}
	c.at("catalog")
	path, err := filepath.EvalSymlinks(c.file)
	if err != nil {
		path = c.file
	}
	if err := datadir.WriteFile(path, out, mode); err != nil {
		return config.Hinted(err, "make it writable, or write the entry into it yourself")
	}
	return nil
}

func edit(data []byte, do func(root *yaml.Node)) ([]byte, error) {
	if blank(data) {
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data, '\n')
		}
		data = append(data, "apiVersion: "+manifest.APIVersion+"\nplugins: []\n"...)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("not a mapping of keys to values")
	}
	do(doc.Content[0])
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// onPlugins calls do with the list of plugins.
func onPlugins(do func(plugins *yaml.Node)) func(root *yaml.Node) {
	return func(root *yaml.Node) {
		plugins := child(root, "plugins", yaml.SequenceNode)
		do(plugins)
		if plugins.Style = 0; len(plugins.Content) == 0 {
			plugins.Style = yaml.FlowStyle
		}
	}
}

// child returns the value of key, made if it is missing or null.
func child(mapping *yaml.Node, key string, kind yaml.Kind) *yaml.Node {
	n := value(mapping, key)
	if n == nil {
		n = &yaml.Node{}
		mapping.Content = append(mapping.Content, scalar(key), n)
	}
	if n.Kind != kind {
		n.Kind, n.Tag, n.Value = kind, "", ""
	}
	return n
}

// entryNode finds a plugin's entry, or appends one.
func entryNode(plugins *yaml.Node, kind, name string) *yaml.Node {
	for _, e := range plugins.Content {
		k, n := value(e, "kind"), value(e, "name")
		if k != nil && n != nil && k.Value == kind && n.Value == name {
			return e
		}
	}
	e := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{scalar("kind"), scalar(kind), scalar("name"), scalar(name)}}
	plugins.Content = append(plugins.Content, e)
	return e
}

func removeNode(list, item *yaml.Node) {
	for i, n := range list.Content {
		if n == item {
			list.Content = append(list.Content[:i:i], list.Content[i+1:]...)
			return
		}
	}
}

func value(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func put(mapping *yaml.Node, key string, v any) {
	n := &yaml.Node{}
	if err := n.Encode(v); err != nil {
		return
	}
	if old := value(mapping, key); old != nil {
		n.LineComment, n.HeadComment, n.FootComment = old.LineComment, old.HeadComment, old.FootComment
		*old = *n
		return
	}
	mapping.Content = append(mapping.Content, scalar(key), n)
}

func drop(mapping *yaml.Node, key string) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			mapping.Content = append(mapping.Content[:i:i], mapping.Content[i+2:]...)
			return
		}
	}
}

func scalar(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}
