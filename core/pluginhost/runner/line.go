package runner

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/go-hclog"
)

const (
	maxFields = 32
	maxField  = 4 << 10 // bytes of one value
)

// entry is one line as it goes to the log.
type entry struct {
	level      hclog.Level
	message    string
	fields     []any // key, value, …
	structured bool  // it was JSON
	panics     bool  // a Go program's last words begin
}

// parseLine reads a line as hclog's or slog's JSON. Anything else, of whatever
// shape, is a message.
func parseLine(line string) entry {
	if strings.HasPrefix(line, "{") {
		if e, ok := parseJSON(line); ok {
			return e
		}
	}
	e := entry{level: hclog.Info, message: printable(line, maxLine)}
	for prefix, level := range map[string]hclog.Level{
		"[TRACE]": hclog.Trace, "[DEBUG]": hclog.Debug, "[INFO]": hclog.Info, "[WARN]": hclog.Warn, "[ERROR]": hclog.Error, "[ERR]": hclog.Error,
	} {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			e.level, e.message = level, printable(strings.TrimSpace(rest), maxLine)
		}
	}
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		e.level, e.panics = hclog.Error, true
	}
	return e
}

func parseJSON(line string) (entry, bool) {
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil || m == nil {
		return entry{}, false
	}
	e := entry{level: hclog.Info, structured: true}
	e.level = levelOf(take(m, "@level", "level", "lvl", "severity"))
	e.message = printable(text(take(m, "@message", "msg", "message")), maxLine)
	take(m, "@timestamp", "time", "ts") // the host's log has its own
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for i, k := range keys {
		if i == maxFields {
			e.fields = append(e.fields, "fields_left_out", len(keys)-maxFields)
			break
		}
		e.fields = append(e.fields, printable(strings.TrimPrefix(k, "@"), 64), printable(text(m[k]), maxField))
	}
	return e, true
}

// take removes the first of the keys that is there, and returns its value.
func take(m map[string]any, keys ...string) any {
	for _, k := range keys {
		if v, ok := m[k]; ok {
			delete(m, k)
			return v
		}
	}
	return nil
}

// text writes a value of any kind.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case map[string]any, []any:
		raw, err := json.Marshal(v)
		if err == nil {
			return string(raw)
		}
	}
	return fmt.Sprint(v)
}

func levelOf(v any) hclog.Level {
	s, ok := v.(string)
	if !ok {
		return hclog.Info
	}
	word, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(s)), "+") // slog: ERROR+2
	switch word {
	case "trace", "debug-4":
		return hclog.Trace
	case "debug":
		return hclog.Debug
	case "warn", "warning":
		return hclog.Warn
	case "error", "err", "fatal", "panic", "critical", "crit", "alert", "emergency":
		return hclog.Error
	}
	return hclog.Info
}

// printable cuts a text and takes out what could forge lines or move a cursor.
func printable(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case unicode.IsControl(r):
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if cut {
		s += "…"
	}
	return s
}

// redactor blots out secrets.
type redactor struct{ r *strings.Replacer }

// minSecret is the length below which blotting out would only garble.
const minSecret = 4

func newRedactor(secrets []string) redactor {
	var pairs []string
	seen := map[string]bool{}
	// The longest first: a secret may contain another one.
	secrets = slices.Clone(secrets)
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, s := range secrets {
		forms := []string{s}
		if quoted, err := json.Marshal(s); err == nil {
			forms = append(forms, string(quoted[1:len(quoted)-1]))
		}
		for _, form := range forms {
			if len(form) >= minSecret && !seen[form] {
				seen[form] = true
				pairs = append(pairs, form, "***")
			}
		}
	}
	if len(pairs) == 0 {
		return redactor{}
	}
	return redactor{strings.NewReplacer(pairs...)}
}

func (r redactor) replace(s string) string {
	if r.r == nil {
		return s
	}
	return r.r.Replace(s)
}
