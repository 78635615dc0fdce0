package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/pluginhost/internal/hostile"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/sdk/plugin"
	"github.com/kelson-io/kelson/sdk/serve"
)

// good is a plugin as an author writes it with the SDK.
type good struct{ health plugin.Health }

type goodConfig struct {
	Backend string        `kelson:"backend"`
	Token   plugin.Secret `kelson:"token"`
}

func (*good) Info() plugin.Info {
	return plugin.Info{Kind: hostile.Kind, Name: hostile.Name, Version: hostile.Version, Summary: "A plugin of a test.", Protocols: []uint32{1}}
}

func (*good) Validate(_ context.Context, c goodConfig) plugin.Diagnostics {
	if c.Backend == "bad" {
		return plugin.Diagnostics{plugin.Errorf("backend", "no backend %q", c.Backend)}
	}
	return nil
}

func (g *good) Configure(_ context.Context, c goodConfig, h plugin.Host) error {
	if c.Backend == "restart" {
		return plugin.ErrRestart
	}
	g.health.Ready()
	fmt.Fprintf(os.Stderr, "configured for %s with %s\n", h.NodeName, c.Backend)
	return nil
}

func (g *good) Health() *plugin.Health { return &g.health }

func (*good) Metrics(context.Context) ([]byte, error) {
	return []byte("# TYPE kelson_cni_things gauge\nkelson_cni_things 1\n"), nil
}

// goodMain serves the plugin; a first argument is left for what uses it as a
// multicall binary.
func goodMain(args []string) int {
	p := serve.OS()
	p.Args = args
	return serve.Run(p, plugin.New(&good{}))
}

func goodProgram(lifetime program.Lifetime) program.Program {
	p := trap(lifetime)
	p.Args = []string{playGood}
	return p
}

// TestSDKPlugin runs what the SDK serves through both lifetimes.
func TestSDKPlugin(t *testing.T) {
	for _, lifetime := range []program.Lifetime{program.Host, program.Node} {
		t.Run(string(lifetime), func(t *testing.T) {
			b := newBench(t, goodProgram(lifetime))
			b.timing.term = defaultTiming().term
			b.spec.Config = json.RawMessage(`{"backend":"vxlan","token":{"secret":"token"}}`)
			b.spec.Secrets = map[string]json.RawMessage{"token": json.RawMessage(`"s3cret-canary"`)}
			before := count(t)
			s := b.start()
			b.ready(s)
			pid := s.State().PID
			eventually(t, "output", func() string {
				if out := s.State().Output; !strings.Contains(strings.Join(out, "\n"), "configured for n1 with vxlan") {
					return fmt.Sprint(out)
				}
				return ""
			})
			text, err := s.Metrics(t.Context())
			if want := "# TYPE kelson_cni_things gauge\nkelson_cni_things{kind=\"cni\",plugin=\"trap\"} 1\n"; err != nil || string(text) != want {
				t.Errorf("metrics %s, %v", text, err)
			}
			if lifetime == program.Node {
				if err := s.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				s = b.start()
				b.ready(s)
				if st := s.State(); st.PID != pid || !st.Attached {
					t.Errorf("not taken over: %+v", st)
				}
			}
			if err := s.End(t.Context()); err != nil {
				t.Error(err)
			}
			if st := s.State(); running(pid) || lifetime == program.Host && st.LastExit != "exit status 0" {
				t.Errorf("ended with %q", st.LastExit)
			}
			b.nothingLeft(before)
		})
	}
}

func TestSDKPluginsRefusal(t *testing.T) {
	b := newBench(t, goodProgram(program.Host))
	b.spec.Config = json.RawMessage(`{"backend":"bad","unknown":1}`)
	s := b.start()
	eventually(t, "refusal", func() string {
		st := s.State()
		if st.Reason != "ConfigInvalid" || !strings.Contains(st.Message, "cni(trap): validate: unknown") {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// TestSDKPluginOutlivesItsHost has it get the signals of a terminal that closes.
func TestSDKPluginOutlivesItsHost(t *testing.T) {
	b := newBench(t, goodProgram(program.Node))
	s := b.start()
	b.ready(s)
	pid := s.State().PID
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGPIPE} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	s = b.start()
	b.ready(s)
	if st := s.State(); st.PID != pid {
		t.Errorf("ended by a signal that is not meant for it: %+v", st)
	}
}

func TestCallErrors(t *testing.T) {
	s := newSupervised(New(Deps{Log: quiet()}), Spec{Kind: "cni", Name: "flannel"})
	err := s.stamp(t.Context(), "/kelson.cni.v1.Network/SetPeers", s.State().Since, status.Error(codes.InvalidArgument, "peer 7:\n\x1b[2J no address"))
	if got := err.Error(); got != "cni(flannel): set peers: peer 7:  [2J no address" {
		t.Errorf("%q", got)
	}
	if again := s.stamp(t.Context(), "/x/Other", s.State().Since, err); !errors.Is(again, err) || again.Error() != err.Error() {
		t.Errorf("stamped twice: %v", again)
	}
	if status.Code(err) != codes.InvalidArgument || status.Code(fmt.Errorf("wrapped: %w", err)) != codes.InvalidArgument {
		t.Errorf("code %v", status.Code(err))
	}
	for method, want := range map[string]string{"/a.B/Configure": "configure", "/a.B/GC": "g c", "Odd": "odd", "": "."} {
		if got := operation(method); got != want {
			t.Errorf("operation of %q is %q, want %q", method, got, want)
		}
	}
}
