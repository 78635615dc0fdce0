// Package record is how the shim kelson-cni tells the host what is attached by
// which plugin, and what could not be detached.
//
// A folder holds one file per attachment, <container id>-<interface>.json:
//
//	{"plugin":"flannel","socket":"/run/…/flannel.sock","container_id":"4f1c…",
//	 "ifname":"eth0","netns":"/run/netns/…","time":"2026-01-02T03:04:05Z"}
//
// In the records folder that is an attachment that exists; time is when it was
// made. In the journal folder it is a detachment that the plugin was not there
// to do, though the runtime was told that it is done; time is when it was asked
// for. Who has done it, or has had the plugin collect everything that is not
// valid, removes the entry: see [Replay].
//
// The file .lock of the records folder keeps shims and the host's collection
// apart: a shim holds it shared (flock) from before it asks the plugin until its
// record is written or removed; who collects holds it exclusively.
//
// Files appear whole or not at all, also if the machine stops. Functions may be
// called concurrently, also by several processes. The package has its own small
// reader and writer of JSON, since the shim must start quickly.
package record

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const suffix = ".json"

// LockName is the file in the records folder that is locked; see the package.
const LockName = ".lock"

// Record is one attachment.
type Record struct {
	Plugin      string
	Socket      string // of the plugin that made it
	ContainerID string
	IfName      string
	Netns       string
	Time        string // RFC 3339, UTC
}

// Dir is a folder of records: of attachments, or the journal.
type Dir string

// PutDurably is Put, and the file is found again also if the machine stops right
// afterwards.
func (d Dir) PutDurably(r Record) error {
	if err := d.Put(r); err != nil {
		return err
	}
	return d.sync()
}

// Put writes r, replacing what was there, and makes the folder if needed. If the
// machine stops, the file is there whole or as it was.
func (d Dir) Put(r Record) error {
	p, err := d.Prepare(r)
	if err != nil {
		return err
	}
	return p.Commit()
}

// Prepared is a record that is on the disk, but not yet in its place.
type Prepared struct{ temp, path string }

// Prepare does the slow part of a Put, for who has something to wait for
// meanwhile. Commit or Discard must follow.
func (d Dir) Prepare(r Record) (*Prepared, error) {
	name, err := fileName(r.ContainerID, r.IfName)
	if err != nil {
		return nil, err
	}
	if r.Time == "" {
		r.Time = time.Now().UTC().Format(time.RFC3339)
	}
	temp := filepath.Join(string(d), "."+name+"."+strconv.Itoa(os.Getpid()))
	err = write(temp, r.Marshal())
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(string(d), 0o700); err == nil {
			err = write(temp, r.Marshal())
		}
	}
	if err != nil {
		os.Remove(temp)
		return nil, err
	}
	return &Prepared{temp, filepath.Join(string(d), name)}, nil
}

// Commit puts the record in its place.
func (p *Prepared) Commit() error {
	err := os.Rename(p.temp, p.path)
	if err != nil {
		os.Remove(p.temp)
	}
	return err
}

// Discard forgets the record.
func (p *Prepared) Discard() { os.Remove(p.temp) }

func write(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(raw); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func (d Dir) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get reads the record of an attachment; os.ErrNotExist if there is none.
func (d Dir) Get(containerID, ifname string) (Record, error) {
	name, err := fileName(containerID, ifname)
	if err != nil {
		return Record{}, err
	}
	return d.read(name)
}

func (d Dir) read(name string) (Record, error) {
	raw, err := os.ReadFile(filepath.Join(string(d), name))
	if err != nil {
		return Record{}, err
	}
	r, err := Parse(raw)
	if err != nil {
		return r, &os.PathError{Op: "parse", Path: filepath.Join(string(d), name), Err: err}
	}
	return r, nil
}

// Remove removes the record of an attachment, if there is one.
func (d Dir) Remove(containerID, ifname string) error {
	name, err := fileName(containerID, ifname)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(string(d), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// List returns all records, in the order of their file names. Files that are no
// records are left out and make the error; the others are returned with it.
func (d Dir) List() ([]Record, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Record
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		r, err := d.read(e.Name())
		switch {
		case errors.Is(err, os.ErrNotExist): // removed meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

// Replay hands each entry of a journal to detach and removes it if that
// succeeds. It goes on after an error and returns all of them.
func (d Dir) Replay(detach func(Record) error) error {
	list, err := d.List()
	errs := []error{err}
	for _, r := range list {
		if err := detach(r); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, d.Remove(r.ContainerID, r.IfName))
	}
	return errors.Join(errs...)
}

// fileName refuses what would lead out of the folder.
func fileName(containerID, ifname string) (string, error) {
	if containerID == "" || ifname == "" || containerID[0] == '.' || strings.ContainsAny(containerID+ifname, "/\x00") {
		return "", errors.New("container id or interface is not a file name")
	}
	return containerID + "-" + ifname + suffix, nil
}
