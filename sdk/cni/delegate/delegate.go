// Package delegate lets a network plugin have standard CNI plugins (bridge,
// portmap, bandwidth, …) do its attachments, through libcni.
//
// A [Chain] takes the requests that a cni.Network gets and runs the plugins of a
// configuration list for them. Its state is in the cache dir: libcni's results,
// and before each Add what is about to be attached. A Del uses the configuration
// and the values that the Add was done with, whatever is configured now, and
// Collect finds also what was half attached when the process was killed.
//
// The plugins get an environment of CNI's variables and PATH only. They are
// killed, with what they started, when the context ends, and end with the
// process that runs them.
//
// A Chain may be used concurrently for different containers; package cni sees to
// that, and to nothing running during Collect.
package delegate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/kelson-io/kelson/sdk/cni"
)

// Options are what New needs.
type Options struct {
	Conflist []byte   // a CNI configuration list
	BinDirs  []string // where the plugins are; Setup.BinDirs
	CacheDir string   // Setup.CacheDir, or a folder below it
	Path     string   // search path for the plugins' tools; Setup.Path
}

// Chain runs the plugins of one configuration list.
type Chain struct {
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
	dir  string // cache
}

// New checks the configuration list. It starts nothing.
func New(o Options) (*Chain, error) {
	list, err := libcni.NetworkConfFromBytes(o.Conflist)
	if err != nil {
		return nil, cni.Errorf(cni.CodeConfig, "parse configuration list: %w", err)
	}
	if !filepath.IsAbs(o.CacheDir) {
		return nil, cni.Errorf(cni.CodeConfig, "cache dir %q: not an absolute path", o.CacheDir)
	}
	return &Chain{
		list: list,
		cni:  libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.CacheDir, &runner{path: o.Path}),
		dir:  o.CacheDir,
	}, nil
}

// Missing are the types of plugins that the bin dirs lack, for a Preflight.
func (c *Chain) Missing() []string {
	var out []string
	for _, p := range c.list.Plugins {
		find := func(dir string) bool {
			info, err := os.Stat(filepath.Join(dir, p.Network.Type))
			return err == nil && info.Mode().IsRegular()
		}
		if !slices.ContainsFunc(c.cni.Path, find) {
			out = append(out, p.Network.Type)
		}
	}
	return out
}

// Add implements cni.Attacher.
func (c *Chain) Add(ctx context.Context, r *cni.Request) (*cni.Result, error) {
	rt, err := runtimeConf(r)
	if err != nil {
		return nil, err
	}
	if err := c.begin(r); err != nil {
		return nil, cni.Errorf(cni.CodeIO, "note attachment: %w", err)
	}
	result, err := c.cni.AddNetworkList(ctx, c.list, rt)
	if err != nil {
		return nil, told(ctx, err) // what is half done stays noted for Del
	}
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("convert result: %w", err)
	}
	// From here on libcni's cache has what Del needs.
	return current, c.end(r.Attachment)
}

// Del implements cni.Attacher.
func (c *Chain) Del(ctx context.Context, r *cni.Request) error {
	rt, err := runtimeConf(r)
	if err != nil {
		return err
	}
	list, rt := c.added(r.Attachment, rt)
	if err := c.cni.DelNetworkList(ctx, list, rt); err != nil {
		return told(ctx, err)
	}
	return c.end(r.Attachment)
}

// Check implements cni.Attacher.
func (c *Chain) Check(ctx context.Context, r *cni.Request) error {
	rt, err := runtimeConf(r)
	if err != nil {
		return err
	}
	list, rt := c.added(r.Attachment, rt)
	return told(ctx, c.cni.CheckNetworkList(ctx, list, rt))
}

// Collect detaches everything of this list's network that is not valid, and
// returns what it detached. It goes on after an error and returns all of them.
func (c *Chain) Collect(ctx context.Context, valid []cni.Attachment) ([]cni.Attachment, error) {
	known, err := c.known()
	if err != nil {
		return nil, err
	}
	var removed []cni.Attachment
	var errs []error
	for _, r := range known {
		if slices.Contains(valid, r.Attachment) {
			continue
		}
		if err := c.Del(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("detach %s %s: %w", r.ContainerID, r.IfName, err))
			continue
		}
		removed = append(removed, r.Attachment)
	}
	return removed, errors.Join(errs...)
}

// known are the attachments that are cached, done or half done.
func (c *Chain) known() ([]*cni.Request, error) {
	cached, err := c.cni.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	seen := map[cni.Attachment]bool{}
	var out []*cni.Request
	for _, a := range cached {
		attachment := cni.Attachment{ContainerID: a.ContainerID, IfName: a.IfName}
		if a.Network == c.list.Name && !seen[attachment] {
			seen[attachment] = true
			out = append(out, &cni.Request{Attachment: attachment, Netns: a.NetNS})
		}
	}
	begun, err := c.begun()
	for _, b := range begun {
		if a := b.attachment(); !seen[a] {
			seen[a] = true
			out = append(out, &cni.Request{Attachment: a, Netns: b.Netns})
		}
	}
	return out, err
}

// added is the configuration and the runtime's values that the Add was done
// with, as far as they are known.
func (c *Chain) added(a cni.Attachment, rt *libcni.RuntimeConf) (*libcni.NetworkConfigList, *libcni.RuntimeConf) {
	conflist, then, err := c.cni.GetNetworkListCachedConfig(c.list, rt)
	if err != nil || len(conflist) == 0 {
		b, err := c.read(intentName(a))
		if err != nil {
			return c.list, rt
		}
		conflist = b.Conflist
		noted, err := runtimeConf(&cni.Request{Attachment: a, Netns: rt.NetNS, Args: b.Args, RuntimeConfig: b.RuntimeConfig})
		if err != nil {
			return c.list, rt
		}
		then = noted
	}
	list, err := libcni.NetworkConfFromBytes(conflist)
	if err != nil || list.Name != c.list.Name {
		return c.list, rt
	}
	return list, then
}

func runtimeConf(r *cni.Request) (*libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{ContainerID: r.ContainerID, NetNS: r.Netns, IfName: r.IfName}
	for pair := range strings.SplitSeq(r.Args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			rt.Args = append(rt.Args, [2]string{key, value})
		}
	}
	if len(r.RuntimeConfig) == 0 {
		return rt, nil
	}
	var values map[string]json.RawMessage // as they came, numbers too
	if err := json.Unmarshal(r.RuntimeConfig, &values); err != nil {
		return nil, cni.Errorf(cni.CodeDecoding, "runtimeConfig is malformed")
	}
	rt.CapabilityArgs = map[string]any{}
	for key, value := range values {
		rt.CapabilityArgs[key] = value
	}
	return rt, nil
}

// told says of a failure that time ran out, if that was it: the plugin was
// killed and told nothing.
func told(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return cni.Errorf(cni.CodeTryAgain, "%w: %w", ctx.Err(), err)
	}
	return err
}
