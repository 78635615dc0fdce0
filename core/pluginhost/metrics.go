package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// What is taken of one plugin's metrics; the rest is left out and counted.
const (
	maxMetrics    = 1 << 20 // bytes
	maxMetricLine = 8 << 10
	maxSeries     = 5000
	scrapeTime    = 3 * time.Second
	foreignPrefix = "kelson_plugin_"
)

// Metrics returns the plugin's own metrics in Prometheus' text format, with the
// labels kind and plugin. Names that do not begin with kelson_<kind>_ get the
// prefix kelson_plugin_, so that they cannot be taken for the host's. Lines that are no
// metrics are left out. A plugin that does not run, or has none, has no metrics.
func (s *Supervised) Metrics(ctx context.Context) ([]byte, error) {
	f, err := s.scrape(ctx)
	if err != nil {
		return nil, err
	}
	return f.text(), nil
}

func (s *Supervised) scrape(ctx context.Context) (*families, error) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	f := newFamilies()
	f.prefix = "kelson_" + s.spec.Kind + "_"
	if conn == nil {
		return f, nil
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, unwanted{}, true), scrapeTime)
	defer cancel()
	answer, err := pluginv1.NewPluginClient(conn).Metrics(ctx, &pluginv1.MetricsRequest{})
	if err != nil {
		return f, err
	}
	text := answer.GetText()
	if len(text) > maxMetrics {
		return f, fmt.Errorf("%s: metrics: %d bytes, at most %d are taken", s, len(text), maxMetrics)
	}
	f.add(text, [2]string{"kind", s.spec.Kind}, [2]string{"plugin", s.spec.Name})
	return f, nil
}

// Metrics returns the metrics of all plugins and of their supervision in
// Prometheus' text format. The plugins are asked at once, each with a deadline.
func (h *Host) Metrics(ctx context.Context) []byte {
	plugins := h.all()
	scraped := make([]*families, len(plugins))
	done := make(chan int, len(plugins))
	for i, s := range plugins {
		go func() {
			defer func() { done <- i }()
			f, err := s.scrape(ctx)
			if err != nil {
				s.log.Debug("metrics not read", "err", err)
			}
			if f != nil {
				f.failed = err != nil
			}
			scraped[i] = f
		}()
	}
	for range plugins {
		<-done
	}
	all := newFamilies()
	for i, s := range plugins {
		all.supervision(s, scraped[i])
	}
	for _, f := range scraped {
		all.merge(f)
	}
	return all.text()
}

// supervision adds what the host itself knows of a plugin.
func (f *families) supervision(s *Supervised, scraped *families) {
	state, _ := s.peek()
	labels := fmt.Sprintf(`{kind=%q,plugin=%q`, s.spec.Kind, s.spec.Name)
	gauge := func(name, help, kind, extra string, value float64) {
		fam := f.family(name)
		fam.help, fam.kind = help, kind
		fam.lines = append(fam.lines, name+labels+extra+"} "+strconv.FormatFloat(value, 'g', -1, 64))
	}
	is := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("kelson_plugin_up", "Whether the plugin is ready or degraded.", "gauge", fmt.Sprintf(`,version=%q`, state.Version), is(state.usable()))
	gauge("kelson_plugin_phase", "The phase that the plugin is in.", "gauge", fmt.Sprintf(`,phase=%q`, state.Phase), 1)
	gauge("kelson_plugin_restarts_total", "Starts after a failure.", "counter", "", float64(state.Restarts))
	if scraped != nil {
		gauge("kelson_plugin_scrape_failed", "Whether the plugin's own metrics could not be read.", "gauge", "", is(scraped.failed))
		gauge("kelson_plugin_scrape_left_out", "Lines of the plugin's own metrics that were not taken.", "gauge", "", float64(scraped.leftOut))
	}
}

// families are metrics by name, in the order in which they came.
type families struct {
	prefix  string // of names that stay as they are
	byName  map[string]*family
	order   []string
	series  int
	leftOut int
	failed  bool
}

type family struct {
	help, kind string
	lines      []string
}

func newFamilies() *families { return &families{byName: map[string]*family{}} }

func (f *families) family(name string) *family {
	if f.byName[name] == nil {
		f.byName[name] = &family{}
		f.order = append(f.order, name)
	}
	return f.byName[name]
}

func (f *families) merge(other *families) {
	if other == nil {
		return
	}
	for _, name := range other.order {
		from, to := other.byName[name], f.family(name)
		if to.kind == "" {
			to.help, to.kind = from.help, from.kind
		}
		to.lines = append(to.lines, from.lines...)
	}
}

func (f *families) text() []byte {
	var b bytes.Buffer
	for _, name := range f.order {
		fam := f.byName[name]
		if len(fam.lines) == 0 {
			continue
		}
		if fam.help != "" {
			fmt.Fprintf(&b, "# HELP %s %s\n", name, fam.help)
		}
		if fam.kind != "" {
			fmt.Fprintf(&b, "# TYPE %s %s\n", name, fam.kind)
		}
		for _, line := range fam.lines {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// add takes a plugin's text, with labels of the host's.
func (f *families) add(text []byte, own ...[2]string) {
	current := "" // the family that the last TYPE line named
	for raw := range bytes.Lines(text) {
		line := strings.TrimSpace(string(raw))
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "#") {
			if name, ok := f.comment(line); ok {
				current = name
			}
			continue
		}
		m, err := parseSample(line)
		if err != nil || f.series >= maxSeries {
			f.leftOut++
			continue
		}
		f.series++
		m.name = f.rename(m.name)
		fam := f.family(familyOf(m.name, current, f.byName[current]))
		fam.lines = append(fam.lines, m.text(own))
	}
}

// comment reads a HELP or TYPE line and returns the family's name.
func (f *families) comment(line string) (string, bool) {
	words := strings.SplitN(line, " ", 4)
	if len(words) < 4 || words[0] != "#" || len(line) > maxMetricLine || !metricName(words[2]) || len(f.order) > maxSeries {
		return "", false
	}
	name := f.rename(words[2])
	switch rest := oneLine(words[3]); {
	case words[1] == "HELP":
		f.family(name).help = rest
	case words[1] == "TYPE" && slices.Contains([]string{"counter", "gauge", "histogram", "summary", "untyped"}, rest):
		f.family(name).kind = rest
	default:
		return "", false
	}
	return name, true
}

// familyOf files the parts of a histogram or summary under its name.
func familyOf(name, current string, fam *family) string {
	if fam != nil && (fam.kind == "histogram" || fam.kind == "summary") {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if name == current+suffix {
				return current
			}
		}
	}
	return name
}

func (f *families) rename(name string) string {
	if f.prefix != "" && strings.HasPrefix(name, f.prefix) {
		return name
	}
	return foreignPrefix + name
}

// sample is one line: name{labels} value [time].
type sample struct {
	name   string
	labels [][2]string // values as written, still escaped
	rest   string
}

func (m sample) text(own [][2]string) string {
	var b strings.Builder
	b.WriteString(m.name)
	b.WriteByte('{')
	for i, l := range own {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%q", l[0], l[1])
	}
	for _, l := range m.labels {
		if !slices.ContainsFunc(own, func(o [2]string) bool { return o[0] == l[0] }) {
			b.WriteString("," + l[0] + `="` + l[1] + `"`)
		}
	}
	b.WriteString("} " + m.rest)
	return b.String()
}

var errNoSample = errors.New("no sample")

func parseSample(line string) (sample, error) {
	var m sample
	if len(line) > maxMetricLine {
		return m, errNoSample
	}
	end := strings.IndexAny(line, "{ \t")
	if end < 0 || !metricName(line[:end]) {
		return m, errNoSample
	}
	m.name, line = line[:end], line[end:]
	if strings.HasPrefix(line, "{") {
		var ok bool
		if m.labels, line, ok = parseLabels(line[1:]); !ok {
			return m, errNoSample
		}
	}
	fields := strings.Fields(line)
	if len(fields) < 1 || len(fields) > 2 {
		return m, errNoSample
	}
	if _, err := strconv.ParseFloat(fields[0], 64); err != nil {
		return m, errNoSample
	}
	if len(fields) == 2 {
		if _, err := strconv.ParseInt(fields[1], 10, 64); err != nil {
			return m, errNoSample
		}
	}
	m.rest = strings.Join(fields, " ")
	return m, nil
}

// parseLabels reads up to the closing bracket and returns what follows it.
func parseLabels(s string) (labels [][2]string, rest string, ok bool) {
	for {
		s = strings.TrimLeft(s, " \t,")
		if after, found := strings.CutPrefix(s, "}"); found {
			return labels, after, true
		}
		name, after, found := strings.Cut(s, "=")
		name, after = strings.TrimSpace(name), strings.TrimLeft(after, " \t")
		if !found || !labelName(name) || !strings.HasPrefix(after, `"`) || len(labels) > 64 {
			return nil, "", false
		}
		value, after, found := quoted(after[1:])
		if !found {
			return nil, "", false
		}
		if slices.ContainsFunc(labels, func(l [2]string) bool { return l[0] == name }) {
			return nil, "", false
		}
		labels = append(labels, [2]string{name, value})
		s = after
	}
}

// quoted returns the text before the closing quote, with its escapes checked.
func quoted(s string) (value, rest string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return strings.ToValidUTF8(s[:i], "\uFFFD"), s[i+1:], true
		case '\\':
			i++
			if i == len(s) || !strings.ContainsRune(`\"n`, rune(s[i])) {
				return "", "", false
			}
		}
	}
	return "", "", false
}

func metricName(s string) bool { return isName(s, ":") }

func labelName(s string) bool { return isName(s, "") }

func isName(s, more string) bool {
	for i, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || strings.ContainsRune(more, c)
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
