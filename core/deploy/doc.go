// Package deploy brings manifests into the cluster: the packaged components,
// and whatever the administrator puts into server/manifests.
//
// The way of an addon is a pipeline, one file per stage:
//
//	stage (stage.go)      packaged files → server/manifests, tokens filled in
//	source (source.go)    the folder → one source per addon, by its path
//	render (render.go)    files → objects; yaml.go splits and decodes
//	plan (plan.go)        objects → waves
//	apply (cluster.go)    waves → API server, by server-side apply
//
// Invariants: what an addon brings is in the inventory (inventory.go) before
// the first request that creates it, so that disabling it removes exactly
// that, even after a crash. Every object carries the label kelson.io/addon and
// the field manager kelson-addon-<name>; fields that a manifest does not state
// stay as their owner left them. One broken file or addon holds up no other.
//
// Concurrency: Engine is safe for concurrent use. One goroutine watches the
// folder; each addon is applied by a goroutine of its own, which ends when the
// addon is applied, replaced by a newer version of itself, or the engine stops.
package deploy
