package catalog

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// The results of a Finding.
const (
	OK      = "ok"
	Failed  = "failed"
	Skipped = "skipped" // because an earlier step failed
)

// Finding is one step of Examine.
type Finding struct {
	Step   string  `json:"step"`
	Result string  `json:"result"`
	Took   float64 `json:"tookSeconds"`
	Detail string  `json:"detail,omitempty"`
	Hint   string  `json:"hint,omitempty"`
}

// Examine walks the way from the catalog to a running program and says where it
// ends. With start, the program is run too: to describe itself, and up to its
// handshake. Nothing changes, and a running plugin is left alone.
func (c *Catalog) Examine(ctx context.Context, kind, name string, start bool) []Finding {
	x := &examination{now: c.now}
	var s *subject
	x.step("catalog", func() (string, error) {
		all, err := c.load()
		if err != nil {
			return "", err
		}
		e, ok := all.find(kind, name)
		if !ok {
			return "", c.unlisted(all, kind, name)
		}
		s = c.subject(e, all.keys, nil)
		if !e.On() {
			return "", &Refused{Plugin: e.Plugin(), Step: "catalog", File: fmt.Sprintf("%s:%d", e.File, e.Line), Expected: "enabled", Found: "enabled: false", Remedy: fmt.Sprintf("run 'kelson plugin enable %s/%s'", kind, name)}
		}
		return fmt.Sprintf("version %s, %s:%d", e.Version, e.File, e.Line), nil
	})
	x.step("lock", func() (string, error) {
		l, err := c.readLock()
		if err != nil {
			return "", err
		}
		if s.record = l.record(kind, name); s.record == nil || s.record.active() == nil {
			return "no generation yet", nil
		}
		return active(s.record), nil
	})
	e := Entry{Kind: kind, Name: name}
	if s != nil {
		e = s.entry
	}
	for _, step := range append(c.checks(e), check{"settings", checkSettings}) {
		x.step(step.name, func() (string, error) {
			detail, err := step.run(s)
			return detail, withPlugin(err, e.Plugin())
		})
	}
	if start {
		c.run(ctx, x, func() *subject { return s })
	}
	return x.findings
}

func active(r *Record) string {
	g := r.active()
	text := fmt.Sprintf("generation %d, version %s", g.Generation, g.Version)
	if g.Good != nil {
		text += ", ran well"
	}
	parts := []string{text}
	for _, o := range r.Generations {
		if o.Failed != "" {
			parts = append(parts, fmt.Sprintf("%d failed: %s", o.Generation, o.Failed))
		}
	}
	return strings.Join(parts, "; ")
}

// run adds the steps that execute the program.
func (c *Catalog) run(ctx context.Context, x *examination, at func() *subject) {
	with := func(do func(s *subject, f *os.File) (string, error)) func() (string, error) {
		return func() (string, error) {
			s := at()
			f, err := openOwned(s.executable)
			if err != nil {
				return "", err
			}
			defer f.Close()
			detail, err := do(s, f)
			return detail, withPlugin(err, s.entry.Plugin())
		}
	}
	x.step("describe", with(func(s *subject, f *os.File) (string, error) {
		return "agrees", describe(ctx, f, s.manifest)
	}))
	x.step("start", with(func(s *subject, f *os.File) (string, error) {
		detail, err := handshake(ctx, f, s.manifest.Args)
		if err != nil {
			return "", &Refused{Step: "start", File: s.executable, Err: err, Remedy: "run it by hand; see 'kelson plugin logs'; ask the plugin's author"}
		}
		return detail, nil
	}))
}

// examination runs steps until the first that fails.
type examination struct {
	now      func() time.Time
	findings []Finding
	failed   bool
}

func (x *examination) step(name string, do func() (string, error)) {
	f := Finding{Step: name, Result: Skipped}
	if !x.failed {
		began := x.now()
		detail, err := do()
		f.Took = x.now().Sub(began).Seconds()
		f.Result, f.Detail = OK, detail
		if err != nil {
			x.failed = true
			f.Result, f.Detail, f.Hint = Failed, strings.ReplaceAll(err.Error(), "\n", "; "), hint(err)
		}
	}
	x.findings = append(x.findings, f)
}
