// Package config turns a plugin's configuration into a Go struct and describes
// it as JSON Schema (draft 2020-12), both from the struct's tags.
//
//	type Config struct {
//		Backend string        `kelson:"backend,default=vxlan,enum=vxlan|host-gw" doc:"how packets reach other nodes"`
//		Port    uint16        `kelson:"port,default=8472,min=1" doc:"UDP port of the tunnel"`
//		Timeout time.Duration `kelson:"timeout,default=5s,max=1m"`
//		Peers   []netip.Addr  `kelson:"peers,max=8"`
//		Key     config.Secret `kelson:"key,required" doc:"the shared key"`
//	}
//
// Every exported field has the tag kelson with the key's name first, or "-".
// The options are required, default=, min=, max= and enum=a|b. min and max
// bound the value of numbers and durations, and the length of strings, lists
// and maps; the bounds and values of an enum of a list's elements are written
// at the list: enum= judges the elements, min= and max= the list's length; the
// default of a list is written a|b. A comma cannot be part of an option.
//
// Fields are strings, booleans, numbers, time.Duration (written "1m30s"),
// Secret, json.RawMessage (any value), types with UnmarshalText (written as
// strings), and structs, lists, maps with string keys and pointers of these. A
// key that is missing gives the default, or the zero value; a pointer tells a
// missing key by nil.
//
// Decoding is strict: unknown and repeated keys, null, and wrong types are
// refused, and everything that is wrong is found in one pass. The functions
// keep no state and may be called concurrently.
package config
