package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/kelson-io/kelson/sdk/internal/sample"
	"github.com/kelson-io/kelson/sdk/plugin"
	"github.com/kelson-io/kelson/sdk/plugintest"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

func serve(t *testing.T) (*sample.Sample, pluginv1.PluginClient) {
	t.Helper()
	s := &sample.Sample{Stderr: io.Discard}
	return s, plugintest.Serve(t, sample.New(s)).Plugin
}

func TestDescribe(t *testing.T) {
	_, client := serve(t)
	d, err := client.Describe(t.Context(), &pluginv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if d.GetKind() != "addon" || d.GetName() != "sample" || d.GetVersion() != "1.2.3" || d.GetProtocols()[0] != 1 || d.GetSummary() == "" {
		t.Errorf("got %v", d)
	}
	if !json.Valid(d.GetConfigSchema()) {
		t.Errorf("schema %s", d.GetConfigSchema())
	}
}

func TestValidate(t *testing.T) {
	_, client := serve(t)
	tests := []struct{ config, want string }{
		{`{"greeting":"hi"}`, ``},
		{``, `greeting: is required`},
		{`{"greeting":"hi","style":"loud","times":4}`, `times: must be at most 3 when loud (lower it, or choose style plain)`},
		{`{"greeting":"hi","pause":"0"}`, `warning pause: is nothing`},
		{`{"greeting":"hi","password":{"secret":"p"}}`, ``},
	}
	for _, tt := range tests {
		r, err := client.Validate(t.Context(), &pluginv1.ValidateRequest{Config: []byte(tt.config)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range r.GetDiagnostics() {
			s := plugin.Diagnostic{Path: d.GetPath(), Summary: d.GetSummary(), Hint: d.GetHint()}.String()
			if d.GetSeverity() == pluginv1.Diagnostic_SEVERITY_WARNING {
				s = "warning " + s
			}
			got = append(got, s)
		}
		if strings.Join(got, "; ") != tt.want {
			t.Errorf("%s: got %q, want %q", tt.config, got, tt.want)
		}
	}
}

func TestConfigure(t *testing.T) {
	s, client := serve(t)
	configure := func(config string, generation uint64) (*pluginv1.ConfigureResponse, error) {
		return client.Configure(t.Context(), &pluginv1.ConfigureRequest{
			Config: []byte(config), Generation: generation,
			Secrets: map[string][]byte{"p": []byte(`"x"`)}, Host: &pluginv1.HostInfo{NodeName: "n1"},
		})
	}
	steps := []struct {
		config  string
		restart bool
		code    codes.Code
		reason  string
		calls   int
	}{
		{config: `{"greeting":""}`, code: codes.InvalidArgument, reason: "CONFIG_INVALID"},
		{config: `{"greeting":"hi"`, code: codes.InvalidArgument, reason: "CONFIG_INVALID"},
		{config: `{"greeting":"unavailable"}`, code: codes.Unavailable, reason: "NOBODY"},
		{config: `{"greeting":"hi","crash":true}`, code: codes.Internal, reason: "PANIC"},
		{config: `{"greeting":"hi"}`, calls: 1},
		{config: `{ "greeting" : "hi" }`, calls: 1}, // the same again
		{config: `{"greeting":"ho"}`, calls: 2},
		{config: `{"greeting":"ho","pause":"2s"}`, restart: true, calls: 3},
		{config: `{"greeting":"ho","pause":"2s"}`, restart: true, calls: 3},
		{config: `{"greeting":"ho","password":{"secret":"p"}}`, calls: 4},
		{config: `{"greeting":"ho","password":{"secret":"q"}}`, code: codes.InvalidArgument, reason: "CONFIG_INVALID", calls: 4},
	}
	for i, step := range steps {
		r, err := configure(step.config, uint64(i))
		if status.Code(err) != step.code || plugin.ReasonOf(err) != step.reason || r.GetRestartRequired() != step.restart {
			t.Errorf("step %d %s: %v, reason %q, restart %v", i, step.config, err, plugin.ReasonOf(err), r.GetRestartRequired())
		}
		if calls, _ := s.Calls(); calls != step.calls {
			t.Errorf("step %d %s: %d calls, want %d", i, step.config, calls, step.calls)
		}
	}
}

func TestConfigureNamesThePath(t *testing.T) {
	_, client := serve(t)
	_, err := client.Configure(t.Context(), &pluginv1.ConfigureRequest{Config: []byte(`{"greeting":"hi","stile":"loud"}`)})
	if want := `stile: unknown key (did you mean "style"?)`; plugin.Text(err) != want {
		t.Errorf("got %q, want %q", plugin.Text(err), want)
	}
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok && bad.GetFieldViolations()[0].GetField() == "stile" {
			return
		}
	}
	t.Errorf("no field violation in %v", status.Convert(err).Details())
}

func TestHealth(t *testing.T) {
	s, client := serve(t)
	stream, err := client.Health(t.Context(), &pluginv1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%v %s %s", m.GetState(), m.GetReason(), m.GetMessage()); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	expect("STATE_UNREADY Starting ")
	s.Health().Degraded("Slow", "took %d s", 3)
	expect("STATE_DEGRADED Slow took 3 s")
	s.Health().Ready()
	expect("STATE_READY  ")
	s.Health().Fatal("Broken", "gone")
	expect("STATE_FATAL Broken gone")
}

func TestMetricsAndDrain(t *testing.T) {
	s, client := serve(t)
	m, err := client.Metrics(t.Context(), &pluginv1.MetricsRequest{})
	if err != nil || !bytes.Contains(m.GetText(), []byte("sample_configured_total")) {
		t.Errorf("metrics %s, %v", m.GetText(), err)
	}
	for range 2 {
		if _, err := client.Drain(t.Context(), &pluginv1.DrainRequest{}); err != nil {
			t.Error(err)
		}
	}
	if _, drains := s.Calls(); drains != 1 {
		t.Errorf("drained %d times", drains)
	}
	_, err = client.Configure(t.Context(), &pluginv1.ConfigureRequest{Config: []byte(`{"greeting":"hi"}`)})
	if plugin.ReasonOf(err) != "DRAINED" {
		t.Errorf("configure after drain: %v", err)
	}
}

// bare has none of the optional interfaces, and fails as told.
type bare struct {
	health plugin.Health
	err    error
	// block, if any, holds Configure, which tells entered.
	block, entered chan struct{}
}

func (*bare) Info() plugin.Info { return plugin.Info{} }

func (*bare) Validate(context.Context, struct{}) plugin.Diagnostics { return nil }

func (b *bare) Configure(context.Context, struct{}, plugin.Host) error {
	if b.block != nil {
		b.entered <- struct{}{}
		<-b.block
	}
	return b.err
}

func (b *bare) Health() *plugin.Health { return &b.health }

func TestOptionalIsOptional(t *testing.T) {
	client := plugintest.Serve(t, plugin.New(&bare{})).Plugin
	if _, err := client.Metrics(t.Context(), &pluginv1.MetricsRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("metrics: %v", err)
	}
	if _, err := client.Drain(t.Context(), &pluginv1.DrainRequest{}); err != nil {
		t.Errorf("drain: %v", err)
	}
}

func TestErrorsOnTheWire(t *testing.T) {
	plain := errors.New("make a thing: no space")
	tests := []struct {
		err    error
		code   codes.Code
		text   string
		reason string
	}{
		{plain, codes.Unknown, "make a thing: no space", ""},
		{plugin.Reason(plain, "NO_SPACE"), codes.FailedPrecondition, "make a thing: no space", "NO_SPACE"},
		{plugin.Invalid(plain, "BAD"), codes.InvalidArgument, "make a thing: no space", "BAD"},
		{fmt.Errorf("start: %w", plugin.Unavailable(plain, "LATER")), codes.Unavailable, "start: make a thing: no space", "LATER"},
		{plugin.Reason(fmt.Errorf("start: %w", plugin.Unavailable(plain, "LATER")), "OUTER"), codes.Unavailable, "start: make a thing: no space", "OUTER"},
		{plugin.Reason(status.Error(codes.NotFound, "no such thing"), "GONE"), codes.NotFound, "no such thing", "GONE"},
		{plugin.Unimplemented("snapshot"), codes.Unimplemented, "snapshot is not implemented", ""},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "wait: context deadline exceeded", ""},
		{plugin.Reason(context.Canceled, "STOPPED"), codes.Canceled, "context canceled", "STOPPED"},
		{status.Error(codes.Aborted, "as it is"), codes.Aborted, "as it is", ""},
	}
	for _, tt := range tests {
		client := plugintest.Serve(t, plugin.New(&bare{err: tt.err})).Plugin
		_, err := client.Configure(t.Context(), &pluginv1.ConfigureRequest{})
		if status.Code(err) != tt.code || plugin.Text(err) != tt.text || plugin.ReasonOf(err) != tt.reason {
			t.Errorf("%v: got %v, %q, %q", tt.err, status.Code(err), plugin.Text(err), plugin.ReasonOf(err))
		}
	}
	if plugin.Reason(nil, "X") != nil || plugin.Status(nil) != nil || plugin.Text(nil) != "" || plugin.ReasonOf(nil) != "" {
		t.Error("nil is not nil")
	}
	if !errors.Is(plugin.Reason(plain, "X"), plain) {
		t.Error("Reason hides the error")
	}
}

// TestConfigureTakesTurns: one that waits for its turn respects its deadline.
func TestConfigureTakesTurns(t *testing.T) {
	b := &bare{block: make(chan struct{}), entered: make(chan struct{}, 1)}
	client := plugintest.Serve(t, plugin.New(b)).Plugin
	first := make(chan error, 1)
	go func() {
		_, err := client.Configure(context.Background(), &pluginv1.ConfigureRequest{})
		first <- err
	}()
	<-b.entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Drain(ctx, &pluginv1.DrainRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("drain beside a configure: %v", err)
	}
	close(b.block)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// conditions counts what a Health stream sends.
type conditions struct {
	grpc.ServerStreamingServer[pluginv1.HealthResponse]
	ctx  context.Context
	sent chan time.Time
}

func (c *conditions) Context() context.Context { return c.ctx }

func (c *conditions) Send(*pluginv1.HealthResponse) error {
	c.sent <- time.Now()
	return nil
}

// TestHeartbeat: an unchanged condition is repeated at least every ten seconds.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		stream := &conditions{ctx: ctx, sent: make(chan time.Time, 100)}
		done := make(chan error, 1)
		go func() { done <- plugin.NewServer(plugin.New(&bare{})).Health(nil, stream) }()
		last := <-stream.sent
		for range 10 {
			now := <-stream.sent
			if now.Sub(last) > 10*time.Second {
				t.Errorf("silent for %v", now.Sub(last))
			}
			last = now
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestInfoCheck(t *testing.T) {
	good := plugin.Info{Kind: "cni", Name: "my-net2", Version: "1.2.3-rc.1+build", Protocols: []uint32{1, 2}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	bad := map[string]func(*plugin.Info){
		"kind ":       func(i *plugin.Info) { i.Kind = "CNI" },
		"name ":       func(i *plugin.Info) { i.Name = "2net" },
		"name":        func(i *plugin.Info) { i.Name = strings.Repeat("a", 41) },
		"version":     func(i *plugin.Info) { i.Version = "v1.2.3" },
		"version ":    func(i *plugin.Info) { i.Version = "1.2" },
		"protocols":   func(i *plugin.Info) { i.Protocols = nil },
		"protocols 0": func(i *plugin.Info) { i.Protocols = []uint32{0} },
	}
	for what, spoil := range bad {
		i := good
		spoil(&i)
		word, _, _ := strings.Cut(what, " ")
		if err := i.Check(); err == nil || !strings.HasPrefix(err.Error(), word) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	plugin.NewLogger(&out, slog.LevelInfo).With("peer", "a").Warn("link lost", "secret", plugin.Secret{}, slog.Group("g", "msg", "kept"))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["@level"] != "warn" || line["@message"] != "link lost" || line["peer"] != "a" || line["secret"] != "[secret]" || line["@timestamp"] == nil {
		t.Errorf("got %v", line)
	}
}
