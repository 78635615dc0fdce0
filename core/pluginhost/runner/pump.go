package runner

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	maxLine      = 64 << 10 // bytes of a line that are kept
	maxRing      = 64 << 10 // bytes of output kept for reports
	linesASecond = 1000     // that reach the log
)

// pump carries what a plugin prints into the host's log. It never blocks the
// plugin and never trusts it: lines are cut, JSON is read tolerantly, what comes
// too fast is counted instead of logged, secrets are blotted out.
type pump struct {
	log    hclog.Logger
	redact redactor
	kept   ring

	mu       sync.Mutex
	window   time.Time // when the present second began
	lines    int       // logged in it
	dropped  int
	report   *time.Timer // tells of dropped lines also when no further line comes
	panicked bool        // the rest of the output is a stack trace
}

func newPump(log hclog.Logger, secrets []string) *pump {
	return &pump{log: log, redact: newRedactor(secrets)}
}

// read takes lines until the end of the stream.
func (p *pump) read(r io.Reader) {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, cut, err := readLine(lines)
		if len(line) > 0 || err == nil {
			p.line(line, cut)
		}
		if err != nil {
			return
		}
	}
}

// readLine returns a line without its end, of which no more than the reader's
// buffer is kept, and how many bytes were left out. The line is valid until the
// next call.
func readLine(r *bufio.Reader) (line []byte, cut int, err error) {
	line, err = r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return bytes.TrimRight(line, "\r\n"), 0, err
	}
	line = bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		var rest []byte
		rest, err = r.ReadSlice('\n')
		cut += len(bytes.TrimSuffix(rest, []byte{'\n'}))
	}
	return line, cut, err
}

func (p *pump) line(raw []byte, cut int) {
	defer func() {
		if r := recover(); r != nil { // a plugin's words must not end the host
			p.log.Error("a line of the plugin cannot be logged", "panic", r)
		}
	}()
	text := p.redact.replace(string(raw))
	p.kept.add(text)
	if !p.pass() {
		return
	}
	e := parseLine(text)
	if cut > 0 {
		e.fields = append(e.fields, "cut", cut)
	}
	p.mu.Lock()
	p.panicked = p.panicked || e.panics
	if p.panicked && !e.structured {
		e.level = hclog.Error
	}
	p.mu.Unlock()
	for i, f := range e.fields {
		if s, ok := f.(string); ok {
			e.fields[i] = p.redact.replace(s)
		}
	}
	p.log.Log(e.level, p.redact.replace(e.message), e.fields...)
}

// pass says whether a line may still be logged in this second.
func (p *pump) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.window) >= time.Second {
		p.flushLocked()
		p.window, p.lines = now, 0
	}
	p.lines++
	if p.lines <= linesASecond {
		return true
	}
	if p.dropped == 0 {
		p.report = time.AfterFunc(time.Second, p.flush)
	}
	p.dropped++
	return false
}

// flush tells how many lines were left out.
func (p *pump) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flushLocked()
}

func (p *pump) flushLocked() {
	if p.report != nil {
		p.report.Stop()
	}
	if p.dropped > 0 {
		p.log.Warn("plugin prints too much, lines left out", "lines", p.dropped)
		p.dropped = 0
	}
}

// ring keeps the last lines: maxRing bytes, and for a while up to twice that.
type ring struct {
	mu    sync.Mutex
	lines []string
	size  int
}

func (r *ring) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(line) > maxRing {
		line = line[:maxRing]
	}
	r.lines = append(r.lines, line)
	r.size += len(line) + 1
	if r.size <= 2*maxRing {
		return // cut in one go now and then, not line by line
	}
	drop := 0
	for r.size > maxRing && drop < len(r.lines)-1 {
		r.size -= len(r.lines[drop]) + 1
		drop++
	}
	if drop > 0 {
		// The backing array is reused; what it no longer shows must not stay in memory.
		n := copy(r.lines, r.lines[drop:])
		clear(r.lines[n:])
		r.lines = r.lines[:n]
	}
}

// last returns the last n lines.
func (r *ring) last(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines[max(0, len(r.lines)-n):]...)
}
