package plugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/kelson-io/kelson/sdk/config"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

const (
	// heartbeat repeats the health often enough for the ten seconds of the
	// contract.
	heartbeat = 5 * time.Second
	// maxMetrics bounds the answer of Metrics.
	maxMetrics = 1 << 20
)

// Server serves a Plugin as the service kelson.plugin.v1.Plugin. Authors do not
// need it: sdk/serve and sdk/plugintest do.
type Server struct {
	pluginv1.UnimplementedPluginServer
	plugin Plugin
	// turn is held by the one Configure or Drain that runs.
	turn    chan struct{}
	applied *[sha256.Size]byte // settings that Configure accepted last
	restart bool               // what it answered
	drained bool
}

// NewServer adapts a plugin.
func NewServer(p Plugin) *Server {
	return &Server{plugin: p, turn: make(chan struct{}, 1)}
}

// Register adds the service.
func (s *Server) Register(r grpc.ServiceRegistrar) { pluginv1.RegisterPluginServer(r, s) }

// Describe serves the contract.
func (s *Server) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	i := s.plugin.Info()
	return &pluginv1.DescribeResponse{
		Kind: i.Kind, Name: i.Name, Version: i.Version, Summary: i.Summary,
		Protocols: slices.Clone(i.Protocols), Capabilities: slices.Clone(i.Capabilities),
		ConfigSchema: s.plugin.Schema(),
	}, nil
}

// Validate serves the contract.
func (s *Server) Validate(ctx context.Context, r *pluginv1.ValidateRequest) (*pluginv1.ValidateResponse, error) {
	answer := &pluginv1.ValidateResponse{}
	for _, d := range s.plugin.Validate(ctx, object(r.GetConfig())) {
		severity := pluginv1.Diagnostic_SEVERITY_ERROR
		if d.Severity == config.SeverityWarning {
			severity = pluginv1.Diagnostic_SEVERITY_WARNING
		}
		answer.Diagnostics = append(answer.Diagnostics, &pluginv1.Diagnostic{
			Path: d.Path, Severity: severity, Summary: d.Summary, Detail: d.Detail, Hint: d.Hint,
		})
	}
	return answer, ctx.Err()
}

// Configure serves the contract. The same settings again are answered without
// the plugin.
func (s *Server) Configure(ctx context.Context, r *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	if s.drained {
		return nil, Reason(errors.New("the plugin was drained and takes no more work"), "DRAINED")
	}
	settings := Settings{
		Config: object(r.GetConfig()), Secrets: map[string]json.RawMessage{}, Generation: r.GetGeneration(),
		Host: Host{
			Version: r.GetHost().GetVersion(), NodeName: r.GetHost().GetNodeName(),
			StateDir: r.GetHost().GetStateDir(), RunDir: r.GetHost().GetRunDir(),
		},
	}
	for name, value := range r.GetSecrets() {
		settings.Secrets[name] = value
	}
	sum, err := settings.digest()
	if err != nil {
		return nil, Invalid(fmt.Errorf("configuration: %w", err), ReasonConfigInvalid)
	}
	if s.applied != nil && *s.applied == sum {
		return &pluginv1.ConfigureResponse{RestartRequired: s.restart}, nil
	}
	err = s.plugin.Configure(ctx, settings)
	restart := errors.Is(err, ErrRestart)
	if err != nil && !restart {
		// It may be anything now: the next settings are applied in any case.
		s.applied = nil
		return nil, err
	}
	s.applied, s.restart = &sum, restart
	return &pluginv1.ConfigureResponse{RestartRequired: restart}, nil
}

// digest tells settings apart, whatever their spelling and generation.
func (s Settings) digest() ([sha256.Size]byte, error) {
	var c any
	dec := json.NewDecoder(bytes.NewReader(s.Config))
	dec.UseNumber() // as floats, neighbouring large numbers would look alike
	if err := dec.Decode(&c); err != nil {
		return [sha256.Size]byte{}, err
	}
	secrets := make(map[string][]byte, len(s.Secrets))
	for name, value := range s.Secrets {
		secrets[name] = value
	}
	all, err := json.Marshal([]any{c, secrets, s.Host})
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return sha256.Sum256(all), nil
}

// Health serves the contract.
func (s *Server) Health(_ *pluginv1.HealthRequest, stream grpc.ServerStreamingServer[pluginv1.HealthResponse]) error {
	return watch(stream.Context(), s.plugin.Health(), func(c Condition) error {
		return stream.Send(&pluginv1.HealthResponse{State: states(c.State), Reason: c.Reason, Message: c.Message})
	})
}

// watch sends the condition at once, at each change and at each heartbeat.
func watch(ctx context.Context, h *Health, send func(Condition) error) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		now, changed := h.Now()
		if err := send(now); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-beat.C:
		}
	}
}

func states(s State) pluginv1.HealthResponse_State {
	switch s {
	case Ready:
		return pluginv1.HealthResponse_STATE_READY
	case Degraded:
		return pluginv1.HealthResponse_STATE_DEGRADED
	case Fatal:
		return pluginv1.HealthResponse_STATE_FATAL
	default:
		return pluginv1.HealthResponse_STATE_UNREADY
	}
}

// Metrics serves the contract.
func (s *Server) Metrics(ctx context.Context, _ *pluginv1.MetricsRequest) (*pluginv1.MetricsResponse, error) {
	m, ok := optional[Metrics](s.plugin)
	if !ok {
		return nil, Unimplemented("metrics")
	}
	text, err := m.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	if len(text) > maxMetrics {
		return nil, Reason(fmt.Errorf("metrics of %d bytes, at most %d", len(text), maxMetrics), "METRICS_TOO_LARGE")
	}
	return &pluginv1.MetricsResponse{Text: text}, nil
}

// Drain serves the contract; serve calls it too, before it ends the process. It
// succeeds at once when it succeeded before.
func (s *Server) Drain(ctx context.Context, _ *pluginv1.DrainRequest) (*pluginv1.DrainResponse, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	if d, ok := optional[Drainer](s.plugin); ok && !s.drained {
		if err := d.Drain(ctx); err != nil {
			return nil, err
		}
	}
	s.drained = true
	return &pluginv1.DrainResponse{}, nil
}

// take waits for the turn to change the plugin.
func (s *Server) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another call still runs: %w", ctx.Err())
	}
}

func (s *Server) give() { <-s.turn }

// object is a configuration that may be left out.
func object(raw []byte) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}
