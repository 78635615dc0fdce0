package pluginhost

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/config"
	"github.com/kelson-io/kelson/core/pluginhost/program"
	"github.com/kelson-io/kelson/core/pluginhost/runner"
	"github.com/kelson-io/kelson/core/version"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// maxDiagnostics is how many remarks about a configuration are looked at.
const maxDiagnostics = 100

// errRestart asks for a new process, through no fault of the present one.
var errRestart = errors.New("restart")

// negotiate makes sure that the process is the program, and configures it.
func (s *Supervised) negotiate(ctx context.Context, prog program.Program, p *runner.Process, conn grpc.ClientConnInterface) error {
	client := pluginv1.NewPluginClient(conn)
	protocol, err := s.describe(ctx, prog, client)
	if err != nil {
		return err
	}
	s.change(func(st *State) { st.Protocol = protocol })
	if err := s.validate(ctx, client); err != nil {
		return err
	}
	return s.configure(ctx, p, client)
}

// describe compares what the plugin says of itself with its manifest.
func (s *Supervised) describe(ctx context.Context, prog program.Program, client pluginv1.PluginClient) (uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, s.host.timing.describe)
	defer cancel()
	d, err := client.Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		return 0, &fault{reason: "DescribeFailed", err: err}
	}
	for _, c := range []struct{ what, found, want string }{
		{"kind", d.GetKind(), prog.Kind},
		{"name", d.GetName(), prog.Name},
		{"version", d.GetVersion(), prog.Version},
		{"protocols", numbers(d.GetProtocols()), numbers(prog.Protocols)},
	} {
		if c.found != c.want {
			err := fmt.Errorf("%s: describe: its %s is %q, by its manifest %q", s, c.what, oneLine(c.found), c.want)
			return 0, &fault{reason: "DescribeDiffers", err: config.Hinted(err, "its file and its plugin.yaml are not of one build: install the plugin again")}
		}
	}
	if len(s.spec.Protocols) == 0 {
		return slices.Max(append([]uint32{0}, d.GetProtocols()...)), nil
	}
	var both uint32
	for _, n := range d.GetProtocols() {
		if n > both && slices.Contains(s.spec.Protocols, n) {
			both = n
		}
	}
	if both == 0 {
		err := fmt.Errorf("%s: describe: it speaks version %s of the contract for %s, this host %s", s, numbers(d.GetProtocols()), s.spec.Kind, numbers(s.spec.Protocols))
		return 0, &fault{reason: "ProtocolMismatch", err: config.Hinted(err, "install a version of the plugin for this release of Kelson")}
	}
	return both, nil
}

func numbers(list []uint32) string {
	list = slices.Clone(list)
	slices.Sort(list)
	words := make([]string, 0, len(list))
	for _, n := range slices.Compact(list) {
		words = append(words, fmt.Sprint(n))
	}
	return strings.Join(words, ", ")
}

// validate turns what the plugin finds wrong with the configuration into an error.
func (s *Supervised) validate(ctx context.Context, client pluginv1.PluginClient) error {
	ctx, cancel := context.WithTimeout(ctx, s.host.timing.validate)
	defer cancel()
	answer, err := client.Validate(ctx, &pluginv1.ValidateRequest{Config: s.spec.Config})
	if err != nil {
		return &fault{reason: "ValidateFailed", err: err}
	}
	var texts []string
	hint := ""
	for i, d := range answer.GetDiagnostics() {
		if i == maxDiagnostics {
			break
		}
		text := diagnostic(d)
		if d.GetSeverity() != pluginv1.Diagnostic_SEVERITY_ERROR {
			s.log.Warn("configuration", "remark", text, "hint", oneLine(d.GetHint()))
			continue
		}
		texts = append(texts, text)
		if hint == "" {
			hint = oneLine(d.GetHint())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	err = fmt.Errorf("%s: validate: %s", s, oneLine(strings.Join(texts, "; ")))
	if hint != "" {
		err = config.Hinted(err, hint)
	}
	return &fault{reason: "ConfigInvalid", err: err, blameless: true}
}

func diagnostic(d *pluginv1.Diagnostic) string {
	text := oneLine(d.GetSummary())
	if path := oneLine(d.GetPath()); path != "" {
		text = path + ": " + text
	}
	if detail := oneLine(d.GetDetail()); detail != "" {
		text += " (" + detail + ")"
	}
	return text
}

func (s *Supervised) configure(ctx context.Context, p *runner.Process, client pluginv1.PluginClient) error {
	l := s.host.deps.Layout
	had := p.Record()
	digest, generation := s.configDigest(), had.ConfigGeneration
	if had.Config != digest {
		generation++
	}
	ctx, cancel := context.WithTimeout(ctx, s.host.timing.configure)
	defer cancel()
	answer, err := client.Configure(ctx, &pluginv1.ConfigureRequest{
		Config: s.spec.Config, Secrets: raws(s.spec.Secrets), Generation: generation,
		Host: &pluginv1.HostInfo{
			Version: version.Get().Version, NodeName: s.host.deps.NodeName,
			StateDir: StateDir(l, s.spec.Kind, s.spec.Name), RunDir: PluginRunDir(l, s.spec.Kind, s.spec.Name),
		},
	})
	if err != nil {
		// What the operator must change is not the program's fault.
		return &fault{reason: "ConfigureFailed", err: err, blameless: status.Code(err) == codes.InvalidArgument}
	}
	switch {
	case answer.GetRestartRequired() && had.Config != "":
		return errRestart
	case answer.GetRestartRequired():
		return faultf("ConfigureFailed", "%s: configure: it was started a moment ago and asks for a restart", s)
	}
	if err := p.Configured(digest, generation); err != nil {
		s.log.Warn("configuration not noted for a later host", "err", err)
	}
	return nil
}

// configDigest identifies the configuration, but for the values of secrets: they
// are not to be guessed from what lies on a disk.
func (s *Supervised) configDigest() string {
	h := sha256.New()
	_, _ = h.Write(s.spec.Config) // never fails
	names := make([]string, 0, len(s.spec.Secrets))
	for name := range s.spec.Secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	_, _ = fmt.Fprintf(h, "\n%q", names)
	return hex.EncodeToString(h.Sum(nil))
}

func raws(in map[string]json.RawMessage) map[string][]byte {
	out := make(map[string][]byte, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

// bringUp calls Spec.Up. A panic in it is a failed start, not the host's end.
func (s *Supervised) bringUp(ctx context.Context, conn grpc.ClientConnInterface) error {
	if s.spec.Up == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.host.timing.up, fmt.Errorf("%s: bring up: not done within %v", s, s.host.timing.up))
	defer cancel()
	began := time.Now()
	err := guard(func() error { return s.spec.Up(ctx, conn) })
	if err == nil {
		s.log.Debug("brought up", "took", time.Since(began).Round(time.Millisecond))
		return nil
	}
	if _, ok := errors.AsType[*CallError](err); !ok {
		err = fmt.Errorf("%s: bring up: %w", s, err)
	}
	return &fault{reason: "BringUpFailed", err: err, blameless: status.Code(err) == codes.InvalidArgument}
}

// guard turns a panic into an error.
func guard(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return do()
}
