// Package wire is what the servers of sdk/serve and sdk/plugintest have in
// common, so that a test meets the very server that ships: limits, keepalive,
// errors as statuses, and panics of handlers as errors with a crash report.
package wire

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/kelson-io/kelson/sdk/plugin"
)

// MaxMessage bounds every message, as the contract says.
const MaxMessage = 16 << 20

// ServerOptions makes a gRPC server a plugin's. Crash reports go to stderr.
func ServerOptions(stderr io.Writer) []grpc.ServerOption {
	log := plugin.NewLogger(stderr, slog.LevelInfo)
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		// The host may ask often whether the plugin lives.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
			defer settle(log, info.FullMethod, &err)
			return handler(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer settle(log, info.FullMethod, &err)
			return handler(srv, stream)
		}),
	}
}

// settle ends a handler: its error becomes a status, its panic a report.
func settle(log *slog.Logger, method string, err *error) {
	r := recover()
	if r == nil {
		*err = plugin.Status(*err)
		return
	}
	log.Error(fmt.Sprintf("panic in %s: %v", method, r), "stack", string(debug.Stack()))
	s := status.New(codes.Internal, fmt.Sprintf("panic: %v", r))
	if with, detailErr := s.WithDetails(&errdetails.ErrorInfo{Reason: plugin.ReasonPanic, Domain: plugin.Domain}); detailErr == nil {
		s = with
	}
	*err = s.Err()
}
