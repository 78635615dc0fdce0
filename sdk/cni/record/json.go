package record

import (
	"errors"
	"strconv"
	"unicode/utf8"
)

// Marshal is the record as JSON, with a newline.
func (r *Record) Marshal() []byte {
	out := make([]byte, 0, 512)
	for i, f := range r.fields() {
		out = append(out, `{,`[min(i, 1)])
		out = append(out, '"')
		out = append(append(out, f.key...), `":`...)
		out = AppendString(out, *f.value)
	}
	return append(out, "}\n"...)
}

// Parse reads what Marshal writes, with any order, white space and further keys.
func Parse(raw []byte) (Record, error) {
	var r Record
	if !Valid(raw) {
		return r, ErrJSON
	}
	for _, f := range r.fields() {
		if text, ok := String(Lookup(raw, f.key)); ok {
			*f.value = text
		}
	}
	if r.ContainerID == "" || r.IfName == "" {
		return r, errors.New("record names no attachment")
	}
	return r, nil
}

type field struct {
	key   string
	value *string
}

func (r *Record) fields() []field {
	return []field{
		{"plugin", &r.Plugin},
		{"socket", &r.Socket},
		{"container_id", &r.ContainerID},
		{"ifname", &r.IfName},
		{"netns", &r.Netns},
		{"time", &r.Time},
	}
}

// ErrJSON is the error for what is no JSON.
var ErrJSON = errors.New("not valid JSON")

const maxDepth = 64

// Valid tells whether raw is one JSON value, nested no deeper than 64.
func Valid(raw []byte) bool {
	end, ok := skip(raw, space(raw, 0), 0)
	return ok && space(raw, end) == len(raw)
}

// Lookup is the raw value of a key of the object raw, which must be Valid, by
// way of the given keys; nil if there is none. Of equal keys the last counts, as
// in encoding/json.
func Lookup(raw []byte, keys ...string) []byte {
	for _, key := range keys {
		raw = member(raw, key)
	}
	return raw
}

func member(raw []byte, key string) (found []byte) {
	at := space(raw, 0)
	if at >= len(raw) || raw[at] != '{' {
		return nil
	}
	for at = space(raw, at+1); at < len(raw) && raw[at] == '"'; at = space(raw, at+1) {
		end, ok := skip(raw, at, 0)
		if !ok {
			return nil
		}
		name, _ := String(raw[at:end])
		at = space(raw, space(raw, end)+1) // behind the colon
		if end, ok = skip(raw, at, 0); !ok {
			return nil
		}
		if name == key {
			found = raw[at:end]
		}
		if at = space(raw, end); at >= len(raw) || raw[at] != ',' {
			break
		}
	}
	return found
}

// String is the text of a JSON string.
func String(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	raw = raw[1 : len(raw)-1]
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		i++
		if i >= len(raw) {
			return "", false
		}
		switch raw[i] {
		case 'u':
			r, ok := hex4(raw, i+1)
			if !ok {
				return "", false
			}
			i += 4
			if r >= 0xd800 && r < 0xdc00 { // the first half of a pair
				if low, ok := pair(raw, i+1); ok {
					r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			out = append(out, raw[i])
		}
	}
	return string(out), true
}

func pair(raw []byte, at int) (rune, bool) {
	if at+6 > len(raw) || raw[at] != '\\' || raw[at+1] != 'u' {
		return 0, false
	}
	low, ok := hex4(raw, at+2)
	return low, ok && low >= 0xdc00 && low < 0xe000
}

func hex4(raw []byte, at int) (rune, bool) {
	if at+4 > len(raw) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[at:at+4]), 16, 16)
	return rune(n), err == nil
}

// AppendString appends text as a JSON string.
func AppendString(to []byte, text string) []byte {
	const digits = "0123456789abcdef"
	to = append(to, '"')
	for _, r := range text { // bytes that are no UTF-8 become U+FFFD
		switch {
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		case r < 0x20:
			to = append(to, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			to = utf8.AppendRune(to, r)
		}
	}
	return append(to, '"')
}

func space(raw []byte, at int) int {
	for at < len(raw) && (raw[at] == ' ' || raw[at] == '\t' || raw[at] == '\n' || raw[at] == '\r') {
		at++
	}
	return at
}

// skip is the end of the value that begins at at.
func skip(raw []byte, at, depth int) (end int, ok bool) {
	if at >= len(raw) || depth > maxDepth {
		return at, false
	}
	switch c := raw[at]; {
	case c == '"':
		return skipString(raw, at)
	case c == '{':
		return skipList(raw, at, '}', depth)
	case c == '[':
		return skipList(raw, at, ']', depth)
	case c == '-' || c >= '0' && c <= '9':
		return skipNumber(raw, at)
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if at+len(word) <= len(raw) && string(raw[at:at+len(word)]) == word {
			return at + len(word), true
		}
	}
	return at, false
}

func skipString(raw []byte, at int) (end int, ok bool) {
	for at++; at < len(raw); at++ {
		switch c := raw[at]; {
		case c == '"':
			return at + 1, true
		case c < 0x20:
			return at, false
		case c == '\\':
			at++
			if at >= len(raw) {
				return at, false
			}
			switch raw[at] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if _, ok := hex4(raw, at+1); !ok {
					return at, false
				}
				at += 4
			default:
				return at, false
			}
		}
	}
	return at, false
}

// skipList skips an array, or an object: an array of pairs with a colon.
func skipList(raw []byte, at int, closing byte, depth int) (end int, ok bool) {
	if at = space(raw, at+1); at < len(raw) && raw[at] == closing {
		return at + 1, true
	}
	for {
		if closing == '}' {
			if at >= len(raw) || raw[at] != '"' {
				return at, false
			}
			if at, ok = skipString(raw, at); !ok {
				return at, false
			}
			if at = space(raw, at); at >= len(raw) || raw[at] != ':' {
				return at, false
			}
			at = space(raw, at+1)
		}
		if at, ok = skip(raw, at, depth+1); !ok {
			return at, false
		}
		at = space(raw, at)
		switch {
		case at < len(raw) && raw[at] == closing:
			return at + 1, true
		case at >= len(raw) || raw[at] != ',':
			return at, false
		}
		at = space(raw, at+1)
	}
}

func skipNumber(raw []byte, at int) (end int, ok bool) {
	digits := func() bool {
		from := at
		for at < len(raw) && raw[at] >= '0' && raw[at] <= '9' {
			at++
		}
		return at > from
	}
	if raw[at] == '-' {
		at++
	}
	zero := at < len(raw) && raw[at] == '0'
	if zero {
		at++
	} else if !digits() {
		return at, false
	}
	if at < len(raw) && raw[at] == '.' {
		at++
		if !digits() {
			return at, false
		}
	}
	if at < len(raw) && (raw[at] == 'e' || raw[at] == 'E') {
		at++
		if at < len(raw) && (raw[at] == '+' || raw[at] == '-') {
			at++
		}
		if !digits() {
			return at, false
		}
	}
	return at, true
}
