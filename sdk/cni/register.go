package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
)

const (
	maxPublished      = 16
	maxPublishedBytes = 1 << 10
)

// Options are what a plugin may change about its service.
type Options struct {
	// Parallel is how many attachments are worked on at once, 8 by default.
	Parallel int
	// Log gets what is not an answer, such as panics; slog.Default by default.
	Log *slog.Logger
}

// Register returns what serve.Main takes to serve n.
func Register(n Network) func(grpc.ServiceRegistrar) { return RegisterWith(n, Options{}) }

// RegisterWith is Register with options.
func RegisterWith(n Network, o Options) func(grpc.ServiceRegistrar) {
	return func(r grpc.ServiceRegistrar) { cniv1.RegisterNetworkServer(r, newService(n, o)) }
}

// service adapts a Network to gRPC and owns the attachment socket.
type service struct {
	cniv1.UnimplementedNetworkServer

	network Network
	log     *slog.Logger
	gate    *gate
	names   names

	control chan struct{} // held by Setup, Start, Topology, Teardown
	socket  string        // by the last Setup; under control
	started bool          // under control
	serving *listener     // under control
}

func newService(n Network, o Options) *service {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &service{
		network: n, log: o.Log, gate: newGate(o.Parallel), names: names{nameForm()},
		control: make(chan struct{}, 1),
	}
}

// controlled runs f while no other control call runs. needs is what must have
// been called before.
func (s *service) controlled(ctx context.Context, needs stage, f func() error) error {
	if err := acquire(ctx, s.control); err != nil {
		return rpc(err)
	}
	defer func() { <-s.control }()
	if needs >= afterSetup && s.socket == "" {
		return status.Error(codes.FailedPrecondition, "called before Setup")
	}
	if needs >= afterStart && !s.started {
		return status.Error(codes.FailedPrecondition, "called before Start")
	}
	return rpc(s.safely(f))
}

// stage is how far a plugin must be for a call.
type stage int

const (
	anytime stage = iota
	afterSetup
	afterStart
)

// safely turns a panic of f into an error, and keeps the stack for the log.
func (s *service) safely(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = Errorf(CodeInternal, "panic: %v", v)
		}
	}()
	return f()
}

// Preflight implements the service.
func (s *service) Preflight(ctx context.Context, m *cniv1.PreflightRequest) (*cniv1.PreflightResponse, error) {
	node, err := nodeOf(m.GetNode())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, message(err))
	}
	reply := &cniv1.PreflightResponse{}
	err = s.safely(func() error {
		problems, err := s.network.Preflight(ctx, node)
		for _, p := range problems {
			reply.Problems = append(reply.Problems, &cniv1.Problem{Warning: p.Warning, Summary: p.Summary, Hint: p.Hint})
		}
		return err
	})
	return reply, rpc(err)
}

// Setup implements the service.
func (s *service) Setup(ctx context.Context, m *cniv1.SetupRequest) (*cniv1.SetupResponse, error) {
	setup, err := setupOf(m)
	if err == nil && !filepath.IsAbs(setup.Socket) {
		err = fmt.Errorf("socket %q: not an absolute path", setup.Socket)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, message(err))
	}
	return &cniv1.SetupResponse{}, s.controlled(ctx, anytime, func() error {
		if err := s.network.Setup(ctx, setup); err != nil {
			return err
		}
		s.socket = setup.Socket
		return nil
	})
}

// Start implements the service.
func (s *service) Start(ctx context.Context, _ *cniv1.StartRequest) (*cniv1.StartResponse, error) {
	reply := &cniv1.StartResponse{}
	err := s.controlled(ctx, afterSetup, func() error {
		started, err := s.network.Start(ctx)
		if err != nil {
			return err
		}
		if err := checkPublished(started.Published); err != nil {
			return err
		}
		if err := s.listen(); err != nil { //nolint:contextcheck // the socket outlives this call
			return fmt.Errorf("attachment socket: %w", err)
		}
		s.started = true
		reply.Mtu, reply.Published = uint32(max(started.MTU, 0)), started.Published
		return nil
	})
	return reply, err
}

func checkPublished(values map[string]string) error {
	if len(values) > maxPublished {
		return fmt.Errorf("%d values published, at most %d", len(values), maxPublished)
	}
	for key, value := range values {
		if len(key)+len(value) > maxPublishedBytes {
			return fmt.Errorf("published value %q has %d bytes, at most %d", key, len(key)+len(value), maxPublishedBytes)
		}
	}
	return nil
}

// Topology implements the service.
func (s *service) Topology(stream grpc.BidiStreamingServer[cniv1.TopologyRequest, cniv1.TopologyResponse]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		change, err := topologyOf(m)
		if err != nil {
			return status.Error(codes.InvalidArgument, message(err))
		}
		err = s.controlled(stream.Context(), afterStart, func() error { return s.network.Topology(stream.Context(), change) })
		if err != nil {
			return err
		}
		if err := stream.Send(&cniv1.TopologyResponse{}); err != nil {
			return err
		}
	}
}

// Status implements the service.
func (s *service) Status(ctx context.Context, _ *cniv1.StatusRequest) (*cniv1.StatusResponse, error) {
	err := s.safely(func() error { return s.network.Status(ctx) })
	if err == nil {
		return &cniv1.StatusResponse{Ready: true}, nil
	}
	return &cniv1.StatusResponse{Code: uint32(statusCode(err)), Message: message(err)}, nil
}

// statusCode is one of the two codes that STATUS knows.
func statusCode(err error) Code {
	if CodeOf(err) == CodeLimited {
		return CodeLimited
	}
	return CodeNotAvailable
}

// Collect implements the service.
func (s *service) Collect(ctx context.Context, m *cniv1.CollectRequest) (*cniv1.CollectResponse, error) {
	reply := &cniv1.CollectResponse{}
	err := s.controlled(ctx, afterSetup, func() error {
		removed, err := s.collect(ctx, attachmentsOf(m.GetValid()))
		for _, a := range removed {
			reply.Removed = append(reply.Removed, &cniv1.Attachment{ContainerId: a.ContainerID, Ifname: a.IfName})
		}
		return err
	})
	return reply, err
}

func (s *service) collect(ctx context.Context, valid []Attachment) ([]Attachment, error) {
	open, err := s.gate.close(ctx)
	if err != nil {
		return nil, Errorf(CodeTryAgain, "attachments are under way: %w", err)
	}
	defer open()
	return s.network.Collect(ctx, valid)
}

// Teardown implements the service.
func (s *service) Teardown(ctx context.Context, m *cniv1.TeardownRequest) (*cniv1.TeardownResponse, error) {
	return &cniv1.TeardownResponse{}, s.controlled(ctx, afterSetup, func() error {
		open, err := s.gate.close(ctx)
		if err != nil {
			return Errorf(CodeTryAgain, "attachments are under way: %w", err)
		}
		defer open()
		if err := s.network.Teardown(ctx, m.GetAll()); err != nil {
			return err
		}
		if m.GetAll() {
			s.started = false
			return s.unlisten()
		}
		return nil
	})
}
