// Package images brings image archives into containerd, so that a node boots
// without a registry: those of the payload, and those that an administrator
// puts into agent/images/, at boot and later.
//
// Invariants: an archive is imported once per content, not once per start (an
// index records size, time and digest of each file, and the digests of the
// images that came out of it; what it says is checked against containerd's
// store before it is believed); images are pinned, so that kubelet's garbage
// collection leaves them; a bad archive is named and skipped.
//
// Concurrency: an Importer's methods may be called from any goroutine; one
// archive is never imported twice at once.
package images
