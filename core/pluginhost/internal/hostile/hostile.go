// Package hostile is a plugin that misbehaves in any way that is asked for, and
// well without being asked. A test binary plays it when its TestMain passes its
// arguments on: so the tests need no further program.
//
// Invariants: it speaks the wire by itself, without the SDK. It ends after two
// minutes whatever it was asked for, so that nothing is left of a test that was
// cut off; what stops itself with SIGSTOP must be of the host's lifetime, which
// the kernel ends with the host.
//
// Concurrency: Main owns its process.
package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// Verb is the first argument of a process that is to be the plugin.
const Verb = "play-hostile"

// lifespan bounds every process of this kind.
const lifespan = 2 * time.Minute

// What the plugin says of itself unless it lies.
const (
	Kind     = "cni"
	Name     = "trap"
	Version  = "1.2.3"
	Protocol = 1
)

// Args returns the arguments for a plugin with the behaviours.
func Args(behaviours ...string) []string { return append([]string{Verb}, behaviours...) }

// Main is the plugin; args are those behind Verb. It returns the exit status.
func Main(args []string) int {
	time.AfterFunc(lifespan, die)
	p := &hostile{ways: args}
	if p.is("env") {
		_ = os.WriteFile("env", []byte(strings.Join(os.Environ(), "\n")), 0o600)
	}
	if p.is("fds") {
		_ = os.WriteFile("fds", []byte(strings.Join(descriptors(), "\n")), 0o600)
	}
	if code, over := p.begin(); over {
		return code
	}
	return p.serve()
}

type hostile struct {
	pluginv1.UnimplementedPluginServer
	ways       []string
	configured atomic.Int32
}

func (p *hostile) is(way string) bool { return slices.Contains(p.ways, way) }

// value returns what follows "way=" in the behaviours.
func (p *hostile) value(way, otherwise string) string {
	for _, w := range p.ways {
		if v, ok := strings.CutPrefix(w, way+"="); ok {
			return v
		}
	}
	return otherwise
}

// die is an end that no deferred call delays.
func die() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) }

func hang() { select {} }

// begin is what happens before the handshake.
func (p *hostile) begin() (code int, over bool) {
	if p.is("ignore-sigterm") {
		signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	}
	if p.is("fork") {
		p.fork()
	}
	if p.is("bad-json") {
		badLines()
	}
	if p.is("flood-stderr") {
		go flood(os.Stderr)
	}
	if p.is("long-lines") {
		for range 3 {
			fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20))
		}
		fmt.Fprintln(os.Stderr, "after the long lines")
	}
	switch {
	case p.is("exit-at-start"):
		fmt.Fprintln(os.Stderr, "cannot open the database")
		return 3, true
	case p.is("die-at-start"):
		die()
	case p.is("hang-at-start"):
		hang()
	case p.is("stop-at-start"):
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	case p.is("close-stdout"):
		_ = os.Stdout.Close()
		hang()
	case p.is("garbage"):
		fmt.Fprintln(os.Stdout, "Hello, I am a plugin!")
		hang()
	case p.is("long-handshake"):
		flood(os.Stdout)
	case p.is("eat-memory"):
		eat()
	case p.is("say"):
		fmt.Fprintln(os.Stdout, p.value("line", ""))
		hang()
	}
	return 0, false
}

// fork leaves a process that holds the standard streams, in a session of its own.
func (p *hostile) fork() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	cmd := exec.Command(self, Verb, "hang-at-start")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if cmd.Start() == nil {
		_ = os.WriteFile("forked", []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
	}
}

func badLines() {
	for _, line := range []string{
		`{"@message":1}`, `{"@level":[],"@message":{}}`, `{"@timestamp":true}`, `{"@message":"x","@level":7,"@timestamp":{}}`,
		`{`, `[1]`, `null`, `{"a":` + strings.Repeat("[", 5000), "\x00\x1b[2J\xff", "",
		`{"@message":"ordinary","@level":"warn","n":3}`,
	} {
		fmt.Fprintln(os.Stderr, line)
	}
}

// flood writes without a line's end and without a pause.
func flood(w io.Writer) {
	block := []byte(strings.Repeat("flood\n", 1000))
	if w == os.Stdout {
		block = []byte(strings.Repeat("f", 1<<14))
	}
	for {
		if _, err := w.Write(block); err != nil {
			hang()
		}
	}
}

func eat() {
	var all [][]byte
	for {
		b := make([]byte, 1<<24)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		if len(all) > 256 { // 4 GiB: there is no limit here
			die()
		}
	}
}

func descriptors() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = append(out, e.Name()+" "+target)
		}
	}
	return out
}

// serve shakes hands and speaks gRPC.
func (p *hostile) serve() int {
	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	opts := []grpc.ServerOption{}
	if way := p.value("huge-in", ""); way != "" {
		opts = append(opts, grpc.ForceServerCodecV2(huge{encoding.GetCodecV2(proto.Name), way}))
	}
	server := grpc.NewServer(opts...)
	pluginv1.RegisterPluginServer(server, p)
	term := make(chan os.Signal, 1)
	if !p.is("ignore-sigterm") {
		signal.Notify(term, unix.SIGTERM)
	}
	if os.Getenv("KELSON_PLUGIN_LIFETIME") == "node" {
		signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintln(os.Stdout, p.value("line", "1|1|unix|"+p.value("address", path)+"|grpc|"))
	if p.is("die-after-handshake") {
		die()
	}
	if p.is("flood-stdout") {
		go flood(os.Stdout)
	}
	if p.is("fork") {
		_ = os.Stdin.Close()
	}
	select {
	case <-term:
	case err := <-served:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// at plays what was asked for in a call.
func (p *hostile) at(call string) error {
	switch {
	case p.is("die-in-" + call):
		fmt.Fprintln(os.Stderr, "dying in "+call)
		die()
	case p.is("hang-in-" + call):
		hang()
	case p.is("stop-in-" + call):
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		hang() // it takes a moment to stop
	case p.is("fail-in-" + call):
		return status.Error(codes.Internal, "no\x1b[2J luck\n\xff in "+call)
	}
	return nil
}

// Describe tells the truth, or lies.
func (p *hostile) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	if err := p.at("describe"); err != nil {
		return nil, err
	}
	protocols := []uint32{Protocol}
	if n, err := strconv.ParseUint(p.value("protocol", ""), 10, 32); err == nil {
		protocols = []uint32{uint32(n)}
	}
	return &pluginv1.DescribeResponse{
		Kind: p.value("kind", Kind), Name: p.value("name", Name), Version: p.value("version", Version), Protocols: protocols,
	}, nil
}

// Validate finds fault with a configuration that says "bad".
func (p *hostile) Validate(_ context.Context, r *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error) {
	if err := p.at("validate"); err != nil {
		return nil, err
	}
	if strings.Contains(string(r.GetConfig()), "bad") {
		return &pluginv1.ValidateResponse{Diagnostics: []*pluginv1.Diagnostic{
			{Path: "mtu", Severity: pluginv1.Diagnostic_SEVERITY_WARNING, Summary: "small"},
			{Path: "backend", Severity: pluginv1.Diagnostic_SEVERITY_ERROR, Summary: `no backend "bad"`, Detail: "there are two", Hint: "vxlan or host-gw"},
		}}, nil
	}
	return &pluginv1.ValidateResponse{}, nil
}

// Configure notes the configuration, and prints its secrets where it should not.
func (p *hostile) Configure(_ context.Context, r *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	if err := p.at("configure"); err != nil {
		return nil, err
	}
	if p.is("print-secrets") {
		for name, secret := range r.GetSecrets() {
			fmt.Fprintf(os.Stderr, "{\"@level\":\"info\",\"@message\":\"secret %s\",\"value\":%s}\nplain %s\n", name, secret, strings.Trim(string(secret), `"`))
		}
	}
	f, err := os.OpenFile("configured", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, "%d %s\n", r.GetGeneration(), r.GetConfig())
		_ = f.Close()
	}
	restart := p.is("restart-required") || p.is("restart-later") && p.configured.Add(1) > 1
	return &pluginv1.ConfigureResponse{RestartRequired: restart}, nil
}

// Health is ready at once, or whatever was asked for.
func (p *hostile) Health(_ *pluginv1.HealthRequest, out grpc.ServerStreamingServer[pluginv1.HealthResponse]) error {
	if err := p.at("health"); err != nil {
		return err
	}
	report := &pluginv1.HealthResponse{State: pluginv1.HealthResponse_STATE_READY}
	switch p.value("health", "") {
	case "unready":
		report = &pluginv1.HealthResponse{State: pluginv1.HealthResponse_STATE_UNREADY, Reason: "NoPeers", Message: "waits for\npeers"}
	case "degraded":
		report = &pluginv1.HealthResponse{State: pluginv1.HealthResponse_STATE_DEGRADED, Reason: "not one word", Message: strings.Repeat("m", 1<<16)}
	}
	if err := out.Send(report); err != nil {
		return err
	}
	every := 50 * time.Millisecond
	switch p.value("health", "") {
	case "fatal":
		return out.Send(&pluginv1.HealthResponse{State: pluginv1.HealthResponse_STATE_FATAL, Reason: "Broken", Message: "beyond repair"})
	case "close":
		return nil
	case "silent":
		hang()
	case "flood":
		every = time.Nanosecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	ticks := 0
	for {
		select {
		case <-out.Context().Done():
			return nil
		case <-tick.C:
		}
		ticks++
		if ticks == 3 {
			if err := p.at("ready"); err != nil {
				return err
			}
		}
		if err := out.Send(report); err != nil {
			return err
		}
	}
}

// Metrics are well-formed and not.
func (p *hostile) Metrics(context.Context, *pluginv1.MetricsRequest) (*pluginv1.MetricsResponse, error) {
	if err := p.at("metrics"); err != nil {
		return nil, err
	}
	text := "# HELP go_goroutines Number of goroutines.\n# TYPE go_goroutines gauge\ngo_goroutines 12\n" +
		"kelson_cni_adds_total{result=\"ok\",kind=\"forged\"} 3\nnot a metric at all\nkelson_plugin_up{plugin=\"other\"} 1\n"
	if p.is("huge-metrics") {
		text = strings.Repeat("a_metric 1\n", 1<<18)
	}
	if p.is("many-series") {
		var b strings.Builder
		for i := range 20000 {
			fmt.Fprintf(&b, "m{i=\"%d\"} 1\n", i)
		}
		text = b.String()
	}
	return &pluginv1.MetricsResponse{Text: []byte(text)}, nil
}

// Drain notes that it was called.
func (p *hostile) Drain(context.Context, *pluginv1.DrainRequest) (*pluginv1.DrainResponse, error) {
	if err := p.at("drain"); err != nil {
		return nil, err
	}
	_ = os.WriteFile("drained", nil, 0o600)
	return &pluginv1.DrainResponse{}, nil
}

// huge answers one call with 1 GiB, made of one small block many times over.
type huge struct {
	encoding.CodecV2
	call string
}

// Marshal answers as was asked for.
func (h huge) Marshal(v any) (mem.BufferSlice, error) {
	_, describe := v.(*pluginv1.DescribeResponse)
	_, metrics := v.(*pluginv1.MetricsResponse)
	if h.call == "describe" && describe || h.call == "metrics" && metrics {
		block := mem.SliceBuffer(make([]byte, 1<<20))
		out := make(mem.BufferSlice, 1<<10)
		for i := range out {
			out[i] = block
		}
		return out, nil
	}
	return h.CodecV2.Marshal(v)
}
