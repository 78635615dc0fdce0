package arch

import (
	"fmt"
	"slices"
	"testing"
)

// exception lets one file (or package, or identifier in it) break one rule.
type exception struct{ rule, where, reason string }

// exceptions is the whole list. Keep it short; give the reason that would
// convince a reviewer.
var exceptions = []exception{}

// report collects what breaks one rule and applies the exceptions of it.
type report struct {
	t    *testing.T
	rule string
	used map[string]bool
}

func newReport(t *testing.T, rule string) *report {
	t.Helper()
	r := &report{t: t, rule: rule, used: map[string]bool{}}
	t.Cleanup(func() {
		for _, e := range exceptions {
			if e.rule == rule && !r.used[e.where] {
				t.Errorf("exception %q of rule %s is no longer needed: remove it", e.where, rule)
			}
		}
	})
	return r
}

// breaks notes a finding. where is what an exception would name; line 0 means
// the whole file.
func (r *report) breaks(where, file string, line int, format string, args ...any) {
	r.t.Helper()
	i := slices.IndexFunc(exceptions, func(e exception) bool { return e.rule == r.rule && e.where == where })
	if i >= 0 {
		r.used[where] = true
		return
	}
	r.t.Errorf("%s:%d: %s", file, max(line, 1), fmt.Sprintf(format, args...))
}

func TestExceptionsHaveReasons(t *testing.T) {
	for _, e := range exceptions {
		if e.rule == "" || e.where == "" || len(e.reason) < 20 {
			t.Errorf("exception %+v: rule, place and a reason are needed", e)
		}
	}
}
