package pluginhost

import (
	"context"
	"errors"
	"io"
	"net"
	"path"
	"strings"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/kelson-io/kelson/core/pluginhost/runner"
)

// maxMessage is the size of one message, either way.
const maxMessage = 16 << 20

// maxText is how much of a plugin's own words the host repeats.
const maxText = 4 << 10

// CallError is a call that did not succeed: plugin, operation, and the gRPC
// status with what the plugin said. status.Code works on it.
type CallError struct {
	Plugin string // kind(name)
	Op     string // such as "configure"
	status *status.Status
	cause  error // context.DeadlineExceeded or context.Canceled
}

// Error is plugin, operation and message.
func (e *CallError) Error() string { return e.Plugin + ": " + e.Op + ": " + e.status.Message() }

// Unwrap returns the context's error, if that ended the call.
func (e *CallError) Unwrap() error { return e.cause }

// GRPCStatus is the status as the plugin sent it.
func (e *CallError) GRPCStatus() *status.Status { return e.status }

// Reason is the word by which programs tell the error, "" without one.
func (e *CallError) Reason() string {
	for _, detail := range e.status.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "kelson.io" {
			return info.GetReason()
		}
	}
	return ""
}

// connect returns a connection to a plugin's process. Nothing is sent yet.
func (s *Supervised) connect(p *runner.Process) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///plugin",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.Dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket of mode 0600 whose owner is checked
		grpc.WithAuthority("localhost"),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(64<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		// Longer than the Health stream is ever silent: servers take more pings amiss.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithUnaryInterceptor(s.unary),
		grpc.WithStreamInterceptor(s.stream),
	)
}

// unwanted marks calls that are no reason to keep an on-demand plugin.
type unwanted struct{}

func (s *Supervised) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if ctx.Value(unwanted{}) == nil {
		s.usage.begin()
		defer s.usage.end()
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.host.timing.call)
		defer cancel()
	}
	began := time.Now()
	return s.stamp(ctx, method, began, invoke(ctx, method, req, reply, cc, opts...))
}

func (s *Supervised) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	began := time.Now()
	cs, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, s.stamp(ctx, method, began, err)
	}
	return &stream{ClientStream: cs, stamp: func(err error) error { return s.stamp(ctx, method, began, err) }}, nil
}

// stream stamps what a stream fails with.
type stream struct {
	grpc.ClientStream
	stamp func(error) error
}

// SendMsg is gRPC's, with stamped errors.
func (c *stream) SendMsg(m any) error { return c.stamp(c.ClientStream.SendMsg(m)) }

// RecvMsg is gRPC's, with stamped errors.
func (c *stream) RecvMsg(m any) error { return c.stamp(c.ClientStream.RecvMsg(m)) }

// CloseSend is gRPC's, with stamped errors.
func (c *stream) CloseSend() error { return c.stamp(c.ClientStream.CloseSend()) }

// stamp puts plugin and operation in front of an error, once.
func (s *Supervised) stamp(ctx context.Context, method string, began time.Time, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if _, ok := errors.AsType[*CallError](err); ok {
		return err
	}
	st := status.Convert(err)
	e := &CallError{Plugin: s.String(), Op: operation(method)}
	message := oneLine(st.Message())
	deadline, limited := ctx.Deadline()
	switch {
	// The plugin's clock for the call may run out a moment before ours.
	case limited && time.Until(deadline) < 5*time.Millisecond:
		e.cause = context.DeadlineExceeded
		message = "no answer within " + deadline.Sub(began).Round(time.Millisecond).String()
		st = status.New(codes.DeadlineExceeded, message)
	case ctx.Err() != nil:
		e.cause = context.Canceled
	case st.Code() == codes.Canceled:
		// Not by the caller: the process ended, and the connection with it.
		message = "the plugin ended during the call"
		st = status.New(codes.Unavailable, message)
	}
	if message == "" {
		message = st.Code().String()
	}
	p := st.Proto()
	p.Message = message
	e.status = status.FromProto(p)
	return e
}

// operation is the last part of a method in words: "/kelson.cni.v1.Network/SetPeers"
// is "set peers".
func operation(method string) string {
	var b strings.Builder
	for i, r := range path.Base(method) {
		if unicode.IsUpper(r) {
			if i > 0 {
				b.WriteByte(' ')
			}
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// oneLine makes a plugin's words fit for a line of a log or a table.
func oneLine(s string) string {
	cut := len(s) > maxText
	if cut {
		s = s[:maxText]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if cut {
		s += "…"
	}
	return strings.TrimSpace(s)
}
