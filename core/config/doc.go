// Package config turns what a user wrote into one typed value per component.
//
// One table (Options) describes every key: it is the schema of config.yaml, the
// list of flags and of KELSON_ variables, and the answer to every key of K3s.
// Load merges default < config.yaml < config.yaml.d < environment < flag, and
// reports all problems at once, each with its place and a remedy.
//
// Invariants: the package starts nothing and writes nothing; it reads only the
// configuration files, the host name and what it is passed. A secret never
// leaves it as text but in the typed value that needs it. Everything here is
// safe for concurrent use: there is no shared state.
package config
