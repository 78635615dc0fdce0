package delegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kelson-io/kelson/sdk/cni"
)

// intent is an attachment that was begun: libcni's cache knows one only when it
// is complete. It survives the end of the process, not of the machine, which
// takes all links and rules with it; host-local's files are collected anyway.
type intent struct {
	ContainerID   string          `json:"containerId"`
	IfName        string          `json:"ifName"`
	Netns         string          `json:"netns"`
	Args          string          `json:"args,omitempty"`
	RuntimeConfig json.RawMessage `json:"runtimeConfig,omitempty"`
	Conflist      json.RawMessage `json:"conflist"`
}

func (i *intent) attachment() cni.Attachment {
	return cni.Attachment{ContainerID: i.ContainerID, IfName: i.IfName}
}

func (c *Chain) intents() string { return filepath.Join(c.dir, "begun", c.list.Name) }

func intentName(a cni.Attachment) string { return a.ContainerID + "-" + a.IfName }

func (c *Chain) begin(r *cni.Request) error {
	raw, err := json.Marshal(intent{r.ContainerID, r.IfName, r.Netns, r.Args, r.RuntimeConfig, c.list.Bytes})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.intents(), 0o700); err != nil {
		return err
	}
	name := intentName(r.Attachment)
	temp := filepath.Join(c.intents(), "."+name+"."+strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(temp, raw, 0o600); err != nil {
		os.Remove(temp)
		return err
	}
	return os.Rename(temp, filepath.Join(c.intents(), name))
}

func (c *Chain) end(a cni.Attachment) error {
	if err := os.Remove(filepath.Join(c.intents(), intentName(a))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return cni.Errorf(cni.CodeIO, "forget attachment: %w", err)
	}
	return nil
}

// begun are all intents. Temporary files of a killed process are removed.
func (c *Chain) begun() ([]*intent, error) {
	entries, err := os.ReadDir(c.intents())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*intent
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			errs = append(errs, os.Remove(filepath.Join(c.intents(), e.Name())))
			continue
		}
		i, err := c.read(e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, i)
	}
	return out, errors.Join(errs...)
}

func (c *Chain) read(name string) (*intent, error) {
	raw, err := os.ReadFile(filepath.Join(c.intents(), name))
	if err != nil {
		return nil, err
	}
	var i intent
	if err := json.Unmarshal(raw, &i); err != nil {
		return nil, fmt.Errorf("parse %s: %w", filepath.Join(c.intents(), name), err)
	}
	return &i, nil
}
