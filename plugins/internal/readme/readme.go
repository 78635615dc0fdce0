// Package readme checks the README.md of a plugin: its sections, that its
// section Configuration says what the schema says, and that its examples are
// valid. It is used by tests only.
package readme

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kelson-io/kelson/sdk/plugin"
	"github.com/kelson-io/kelson/sdk/serve"
)

const (
	begin = "<!-- generated from the schema: go test -update -->\n"
	end   = "<!-- end -->\n"
)

func sections() []string {
	return []string{"## Name", "## Description", "## Configuration", "## Examples", "## Limits"}
}

// Check checks README.md in the current folder; with update it writes the
// generated part first.
func Check(t *testing.T, p plugin.Plugin, update bool) {
	t.Helper()
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	before, rest, ok := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("README.md has no generated part between %q and %q", begin, end)
	}
	want := before + begin + table(t, p.Schema()) + end + after
	if update && want != text {
		if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		text = want
	}
	if text != want {
		t.Error("README.md: the section Configuration does not say what the schema says: run the test with -update")
	}
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "## ") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	if !slices.Equal(found, sections()) {
		t.Errorf("README.md: sections %q, want %q", found, sections())
	}
	_, examples, _ := strings.Cut(text, "## Examples")
	validate(t, p, examples)
}

// validate gives every YAML block to the program's own validate.
func validate(t *testing.T, p plugin.Plugin, examples string) {
	t.Helper()
	n := 0
	for {
		_, rest, ok := strings.Cut(examples, "```yaml\n")
		if !ok {
			break
		}
		block, after, ok := strings.Cut(rest, "```")
		if !ok {
			t.Fatal("README.md: an example does not end")
		}
		examples = after
		n++
		var out bytes.Buffer
		code := serve.Run(serve.Process{
			Name: p.Info().Name, Args: []string{"validate", "-f", "-"}, Getenv: func(string) string { return "" },
			Stdin: strings.NewReader(block), Stdout: &out, Stderr: &out,
		}, p)
		if code != 0 {
			t.Errorf("README.md: example %d is not valid: %s\n%s", n, out.String(), block)
		}
	}
	if n == 0 {
		t.Error("README.md has no examples")
	}
}

// table is the schema as Markdown.
func table(t *testing.T, schema json.RawMessage) string {
	t.Helper()
	var s struct {
		Properties map[string]struct {
			Type        string `json:"type"`
			Description string `json:"description"`
			Default     any    `json:"default"`
			Enum        []any  `json:"enum"`
			Minimum     *int   `json:"minimum"`
			Maximum     *int   `json:"maximum"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(schema, &s); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
	for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[key]
		kind, fallback := p.Type, ""
		if len(p.Enum) > 0 {
			var values []string
			for _, v := range p.Enum {
				values = append(values, fmt.Sprint(v))
			}
			kind = strings.Join(values, ", ")
		} else if p.Minimum != nil && p.Maximum != nil {
			kind = fmt.Sprintf("%s, %d to %d", p.Type, *p.Minimum, *p.Maximum)
		}
		if p.Default != nil {
			fallback = "`" + fmt.Sprint(p.Default) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", key, kind, fallback, strings.ReplaceAll(p.Description, "|", "\\|"))
	}
	return b.String()
}
