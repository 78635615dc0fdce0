package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Code is an error code of the CNI specification. Authors may use codes of their
// own from 100 on.
type Code uint

// The codes that the specification defines, and the one for all else.
const (
	CodeVersion          Code = 1  // CNI version not spoken
	CodeUnsupported      Code = 2  // field of the configuration not supported
	CodeUnknownContainer Code = 3  // container unknown, nothing to clean up
	CodeEnvironment      Code = 4  // CNI_… missing or malformed
	CodeIO               Code = 5  // input or output failed
	CodeDecoding         Code = 6  // configuration cannot be decoded
	CodeConfig           Code = 7  // configuration is not valid
	CodeTryAgain         Code = 11 // a later try may succeed
	CodeNotAvailable     Code = 50 // no pod can be attached now
	CodeLimited          Code = 51 // neither, and running pods are affected
	CodeInternal         Code = 999
)

const maxMessage = 4 << 10

type codedError struct {
	code Code
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// Errorf is fmt.Errorf with a code, which is kept however the error is wrapped.
func Errorf(code Code, format string, args ...any) error {
	return &codedError{code, fmt.Errorf(format, args...)}
}

// CodeOf is the code that err is reported with: the outermost one given by
// Errorf, that of a CNI error object (such as a delegate's), CodeTryAgain if
// time ran out, else CodeInternal.
func CodeOf(err error) Code {
	if coded, ok := errors.AsType[*codedError](err); ok {
		return coded.code
	}
	if object, ok := errors.AsType[*types.Error](err); ok && object.Code != 0 {
		return Code(object.Code)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return CodeTryAgain
	}
	return CodeInternal
}

// object is err as a CNI error object.
func object(err error, version string) []byte {
	if version == "" {
		version = Versions()[0]
	}
	raw, encodeErr := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		Code       Code   `json:"code"`
		Msg        string `json:"msg"`
		Details    string `json:"details,omitempty"`
	}{version, CodeOf(err), message(err), details(err)})
	if encodeErr != nil {
		return []byte(`{"cniVersion":"1.0.0","code":999,"msg":"error cannot be encoded"}`)
	}
	return raw
}

func message(err error) string {
	text := err.Error()
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "�")
}

func details(err error) string {
	if object, ok := errors.AsType[*types.Error](err); ok {
		return strings.ToValidUTF8(object.Details[:min(len(object.Details), maxMessage)], "�")
	}
	return ""
}

// rpc is err for the host. What has a gRPC status keeps it.
func rpc(err error) error {
	if err == nil {
		return nil
	}
	var has interface{ GRPCStatus() *status.Status }
	if errors.As(err, &has) {
		return err
	}
	code := codes.Internal
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	default:
		switch CodeOf(err) {
		case CodeUnsupported, CodeConfig, CodeDecoding:
			code = codes.InvalidArgument
		case CodeTryAgain, CodeNotAvailable, CodeLimited:
			code = codes.Unavailable
		}
	}
	return status.Error(code, message(err))
}
