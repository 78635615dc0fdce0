package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kelson-io/kelson/sdk/cni/frame"
	"github.com/kelson-io/kelson/sdk/cni/record"
)

const lockPoll = 5 * time.Millisecond

// refusal is an error object of the plugin, which the runtime gets as it is.
type refusal struct {
	object []byte
	code   string
}

func (*refusal) Error() string { return "the network plugin refused" }

// add waits for the plugin, has it attach, and records that. A plugin that ends
// during it is asked once more when it is back, after it has undone what is half
// done.
func (s *shim) add() ([]byte, error) {
	result, err := s.attach(false)
	if errors.Is(err, errBroken) {
		result, err = s.attach(true)
	}
	switch {
	case errors.Is(err, errAway):
		return nil, &failure{codeTryAgain, "network plugin " + s.plugin + " is not there: " + err.Error()}
	case errors.Is(err, errBroken):
		return nil, &failure{codeTryAgain, "network plugin " + s.plugin + " ended during the operation"}
	case errors.Is(err, errSilent):
		return nil, &failure{codeTryAgain, "network plugin " + s.plugin + " does not answer"}
	}
	return result, err
}

func (s *shim) attach(again bool) ([]byte, error) {
	c, err := s.dial(s.socket, s.limits.wait)
	if err != nil {
		return nil, err
	}
	defer c.close()
	unlock, err := s.lock()
	if err != nil {
		return nil, &failure{codeTryAgain, err.Error()}
	}
	defer unlock()
	if again {
		if err := s.undo(); err != nil {
			return nil, err
		}
	}
	// The record is brought to the disk while the plugin works.
	var note *record.Prepared
	var noteErr error
	reply, err := c.exchangeWhile(s.request(frame.Add, s.limits.add), s.limits.add+s.limits.grace, func() {
		note, noteErr = s.records.Prepare(s.record())
	})
	if err == nil {
		err = refused(reply)
	}
	if err == nil && !record.Valid(reply.JSON) {
		err = errors.Join(&failure{codeInternal, "network plugin " + s.plugin + " gave no valid result"}, s.undo())
	}
	if err != nil {
		if note != nil {
			note.Discard()
		}
		return nil, err
	}
	if noteErr == nil {
		noteErr = note.Commit()
	}
	if noteErr != nil {
		// Without the record, a detachment could go to another plugin one day.
		return nil, errors.Join(&failure{codeIO, "record attachment: " + noteErr.Error()}, s.undo())
	}
	return reply.JSON, nil
}

// undo has the plugin detach what an ADD may have left.
func (s *shim) undo() error {
	c, err := s.dial(s.socket, 0)
	if err != nil {
		return err
	}
	defer c.close()
	reply, err := c.exchange(s.request(frame.Del, s.limits.del), s.limits.del+s.limits.grace)
	if err != nil {
		return err
	}
	return refused(reply)
}

// del asks the plugin that attached, or notes the detachment in the journal.
func (s *shim) del() error {
	if r, err := s.records.Get(s.containerID, s.ifname); err == nil {
		if filepath.IsAbs(r.Socket) {
			s.socket = r.Socket
		}
		if r.Plugin != "" {
			s.plugin = r.Plugin
		}
		if s.netns == "" {
			s.netns = r.Netns // for the journal; the plugin gets what the runtime said
		}
	}
	err := s.detach()
	if r, ok := errors.AsType[*refusal](err); ok && r.code != "11" {
		return err
	}
	if err != nil {
		if err := s.journal.PutDurably(s.record()); err != nil {
			return &failure{codeIO, "journal detachment: " + err.Error()}
		}
	}
	if err := s.records.Remove(s.containerID, s.ifname); err != nil {
		return &failure{codeIO, "remove record of attachment: " + err.Error()}
	}
	return nil
}

func (s *shim) detach() error {
	c, err := s.dial(s.socket, 0)
	if err != nil {
		return err
	}
	defer c.close()
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	reply, err := c.exchange(s.request(frame.Del, s.limits.del), s.limits.del+s.limits.grace)
	if err != nil {
		return err
	}
	return refused(reply)
}

// status answers in time, whatever the plugin does.
func (s *shim) status() error {
	c, err := s.dial(s.socket, 0)
	if err != nil {
		return &failure{codeNotAvailable, "network plugin " + s.plugin + " is not there: " + err.Error()}
	}
	defer c.close()
	left := s.limits.status - time.Since(s.began)
	reply, err := c.exchange(s.request(frame.Status, left), left)
	if err != nil {
		return &failure{codeNotAvailable, "network plugin " + s.plugin + " does not answer: " + err.Error()}
	}
	return refused(reply)
}

// ask is CHECK and GC.
func (s *shim) ask(limit time.Duration) error {
	c, err := s.dial(s.socket, 0)
	if err != nil {
		return &failure{codeTryAgain, "network plugin " + s.plugin + " is not there: " + err.Error()}
	}
	defer c.close()
	reply, err := c.exchange(s.request(s.verb, limit), limit+s.limits.grace)
	if err != nil {
		return &failure{codeTryAgain, "network plugin " + s.plugin + " does not answer: " + err.Error()}
	}
	return refused(reply)
}

// refused is the error that a reply holds.
func refused(r *frame.Reply) error {
	if !r.Failed {
		return nil
	}
	if !record.Valid(r.JSON) {
		return &failure{codeInternal, "network plugin gave an invalid error"}
	}
	return &refusal{r.JSON, string(record.Lookup(r.JSON, "code"))}
}

// lock keeps the host from collecting; see package record.
func (s *shim) lock() (unlock func(), err error) {
	path := filepath.Join(string(s.records), record.LockName)
	const flags = syscall.O_RDWR | syscall.O_CREAT | syscall.O_CLOEXEC | syscall.O_NOFOLLOW
	fd, err := syscall.Open(path, flags, 0o600)
	if noSuch(err) {
		if err := os.MkdirAll(string(s.records), 0o700); err != nil {
			return nil, err
		}
		fd, err = syscall.Open(path, flags, 0o600)
	}
	if err != nil {
		return nil, errors.New("open lock of attachments: " + err.Error())
	}
	for end := time.Now().Add(s.limits.lock); ; <-time.After(lockPoll) {
		err := syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = syscall.Close(fd) }, nil
		}
		busy := errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR)
		if !busy || time.Now().After(end) {
			_ = syscall.Close(fd)
			return nil, errors.New("attachments are locked: " + err.Error())
		}
	}
}
