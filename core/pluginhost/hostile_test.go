package pluginhost

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
)

// TestHostileStarts has plugins that cannot be brought to work: the host says
// why, tries again, and nothing of any attempt is left.
func TestHostileStarts(t *testing.T) {
	const soon = 300 * time.Millisecond
	handshake := func(b *bench) { b.timing.handshake = 700 * time.Millisecond }
	describe := func(b *bench) { b.timing.describe = soon }
	validate := func(b *bench) { b.timing.validate = soon }
	configure := func(b *bench) { b.timing.configure = soon }
	for _, c := range []struct {
		name   string
		ways   string
		reason string
		want   string // in the message
		set    func(*bench)
	}{
		{"exits at the start", "exit-at-start", "StartFailed", "start: it ended before the handshake: exit status 3: cannot open the database", nil},
		{"dies at the start", "die-at-start", "StartFailed", "it ended before the handshake: signal: killed", nil},
		{"never shakes hands", "hang-at-start", "StartFailed", "no handshake line on its standard output within 700ms", handshake},
		{"stops itself before the handshake", "stop-at-start", "StartFailed", "no handshake line on its standard output within 700ms", handshake},
		{"closes its output", "close-stdout", "StartFailed", "it closed its standard output before the handshake", nil},
		{"prints something else first", "garbage", "StartFailed", `its first line is "Hello, I am a plugin!", expected is the handshake 1|1|unix|<socket>|grpc`, nil},
		{"prints an endless line", "long-handshake", "StartFailed", "its first line is", nil},
		{"speaks another core protocol", "line=2|1|unix|/x|grpc|", "StartFailed", `field 1 of its handshake is "2"`, nil},
		{"speaks another protocol", "line=1|7|unix|/x|grpc|", "StartFailed", `field 2 of its handshake is "7"`, nil},
		{"listens on TCP", "line=1|1|tcp|127.0.0.1:22|grpc|", "StartFailed", `field 3 of its handshake is "tcp"`, nil},
		{"speaks net/rpc", "line=1|1|unix|/x|netrpc|", "StartFailed", `field 5 of its handshake is "netrpc"`, nil},
		{"wants TLS", "line=1|1|unix|/x|grpc|" + strings.Repeat("A", 100), "StartFailed", "it wants TLS", nil},
		{"names a foreign socket", "address=/run/containerd/containerd.sock", "StartFailed", "it listens on /run/containerd/containerd.sock, expected is a socket in", nil},
		{"dies after the handshake", "die-after-handshake", "", "signal: killed", nil},
		{"dies in describe", "die-in-describe", "Killed", "it ended by itself: signal: killed", nil},
		{"dies in validate", "die-in-validate", "Killed", "it ended by itself: signal: killed", nil},
		{"dies in configure", "die-in-configure", "Killed", "it ended by itself: signal: killed", nil},
		{"dies in health", "die-in-health", "Killed", "it ended by itself: signal: killed", nil},
		{"hangs in describe", "hang-in-describe", "DescribeFailed", "cni(trap): describe: no answer within ", describe},
		{"hangs in validate", "hang-in-validate", "ValidateFailed", "cni(trap): validate: no answer within ", validate},
		{"hangs in configure", "hang-in-configure", "ConfigureFailed", "cni(trap): configure: no answer within ", configure},
		{"stops itself in describe", "stop-in-describe", "DescribeFailed", "cni(trap): describe: no answer within ", describe},
		{"fails in describe", "fail-in-describe", "DescribeFailed", "cni(trap): describe: no [2J luck", nil},
		{"fails in configure", "fail-in-configure", "ConfigureFailed", "cni(trap): configure: no [2J luck", nil},
		{"fails in health", "fail-in-health", "HealthLost", "cni(trap): health: no [2J luck", nil},
		{"answers with a gibibyte", "huge-in=describe", "DescribeFailed", "received message larger than max (1073741824 vs. 16777216)", nil},
		{"lies about its version", "version=6.6.6", "DescribeDiffers", `cni(trap): describe: its version is "6.6.6", by its manifest "1.2.3"`, nil},
		{"lies about its name", "name=other", "DescribeDiffers", `its name is "other"`, nil},
		{"lies about its kind", "kind=datastore", "DescribeDiffers", `its kind is "datastore"`, nil},
		{"lies about its protocols", "protocol=9", "DescribeDiffers", `its protocols is "9", by its manifest "1"`, nil},
		{"asks for a restart at once", "restart-required", "ConfigureFailed", "it was started a moment ago", nil},
		{"is beyond repair", "health=fatal", "Fatal", "cni(trap): health: Broken: beyond repair", nil},
		{"closes the health stream", "health=close", "HealthLost", "cni(trap): health: it ended the stream", nil},
		{"falls silent", "health=silent", "Hung", "cni(trap): health: silent for 400ms", func(b *bench) { b.timing.silence = 400 * time.Millisecond }},
		{"stops itself when ready", "stop-in-ready", "Hung", "cni(trap): health: silent for 400ms", func(b *bench) { b.timing.silence = 400 * time.Millisecond }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, trap(program.Host, c.ways))
			if c.set != nil {
				c.set(b)
			}
			before := count(t)
			s := b.start()
			var seen State
			eventually(t, "two failures", func() string {
				seen = s.State()
				if seen.Restarts < 2 || (seen.Phase != Backoff && seen.Phase != Failed) {
					return fmt.Sprintf("%+v", seen)
				}
				return ""
			})
			if c.reason != "" && seen.Reason != c.reason || !strings.Contains(seen.Message, c.want) {
				t.Errorf("%s: %s\nwant %s: %s", seen.Reason, seen.Message, c.reason, c.want)
			}
			if strings.Count(seen.Message, "cni(trap)") != 1 {
				t.Errorf("plugin named not once: %s", seen.Message)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := s.Conn(ctx); err == nil || !strings.HasPrefix(err.Error(), "cni(trap): not ready: ") {
				t.Errorf("connection: %v", err)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			b.nothingLeft(before)
		})
	}
}

// TestHostileRuns has plugins that work and misbehave: the host stays whole, and
// ends them in time.
func TestHostileRuns(t *testing.T) {
	for _, c := range []struct {
		name  string
		ways  []string
		check func(*testing.T, *bench, *Supervised)
	}{
		{"JSON that crashes go-plugin", []string{"bad-json"}, func(t *testing.T, b *bench, _ *Supervised) {
			t.Helper()
			eventually(t, "the ordinary line", b.logged(`[WARN]  plugin: ordinary`))
		}},
		{"flood on standard error", []string{"flood-stderr"}, func(t *testing.T, b *bench, _ *Supervised) {
			t.Helper()
			eventually(t, "count of what was left out", b.logged("plugin prints too much, lines left out: "))
		}},
		{"flood on standard output", []string{"flood-stdout"}, nil},
		{"lines of a mebibyte", []string{"long-lines"}, func(t *testing.T, b *bench, _ *Supervised) {
			t.Helper()
			eventually(t, "the line behind", b.logged("[INFO]  plugin: after the long lines"))
			eventually(t, "a cut line", b.logged("cut=983040"))
			if n := len(b.log.String()); n > 1<<20 {
				t.Errorf("%d bytes logged", n)
			}
		}},
		{"deaf to SIGTERM", []string{"ignore-sigterm"}, nil},
		{"hangs in drain", []string{"hang-in-drain", "ignore-sigterm"}, nil},
		{"stops itself in drain", []string{"stop-in-drain"}, nil},
		{"dies in drain", []string{"die-in-drain"}, nil},
		{"fails in drain", []string{"fail-in-drain"}, nil},
		{"health flood", []string{"health=flood"}, nil},
		{"degraded at length", []string{"health=degraded"}, func(t *testing.T, _ *bench, s *Supervised) {
			t.Helper()
			if st := s.State(); st.Phase != Degraded || st.Reason != "Malformed" || len(st.Message) > maxText+8 {
				t.Errorf("%s %s, %d bytes", st.Phase, st.Reason, len(st.Message))
			}
		}},
		{"metrics of a gibibyte", []string{"huge-in=metrics"}, func(t *testing.T, _ *bench, s *Supervised) {
			t.Helper()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := s.Metrics(t.Context()); err == nil || !strings.Contains(err.Error(), "cni(trap): metrics: grpc: received message larger") {
				t.Errorf("metrics: %v", err)
			}
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("%d bytes allocated", grown)
			}
		}},
		{"hangs in metrics", []string{"hang-in-metrics"}, func(t *testing.T, _ *bench, s *Supervised) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := s.Metrics(ctx); err == nil || !strings.Contains(err.Error(), "no answer within") {
				t.Errorf("metrics: %v", err)
			}
		}},
		{"leaves a process behind", []string{"fork"}, func(t *testing.T, b *bench, s *Supervised) {
			t.Helper()
			pid, err := strconv.Atoi(b.state("forked"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat("/sys/fs/cgroup/pids"); err == nil {
				eventually(t, "grandchild", func() string {
					if running(pid) {
						return "runs"
					}
					return ""
				})
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, trap(program.Host, c.ways...))
			before := count(t)
			s := b.start()
			b.ready(s)
			pid := s.State().PID
			if c.check != nil {
				c.check(t, b, s)
			}
			if st := s.State(); st.Restarts != 0 {
				t.Errorf("restarted: %s %s", st.Reason, st.Message)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if running(pid) {
				t.Error("runs after Stop")
			}
			b.nothingLeft(before)
		})
	}
}

// TestStopWhileStarting does not wait for a plugin that never answers.
func TestStopWhileStarting(t *testing.T) {
	for _, way := range []string{"hang-at-start", "stop-at-start", "hang-in-describe", "stop-in-configure"} {
		t.Run(way, func(t *testing.T) {
			b := newBench(t, trap(program.Host, way))
			b.timing.handshake, b.timing.describe, b.timing.configure = time.Hour, time.Hour, time.Hour
			before := count(t)
			s := b.start()
			eventually(t, "start", func() string {
				if s.State().Phase != Starting {
					return string(s.State().Phase)
				}
				return ""
			})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := s.Stop(ctx); err != nil || ctx.Err() != nil {
				t.Errorf("stop: %v, %v", err, ctx.Err())
			}
			b.nothingLeft(before)
		})
	}
}

func TestNoBrokerRuns(t *testing.T) {
	b := newBench(t, trap(program.Host))
	b.ready(b.start())
	buf := make([]byte, 1<<20)
	stacks := string(buf[:runtime.Stack(buf, true)])
	for _, part := range []string{"GRPCBroker", "grpcStdioClient", "newGRPCClient", "logStderr"} {
		if strings.Contains(stacks, part) {
			t.Errorf("go-plugin's %s runs:\n%s", part, stacks)
		}
	}
}

func TestEnvironmentAndDescriptors(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_SECRET_ACCESS_KEY": "canary", "HTTPS_PROXY": "http://canary", "KELSON_TOKEN": "canary", "LD_PRELOAD": "", "TZ": "Europe/Berlin",
	} {
		t.Setenv(name, value)
	}
	canary, err := os.Open("/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer canary.Close()
	for _, lifetime := range []program.Lifetime{program.Host, program.Node} {
		t.Run(string(lifetime), func(t *testing.T) {
			b := newBench(t, trap(lifetime, "env", "fds"))
			b.ready(b.start())
			allowed := []string{"PATH", "LANG", "TZ", "KELSON_PLUGIN", "KELSON_PLUGIN_LIFETIME", "KELSON_PLUGIN_LOG", "PLUGIN_UNIX_SOCKET_DIR", "PLUGIN_PROTOCOL_VERSIONS", "GOMEMLIMIT"}
			for line := range strings.SplitSeq(b.state("env"), "\n") {
				name, value, _ := strings.Cut(line, "=")
				if !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+name+" ") || strings.Contains(value, "canary") {
					t.Errorf("the plugin got %s", line)
				}
			}
			if env := b.state("env"); !strings.Contains(env, "PATH=/usr/bin:/bin\n") || !strings.Contains(env, "TZ=Europe/Berlin") {
				t.Errorf("environment:\n%s", env)
			}
			path, _ := self()
			for line := range strings.SplitSeq(b.state("fds"), "\n") {
				number, target, _ := strings.Cut(line, " ")
				n, _ := strconv.Atoi(number)
				own := strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/fs/cgroup/")
				if n > 2 && target != path && !own {
					t.Errorf("the plugin got descriptor %s", line)
				}
			}
		})
	}
}

func TestOutOfMemory(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err != nil {
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
			t.Skip("no memory cgroup")
		}
	}
	b := newBench(t, trap(program.Host, "eat-memory"))
	b.limits = runner.Limits{Memory: 200 << 20}
	s := b.start()
	eventually(t, "out of memory", func() string {
		if st := s.State(); !strings.Contains(st.Message, "(out of memory)") {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// logged says whether the host's log holds a text.
func (b *bench) logged(text string) func() string {
	return func() string {
		if strings.Contains(b.log.String(), text) {
			return ""
		}
		return "not in the log: " + text
	}
}
