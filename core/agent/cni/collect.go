package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

const (
	collectEvery    = 15 * time.Minute
	collectDeadline = 30 * time.Second
	// goneFor is how long an attachment must be missing from the container
	// runtime: one that is being made is not listed there yet.
	goneFor  = time.Minute
	lockPoll = 50 * time.Millisecond
)

// attachment is one interface of one pod sandbox.
type attachment struct {
	ContainerID string `json:"container_id"`
	IfName      string `json:"ifname"`
}

// collector finds out what is attached no longer. It is used by one goroutine.
type collector struct {
	paths   paths
	runtime string               // containerd's socket
	missing map[string]time.Time // sandbox → first missed
	now     func() time.Time
}

// valid returns what the plugin must keep, and the sandboxes that are gone. due
// is when to look again, if something is missing for less than a minute.
func (c *collector) valid(known []attachment, running map[string]bool) (keep []attachment, gone map[string]bool, due bool) {
	gone = map[string]bool{}
	seen := map[string]bool{}
	for _, a := range known {
		seen[a.ContainerID] = true
		if running[a.ContainerID] {
			delete(c.missing, a.ContainerID)
			keep = append(keep, a)
			continue
		}
		since, missed := c.missing[a.ContainerID]
		if !missed {
			c.missing[a.ContainerID] = c.now()
			since = c.now()
		}
		if c.now().Sub(since) < goneFor {
			keep, due = append(keep, a), true
			continue
		}
		gone[a.ContainerID] = true
	}
	for id := range c.missing {
		if !seen[id] {
			delete(c.missing, id)
		}
	}
	return keep, gone, due
}

// pass looks once; again says that something is missing, but not for long.
func (c *collector) pass(ctx context.Context, client cniv1.NetworkClient) (removed int, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, collectDeadline)
	defer cancel()
	unlock, err := c.paths.still(ctx)
	if err != nil {
		return 0, true, err
	}
	defer unlock()
	running, err := c.sandboxes(ctx)
	if err != nil {
		return 0, true, err
	}
	known, err := c.paths.known()
	if err != nil {
		return 0, true, err
	}
	keep, gone, again := c.valid(known, running)
	if len(gone) == 0 && len(known) > 0 {
		return 0, again, nil
	}
	request := &cniv1.CollectRequest{}
	for _, a := range keep {
		request.Valid = append(request.Valid, &cniv1.Attachment{ContainerId: a.ContainerID, Ifname: a.IfName})
	}
	reply, err := client.Collect(ctx, request)
	if err != nil {
		return 0, true, fmt.Errorf("collect: %w", err)
	}
	return len(reply.GetRemoved()), again, c.paths.forget(gone)
}

// still waits until no shim is at work, and keeps others from beginning: each
// holds a shared lock from before it asks the plugin until its record is
// written.
func (p paths) still(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(p.records, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock attachments: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock attachments: %w", err), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

// sandboxes are the pod sandboxes that containerd has, whatever their state.
func (c *collector) sandboxes(ctx context.Context) (map[string]bool, error) {
	conn, err := grpc.NewClient("unix://"+c.runtime, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	defer conn.Close()
	list, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pod sandboxes: %w", err)
	}
	out := map[string]bool{}
	for _, s := range list.GetItems() {
		out[s.GetId()] = true
	}
	return out, nil
}

// known are the attachments of which something is left on the disk: an address,
// a record, or a detachment that no plugin has done yet.
func (p paths) known() ([]attachment, error) {
	found := map[attachment]bool{}
	addresses, err := filepath.Glob(filepath.Join(p.ipam, "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, file := range addresses {
		if a, ok := reservation(file); ok {
			found[a] = true
		}
	}
	for _, dir := range []string{p.records, p.journal} {
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			var a attachment
			raw, err := os.ReadFile(file)
			if err == nil && json.Unmarshal(raw, &a) == nil && a.ContainerID != "" {
				found[a] = true
			}
		}
	}
	var out []attachment
	for a := range found {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b attachment) int {
		return strings.Compare(a.ContainerID+" "+a.IfName, b.ContainerID+" "+b.IfName)
	})
	return out, nil
}

// reservation reads an address file of the host-local format: container and
// interface in lines of their own.
func reservation(file string) (attachment, bool) {
	f, err := os.Open(file)
	if err != nil || strings.HasPrefix(filepath.Base(file), "last_reserved_ip") || filepath.Base(file) == "lock" {
		return attachment{}, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	var got []string
	for lines.Scan() && len(got) < 2 {
		got = append(got, strings.TrimSpace(lines.Text()))
	}
	if len(got) < 2 || got[0] == "" {
		return attachment{}, false
	}
	return attachment{got[0], got[1]}, true
}

// forget removes the records and journal entries of sandboxes that are gone.
func (p paths) forget(gone map[string]bool) error {
	var errs []error
	for _, dir := range []string{p.records, p.journal} {
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		errs = append(errs, err)
		for _, file := range files {
			var a attachment
			raw, err := os.ReadFile(file)
			if err != nil || json.Unmarshal(raw, &a) != nil || !gone[a.ContainerID] {
				continue
			}
			if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("forget attachment: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
