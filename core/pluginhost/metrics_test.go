package pluginhost

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kelson-io/kelson/core/pluginhost/program"
)

func quiet() hclog.Logger { return hclog.NewNullLogger() }

func TestMetricsText(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "a 1\n", "kelson_plugin_a{kind=\"cni\",plugin=\"p\"} 1\n"},
		{"of the kind", "kelson_cni_a 1\n", "kelson_cni_a{kind=\"cni\",plugin=\"p\"} 1\n"},
		{"of the host", "kelson_boot_seconds 1\n", "kelson_plugin_kelson_boot_seconds{kind=\"cni\",plugin=\"p\"} 1\n"},
		{"labels", `a{x="1",y="}\"\\ \n",} 1e3 17` + "\n", `kelson_plugin_a{kind="cni",plugin="p",x="1",y="}\"\\ \n"} 1e3 17` + "\n"},
		{"forged labels", `a{plugin="q",kind="z",x="1"} NaN`, `kelson_plugin_a{kind="cni",plugin="p",x="1"} NaN` + "\n"},
		{"help and type", "# HELP a Number of\tthings.\n# TYPE a counter\na 1\n", "# HELP kelson_plugin_a Number of things.\n# TYPE kelson_plugin_a counter\nkelson_plugin_a{kind=\"cni\",plugin=\"p\"} 1\n"},
		{"scattered", "a 1\nb 2\na{x=\"2\"} 3\n", "kelson_plugin_a{kind=\"cni\",plugin=\"p\"} 1\nkelson_plugin_a{kind=\"cni\",plugin=\"p\",x=\"2\"} 3\nkelson_plugin_b{kind=\"cni\",plugin=\"p\"} 2\n"},
		{"histogram", "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n", "# TYPE kelson_plugin_h histogram\nkelson_plugin_h_bucket{kind=\"cni\",plugin=\"p\",le=\"+Inf\"} 1\nkelson_plugin_h_sum{kind=\"cni\",plugin=\"p\"} 1\nkelson_plugin_h_count{kind=\"cni\",plugin=\"p\"} 1\n"},
		{"nonsense", "x\n{a} 1\n1a 2\na{x=1} 1\na{x=\"1} 1\na{x=\"1\"\na{x=\"\\q\"} 1\na b\na 1 2 3\na 1 x\na{x=\"1\",x=\"2\"} 1\n\x00\xff 1\n# TYPE a\n#\n# TYPE a thing\n", ""},
		{"long line", "a{x=\"" + strings.Repeat("y", maxMetricLine) + "\"} 1\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFamilies()
			f.prefix = "kelson_cni_"
			f.add([]byte(c.in), [2]string{"kind", "cni"}, [2]string{"plugin", "p"})
			if got := string(f.text()); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func FuzzMetrics(f *testing.F) {
	f.Add([]byte("# TYPE a counter\na{x=\"1\",y=\"\\n\"} 1 2\n"))
	f.Add([]byte("a{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		fams := newFamilies()
		fams.add(text, [2]string{"kind", "cni"}, [2]string{"plugin", "p"})
		for line := range strings.Lines(string(fams.text())) {
			if strings.HasPrefix(line, "# ") {
				continue
			}
			m, err := parseSample(strings.TrimSuffix(line, "\n"))
			if err != nil || len(m.labels) < 2 || m.labels[0] != [2]string{"kind", "cni"} || m.labels[1] != [2]string{"plugin", "p"} || !strings.HasPrefix(m.name, foreignPrefix) {
				t.Fatalf("%q: %+v, %v", line, m, err)
			}
		}
	})
}

func TestHostMetrics(t *testing.T) {
	for _, c := range []struct {
		way  string
		want []string
	}{
		{"plain", []string{
			"# TYPE kelson_plugin_up gauge\nkelson_plugin_up{kind=\"cni\",plugin=\"trap\",version=\"1.2.3\"} 1\n",
			"kelson_plugin_phase{kind=\"cni\",plugin=\"trap\",phase=\"Ready\"} 1\n",
			"# TYPE kelson_plugin_restarts_total counter\nkelson_plugin_restarts_total{kind=\"cni\",plugin=\"trap\"} 0\n",
			"kelson_plugin_scrape_failed{kind=\"cni\",plugin=\"trap\"} 0\n",
			"kelson_plugin_scrape_left_out{kind=\"cni\",plugin=\"trap\"} 1\n",
			"# TYPE kelson_plugin_go_goroutines gauge\nkelson_plugin_go_goroutines{kind=\"cni\",plugin=\"trap\"} 12\n",
			"kelson_cni_adds_total{kind=\"cni\",plugin=\"trap\",result=\"ok\"} 3\n",
			"kelson_plugin_kelson_plugin_up{kind=\"cni\",plugin=\"trap\"} 1\n",
		}},
		{"huge-metrics", []string{"kelson_plugin_scrape_failed{kind=\"cni\",plugin=\"trap\"} 1\n"}},
		{"many-series", []string{"kelson_plugin_scrape_left_out{kind=\"cni\",plugin=\"trap\"} 15000\n", "kelson_plugin_m{kind=\"cni\",plugin=\"trap\",i=\"4999\"} 1\n"}},
		{"fail-in-metrics", []string{"kelson_plugin_up{kind=\"cni\",plugin=\"trap\",version=\"1.2.3\"} 1\n", "kelson_plugin_scrape_failed{kind=\"cni\",plugin=\"trap\"} 1\n"}},
	} {
		t.Run(c.way, func(t *testing.T) {
			b := newBench(t, trap(program.Host, c.way))
			h := b.host()
			s := h.Supervise(b.spec)
			if err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.ready(s)
			text := string(h.Metrics(t.Context()))
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%.3000s", want, text)
				}
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if len(h.States()) != 0 || len(h.Metrics(t.Context())) != 0 {
				t.Error("a stopped plugin is still listed")
			}
		})
	}
}
