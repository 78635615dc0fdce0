package manifest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kelson-io/kelson/sdk/manifest/strict"
)

// ValidName reports whether s may name a plugin: lower-case letters, digits and
// dashes, beginning with a letter, at most 40.
func ValidName(s string) bool { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`).MatchString(s) }

// ValidVersion reports whether s is a semantic version without a leading v, of
// at most 64 bytes. Such a text is also a safe name of a folder.
func ValidVersion(s string) bool {
	const number, ident = `(0|[1-9][0-9]*)`, `(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)`
	const build = `(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?`
	re := regexp.MustCompile(`^` + number + `\.` + number + `\.` + number + `(-` + ident + `(\.` + ident + `)*)?` + build + `$`)
	return len(s) <= 64 && re.MatchString(s)
}

// ParseDigest returns the hex digits of "sha256:<hex>".
func ParseDigest(s string) (string, bool) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return digits, ok && validHex(digits)
}

func validHex(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && hex.EncodeToString(raw) == s
}

// checker collects problems.
type checker struct{ found strict.Problems }

func (c *checker) need(ok bool, key, msg, remedy string) {
	if !ok {
		c.found = append(c.found, strict.Problem{Key: key, Msg: msg, Remedy: remedy})
	}
}

func (c *checker) oneOf(key, value string, allowed []string) {
	list := strings.Join(allowed, ", ")
	c.need(slices.Contains(allowed, value), key, fmt.Sprintf("want one of %s, found %q", list, value), "write "+key+": "+allowed[0])
}

func (m Manifest) problems() strict.Problems {
	c := &checker{}
	c.oneOf("apiVersion", m.APIVersion, []string{APIVersion})
	c.oneOf("kind", m.Kind, Kinds())
	c.need(ValidName(m.Name), "name", fmt.Sprintf("want a plugin's name, found %q", m.Name),
		"use lower-case letters, digits and dashes, beginning with a letter, at most 40")
	c.need(ValidVersion(m.Version), "version", fmt.Sprintf("want a semantic version, found %q", m.Version), "write it like 1.2.3, without a leading v")
	c.need(len(m.Summary) <= 200 && !strings.ContainsAny(m.Summary, "\r\n"), "summary", "want one line of at most 200 bytes", "shorten it")
	c.protocols(m.Protocols)
	c.words("capabilities", m.Capabilities, `^[A-Za-z][A-Za-z0-9._-]{0,62}$`, "use letters, digits, dots and dashes")
	c.oneOf("lifetime", m.Lifetime, Lifetimes())
	c.requests(m.Requests)
	c.files(m)
	for i, arg := range m.Args {
		c.need(!strings.ContainsRune(arg, 0), index("args", i), "holds a zero byte", "remove it")
	}
	c.schema(m.ConfigSchema)
	return c.found
}

func (c *checker) protocols(list []uint32) {
	c.need(len(list) > 0 && len(list) <= 16, "protocols", "want the majors of the contract that the plugin serves", "write protocols: [1]")
	for i, p := range list {
		c.need(p > 0 && !slices.Contains(list[:i], p), index("protocols", i), fmt.Sprintf("%d is zero or written twice", p), "write each major once")
	}
}

func (c *checker) words(key string, list []string, pattern, remedy string) {
	re := regexp.MustCompile(pattern)
	for i, word := range list {
		c.need(re.MatchString(word), index(key, i), fmt.Sprintf("cannot be %q", word), remedy)
		c.need(!slices.Contains(list[:i], word), index(key, i), fmt.Sprintf("%q is written twice", word), "keep one of the two")
	}
}

func (c *checker) requests(r Requests) {
	for i, name := range r.Caps {
		c.need(!strings.HasPrefix(name, "CAP_"), index("requests.caps", i), fmt.Sprintf("%q has the prefix CAP_", name), "write "+strings.TrimPrefix(name, "CAP_"))
	}
	c.words("requests.caps", r.Caps, `^[A-Z][A-Z_]{1,40}$`, "write a Linux capability like NET_ADMIN")
	for i, p := range r.Paths {
		c.need(path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0), index("requests.paths", i),
			fmt.Sprintf("want an absolute path without detours, found %q", p), "write it like /dev/net/tun")
	}
	c.need(r.Memory == "" || regexp.MustCompile(`^[1-9][0-9]{0,9}(Ki|Mi|Gi)$`).MatchString(r.Memory), "requests.memory",
		fmt.Sprintf("want a size, found %q", r.Memory), "write it like 64Mi")
}

func (c *checker) files(m Manifest) {
	c.need(len(m.Files) > 0 && len(m.Files) <= 1000, "files", "want the digest of each file", "let the plugin write it: PROGRAM manifest")
	for _, name := range slices.Sorted(maps.Keys(m.Files)) {
		key := "files." + name
		c.need(validPath(name), key, "want a path inside the plugin's folder", "use letters, digits, dots and dashes; no .. and no leading slash")
		c.need(name != FileName && name != SignatureName, key, "cannot pin itself", "remove the line")
		_, ok := ParseDigest(m.Files[name])
		c.need(ok, key, fmt.Sprintf("want sha256: and 64 hexadecimal digits, found %q", m.Files[name]), "take them from sha256sum")
	}
	_, pinned := m.Files[m.Exec]
	c.need(m.Exec != "", "exec", "names no program", "write the program's file name")
	c.need(pinned || m.Exec == "", "exec", fmt.Sprintf("%q is not among the files", m.Exec), "add it to files, with its digest")
}

// validPath tells a name that means the same file on every system and that
// needs no quoting anywhere.
func validPath(name string) bool {
	return fs.ValidPath(name) && name != "." && len(name) <= 200 && regexp.MustCompile(`^[A-Za-z0-9._/+-]+$`).MatchString(name)
}

func (c *checker) schema(raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	var schema struct {
		Type any `json:"type"`
	}
	err := json.Unmarshal(raw, &schema)
	c.need(err == nil && raw[0] == '{', "configSchema", "want a JSON Schema, an object", "let the plugin print it: PROGRAM schema")
	c.need(err != nil || schema.Type == nil || schema.Type == "object", "configSchema.type", fmt.Sprintf("want object, found %v", schema.Type), "a configuration is an object")
}

func index(key string, i int) string { return key + "." + strconv.Itoa(i) }
