package plugin

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/kelson-io/kelson/sdk/config"
)

// Domain is the domain of the reasons in google.rpc.ErrorInfo.
const Domain = "kelson.io"

// Reasons that the SDK itself gives.
const (
	ReasonConfigInvalid = "CONFIG_INVALID"
	ReasonPanic         = "PANIC"
)

// Reason gives an error a word in CAPITALS that programs can compare. The code
// is the error's own (of Invalid and its siblings, a status, a context's end),
// or else FailedPrecondition. A nil error stays nil.
func Reason(err error, word string) error {
	return coded(err, codeOf(err, codes.FailedPrecondition), word)
}

// Invalid says that the configuration, or what was asked for, must be changed.
func Invalid(err error, word string) error { return coded(err, codes.InvalidArgument, word) }

// Unavailable says that a later call may succeed.
func Unavailable(err error, word string) error { return coded(err, codes.Unavailable, word) }

// Unimplemented says that the plugin lacks an optional operation.
func Unimplemented(operation string) error {
	return coded(fmt.Errorf("%s is not implemented", operation), codes.Unimplemented, "")
}

func coded(err error, code codes.Code, word string) error {
	if err == nil {
		return nil
	}
	return &reasoned{err: err, code: code, word: word}
}

// reasoned carries code and reason to the wire. It is an error like any other
// on the way there.
type reasoned struct {
	err  error
	code codes.Code
	word string
}

func (e *reasoned) Error() string { return Text(e.err) }

func (e *reasoned) Unwrap() error { return e.err }

// GRPCStatus is what gRPC sends.
func (e *reasoned) GRPCStatus() *status.Status {
	s := status.New(e.code, e.Error())
	if e.word == "" {
		return s
	}
	return detailed(s, &errdetails.ErrorInfo{Reason: e.word, Domain: Domain})
}

func detailed(s *status.Status, details ...protoadapt.MessageV1) *status.Status {
	if with, err := s.WithDetails(details...); err == nil {
		return with
	}
	return s
}

func codeOf(err error, otherwise codes.Code) codes.Code {
	var known interface{ GRPCStatus() *status.Status }
	switch {
	case err == nil:
		return codes.OK
	case errors.As(err, &known):
		return known.GRPCStatus().Code()
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	default:
		return otherwise
	}
}

// Status turns an error of a handler into what gRPC sends; the server applies
// it to every service. A configuration's errors are InvalidArgument with the
// paths as google.rpc.BadRequest; an error without a code is Unknown.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var invalid *config.Invalid
	var known interface{ GRPCStatus() *status.Status }
	switch {
	case errors.As(err, &known):
		p := status.Convert(err).Proto()
		p.Message = textOf(err)
		return status.FromProto(p).Err()
	case errors.As(err, &invalid):
		request := &errdetails.BadRequest{}
		for _, d := range invalid.Diagnostics {
			request.FieldViolations = append(request.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: d.Path, Description: d.Summary})
		}
		s := status.New(codes.InvalidArgument, err.Error())
		return detailed(s, &errdetails.ErrorInfo{Reason: ReasonConfigInvalid, Domain: Domain}, request).Err()
	default:
		return status.New(codeOf(err, codes.Unknown), err.Error()).Err()
	}
}

// ReasonOf is the reason of an error that came over gRPC, or was made by
// Reason; "" if it has none.
func ReasonOf(err error) string {
	s, ok := status.FromError(err)
	if !ok || s == nil {
		return ""
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info.GetReason()
		}
	}
	return ""
}

// Text is the error's text without gRPC's "rpc error: code = … desc = ".
func Text(err error) string {
	if err == nil {
		return ""
	}
	return textOf(err)
}

func textOf(err error) string {
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		if _, own := err.(*reasoned); !own { //nolint:errorlint // as above
			return s.GRPCStatus().Message()
		}
	}
	return err.Error()
}
