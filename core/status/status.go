// Package status is the snapshot that a running server leaves for the command
// line: what it is, and how far its boot has come.
//
// The server replaces the file whole whenever something changes; readers probe
// what may have changed since. A Status is a value; the package keeps no state.
package status

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// FileName is the file's name in the run dir.
const FileName = "status.json"

// State of a server or of one step of its boot.
type State string

// The states. A step goes pending, starting, launched, ready or failed, stopped.
const (
	Pending  State = "pending"
	Starting State = "starting"
	Launched State = "launched" // started, and not waited for before the next phase
	Ready    State = "ready"
	Failed   State = "failed"
	Stopping State = "stopping"
	Stopped  State = "stopped"
)

// Status is the file's content. JSON names are stable.
type Status struct {
	Version    string    `json:"version"`
	PID        int       `json:"pid"`
	StartedAt  time.Time `json:"startedAt"`
	State      State     `json:"state"`
	Reason     string    `json:"reason,omitempty"` // of Failed and Stopping
	DataDir    string    `json:"dataDir"`
	Kubeconfig string    `json:"kubeconfig"`
	APIServer  string    `json:"apiServer"` // https://host:port of the local listener
	Node       string    `json:"node,omitempty"`
	Datastore  Datastore `json:"datastore"`
	Components []string  `json:"components,omitempty"` // packaged components that are deployed
	// Snapshotter is the one in effect, which need not be the configured one;
	// empty until the node has chosen it.
	Snapshotter string   `json:"snapshotter,omitempty"`
	Plugins     []Plugin `json:"plugins,omitempty"`
	Phases      []Phase  `json:"phases"`
}

// Plugin is one plugin that the server runs.
type Plugin struct {
	Kind     string    `json:"kind"`
	Name     string    `json:"name"`
	Version  string    `json:"version,omitempty"`
	Phase    string    `json:"phase"`             // as the plugin host names it
	Reason   string    `json:"reason,omitempty"`  // one word in CamelCase
	Message  string    `json:"message,omitempty"` // for humans
	PID      int       `json:"pid,omitempty"`
	Restarts uint64    `json:"restarts"` // after a failure
	Since    time.Time `json:"since"`    // when the phase began
}

// Datastore says where the cluster's state is kept.
type Datastore struct {
	Kind       string `json:"kind"`
	Durability string `json:"durability,omitempty"`
}

// Phase is one phase of the boot, in its order.
type Phase struct {
	Name  string `json:"name"`
	Steps []Step `json:"steps"`
}

// Step is one step of a phase.
type Step struct {
	Name   string  `json:"name"`
	State  State   `json:"state"`
	Took   float64 `json:"tookSeconds,omitempty"` // from its start until ready
	Reason string  `json:"reason,omitempty"`      // of Failed and Launched; of Ready: what is degraded
}

// Encode returns the file's content for an atomic write.
func (s Status) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	return append(data, '\n'), nil
}

// Read reads the file. The error is fs.ErrNotExist when no server has run
// since the host was started.
func Read(path string) (Status, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Status{}, fmt.Errorf("read status: %w", err)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("read status %s: %w", path, err)
	}
	return s, nil
}
