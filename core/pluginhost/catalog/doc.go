// Package catalog says which plugin programs may run, finds them, verifies
// them, and remembers what ran well.
//
// What may run is the union of the bundled catalog, which travels in the
// payload with digests, and the administrator's. A plugin that the
// administrator installed lies in plugins/<kind>/<name>/<version>/ of the data
// dir, described by its plugin.yaml. What was resolved is in
// plugins/plugin-catalog.lock, as generations that can be gone back to.
//
// Invariants: a program is returned only when catalog, path, manifest, lock and
// the digests of the files agree, and when its signature does where one is
// there or wanted. What is not listed never runs. Files are replaced whole: a
// crash at any moment leaves the old state or the new one. Every refusal names
// the file, what was expected, what was found, and a remedy.
//
// A Catalog may be used by several goroutines and by several processes at once:
// the lock is written under a file lock, installations are made one by one.
package catalog
