package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/kelson-io/kelson/sdk/cni/frame"
)

// Result is a CNI result of the versions 1.0.0 and 1.1.0.
type Result = types100.Result

// Versions are the CNI versions that are spoken.
func Versions() []string { return []string{"1.0.0", "1.1.0"} }

// Request is one operation on an attachment.
type Request struct {
	Attachment

	Netns         string          // path; empty in a Del after the namespace has gone
	Args          string          // CNI_ARGS as it came
	CNIVersion    string          // of the result to give
	Config        json.RawMessage // the whole network configuration
	RuntimeConfig json.RawMessage // the runtime's values for capabilities, or nil
	PrevResult    *Result         // of the Add, in Del and Check if the runtime kept it
}

// Arg is a value of CNI_ARGS, such as K8S_POD_NAME.
func (r *Request) Arg(key string) string {
	for pair := range strings.SplitSeq(r.Args, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok && k == key {
			return v
		}
	}
	return ""
}

// Pod is the namespace and the name of the pod, empty if the runtime did not
// tell.
func (r *Request) Pod() (namespace, name string) {
	return r.Arg("K8S_POD_NAMESPACE"), r.Arg("K8S_POD_NAME")
}

// netConf is what this package reads of a network configuration.
type netConf struct {
	CNIVersion    string          `json:"cniVersion"`
	RuntimeConfig json.RawMessage `json:"runtimeConfig"`
	PrevResult    json.RawMessage `json:"prevResult"`
	Valid         []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	} `json:"cni.dev/valid-attachments"`
	hasValid bool
}

func parseConf(raw []byte) (netConf, error) {
	var c netConf
	if err := json.Unmarshal(raw, &c); err != nil {
		// The decoder's error could quote a value; say only where it is.
		return c, Errorf(CodeDecoding, "network configuration is not valid JSON of the right types")
	}
	if !slices.Contains(Versions(), c.CNIVersion) {
		return c, Errorf(CodeVersion, "cniVersion %q is not spoken, only %s", c.CNIVersion, strings.Join(Versions(), " and "))
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err == nil {
		_, c.hasValid = keys["cni.dev/valid-attachments"]
	}
	return c, nil
}

func (c netConf) attachments() []Attachment {
	out := make([]Attachment, 0, len(c.Valid))
	for _, v := range c.Valid {
		out = append(out, Attachment{v.ContainerID, v.IfName})
	}
	return out
}

// nameForm is the form of container ids that the CNI specification allows; it
// also keeps them from being paths.
func nameForm() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) }

// names checks the parts of attachments.
type names struct{ id *regexp.Regexp }

func (n names) check(a Attachment) error {
	if len(a.ContainerID) > 200 || !n.id.MatchString(a.ContainerID) {
		return Errorf(CodeEnvironment, "CNI_CONTAINERID is missing or malformed")
	}
	if a.IfName == "" || len(a.IfName) > 15 || a.IfName == "." || a.IfName == ".." || strings.ContainsAny(a.IfName, "/: \t\r\n\v\f\x00") {
		return Errorf(CodeEnvironment, "CNI_IFNAME is missing or malformed")
	}
	return nil
}

// request builds what the author gets from what the shim sent.
func (n names) request(f *frame.Request, c netConf) (*Request, error) {
	r := &Request{CNIVersion: c.CNIVersion, Config: f.Stdin}
	for _, e := range f.Env {
		key, value, _ := strings.Cut(e, "=")
		switch key {
		case "CNI_CONTAINERID":
			r.ContainerID = value
		case "CNI_IFNAME":
			r.IfName = value
		case "CNI_NETNS":
			r.Netns = value
		case "CNI_ARGS":
			r.Args = value
		}
	}
	if err := n.check(r.Attachment); err != nil {
		return nil, err
	}
	if r.Netns == "" && f.Verb != frame.Del {
		return nil, Errorf(CodeEnvironment, "CNI_NETNS is missing")
	}
	if present(c.RuntimeConfig) {
		r.RuntimeConfig = c.RuntimeConfig
	}
	if present(c.PrevResult) {
		prev := &Result{}
		if err := json.Unmarshal(c.PrevResult, prev); err != nil {
			return nil, Errorf(CodeDecoding, "prevResult is malformed")
		}
		r.PrevResult = prev
	}
	if f.Verb == frame.Check && r.PrevResult == nil {
		return nil, Errorf(CodeConfig, "prevResult is missing")
	}
	return r, nil
}

func present(raw json.RawMessage) bool {
	return len(raw) > 0 && !bytes.Equal(raw, []byte("null"))
}

// encode gives a result in the version that was asked for.
func encode(r *Result, version string) ([]byte, error) {
	if r == nil {
		return nil, Errorf(CodeInternal, "the plugin gave no result")
	}
	out, err := r.GetAsVersion(version)
	if err != nil {
		return nil, Errorf(CodeVersion, "result as version %s: %w", version, err)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	return raw, nil
}
