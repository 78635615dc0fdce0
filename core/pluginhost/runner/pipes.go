package runner

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// pipes are the standard streams of a plugin.
//
// With the node's lifetime they are no pipes: input is empty, both outputs are
// the log file, in which the host looks for the handshake. So the plugin loses
// nothing with the host and can neither block on it nor break on it, whatever
// language it is written in.
type pipes struct {
	stdin, stdout, stderr *os.File   // the plugin's ends
	ours                  []*os.File // the host's ends
	outs                  []*os.File // of ours: what is read
	log                   *os.File   // with the node's lifetime
	sink                  *pump
	offer                 func(line string)
	readers               sync.WaitGroup
	stop                  chan struct{}
}

func (l *launch) pipes() (*pipes, error) {
	s := &pipes{offer: l.offer, stop: make(chan struct{})}
	if err := l.openPipes(s); err != nil {
		s.closeTheirs()
		s.closeOurs()
		return nil, fmt.Errorf("open streams: %w", err)
	}
	return s, nil
}

func (l *launch) openPipes(s *pipes) (err error) {
	if l.spec.node() {
		if s.stdin, err = os.Open(os.DevNull); err != nil {
			return err
		}
		if s.log, err = openLog(l.spec.LogFile); err != nil {
			return err
		}
		s.stdout, s.stderr = s.log, s.log
		return nil
	}
	s.sink = newPump(l.spec.Log, l.spec.Secrets)
	// Input never comes: its end tells the plugin that the host is gone.
	var in, out, errs *os.File
	if s.stdin, in, err = os.Pipe(); err != nil {
		return err
	}
	s.ours = append(s.ours, in)
	if out, s.stdout, err = os.Pipe(); err != nil {
		return err
	}
	s.ours, s.outs = append(s.ours, out), append(s.outs, out)
	if errs, s.stderr, err = os.Pipe(); err != nil {
		return err
	}
	s.ours, s.outs = append(s.ours, errs), append(s.outs, errs)
	return nil
}

// closeTheirs closes the plugin's ends in the host.
func (s *pipes) closeTheirs() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil && f != s.log {
			_ = f.Close()
		}
	}
}

func (s *pipes) closeOurs() {
	for _, f := range append(s.ours, s.log) {
		if f != nil {
			_ = f.Close()
		}
	}
}

// pump begins to read what the plugin prints.
func (s *pipes) pump(p *Process, line *lineReader) {
	if s.log != nil {
		s.readers.Go(func() { s.searchLog(p, line) })
		return
	}
	out, errs := s.outs[0], s.outs[1]
	s.readers.Go(func() {
		r := bufio.NewReaderSize(out, maxLine)
		first, ok := firstLine(r)
		if ok {
			s.offer(first)
		} else {
			line.end()
		}
		s.sink.read(r)
	})
	s.readers.Go(func() { s.sink.read(errs) })
}

// searchLog waits for the handshake in the log file.
func (s *pipes) searchLog(p *Process, line *lineReader) {
	defer s.log.Close()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	seen := []byte{}
	buf := make([]byte, 16<<10)
	for {
		n, err := s.log.ReadAt(buf, int64(len(seen)))
		seen = append(seen, buf[:n]...)
		if n > 0 {
			if first, ok := findHandshake(seen); ok {
				s.offer(first)
				return
			}
		}
		if len(seen) > 1<<20 || err != nil && errors.Is(err, os.ErrClosed) {
			s.offer("") // not within the first megabyte
			return
		}
		select {
		case <-s.stop:
			line.end()
			return
		case <-p.left:
			line.end()
			return
		case <-line.ready:
			return
		case <-tick.C:
		}
	}
}

// findHandshake returns the first whole line that looks like a handshake: what
// a plugin logs comes between.
func findHandshake(log []byte) (string, bool) {
	for line := range strings.Lines(string(log)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		number, rest, ok := strings.Cut(line, "|")
		if ok && len(number) > 0 && len(number) < 4 && strings.Trim(number, "0123456789") == "" && strings.Count(rest, "|") >= 3 {
			return strings.TrimSuffix(line, "\n"), true
		}
	}
	return "", false
}

// finish ends the reading when the process is gone. What it started may hold the
// pipes open for ever, so what is in them is read for a moment only.
func (s *pipes) finish() {
	close(s.stop)
	for _, f := range s.outs {
		_ = f.SetReadDeadline(time.Now().Add(time.Second))
	}
	s.readers.Wait()
	s.closeOurs()
	if s.sink != nil {
		s.sink.flush()
	}
}
