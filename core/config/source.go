package config

import "strconv"

// SourceKind says which layer a value came from; a later kind wins.
type SourceKind int

// The layers, weakest first.
const (
	FromDefault SourceKind = iota
	FromFile
	FromEnv
	FromFlag
)

// Source is where one value was written.
type Source struct {
	Kind SourceKind
	Name string // file path, variable or flag name
	Line int    // of a file, else 0
}

// String is "default", "FILE:LINE", "$VARIABLE" or "--flag".
func (s Source) String() string {
	switch s.Kind {
	case FromFile:
		if s.Line == 0 {
			return s.Name
		}
		return s.Name + ":" + strconv.Itoa(s.Line)
	case FromEnv:
		return "$" + s.Name
	case FromFlag:
		return "--" + s.Name
	default:
		return "default"
	}
}
