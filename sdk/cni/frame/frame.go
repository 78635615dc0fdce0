// Package frame is the codec of the attachment socket, on which the container
// runtime's shim asks a network plugin for one CNI operation.
//
// A connection carries one request and one reply. All numbers are big endian:
//
//	request = u32 length of the rest | u8 version (1) | u8 verb | u32 deadline in ms
//	          | u16 number of environment strings, each u32 length + bytes | JSON of standard input to the end
//	reply   = u32 length of the rest | u8 version (1) | u8 exit (0 success, 1 error)
//	          | JSON to the end: a CNI result, or a CNI error object
//
// Invariants: no frame is longer than [Max] behind its length, a reader
// allocates no more than has arrived, and whatever bytes arrive, decoding ends
// with a frame or an error. Nothing here knows JSON, sockets or gRPC, so that
// the shim stays small. All functions are pure or use only what they are given.
package frame

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"
)

const (
	// Version is the version of the frames.
	Version = 1
	// Max is the most bytes that a frame may have behind its length.
	Max = 1 << 20
	// MaxEnv is the most environment strings that a request may have.
	MaxEnv = 64

	lengthSize  = 4
	requestHead = 1 + 1 + 4 + 2
	replyHead   = 1 + 1
	chunk       = 64 << 10
)

// Verb is the CNI operation of a request.
type Verb uint8

// The verbs.
const (
	Add     Verb = 1
	Del     Verb = 2
	Check   Verb = 3
	Status  Verb = 4
	GC      Verb = 5
	GetInfo Verb = 6 // the CNI operation VERSION
)

// String is the CNI_COMMAND of the verb, empty for none that is known.
func (v Verb) String() string {
	switch v {
	case Add:
		return "ADD"
	case Del:
		return "DEL"
	case Check:
		return "CHECK"
	case Status:
		return "STATUS"
	case GC:
		return "GC"
	case GetInfo:
		return "VERSION"
	}
	return ""
}

// ParseVerb is the verb of a CNI_COMMAND.
func ParseVerb(command string) (Verb, bool) {
	for v := Add; v <= GetInfo; v++ {
		if v.String() == command {
			return v, true
		}
	}
	return 0, false
}

// What a frame can be refused for.
var (
	ErrTooLong   = errors.New("frame is longer than 1 MiB")
	ErrVersion   = errors.New("frame has an unknown version")
	ErrVerb      = errors.New("frame has an unknown verb")
	ErrMalformed = errors.New("frame is malformed")
)

// Request asks for one operation.
type Request struct {
	Verb     Verb
	Deadline time.Duration // from its arrival; whole milliseconds, 0 leaves it to the plugin
	Env      []string      // CNI_… as NAME=value
	Stdin    []byte        // the network configuration
}

// Append appends the request as a frame.
func (r *Request) Append(to []byte) ([]byte, error) {
	size := requestHead + len(r.Stdin)
	for _, e := range r.Env {
		size += lengthSize + len(e)
	}
	if size > Max || len(r.Env) > MaxEnv {
		return to, ErrTooLong
	}
	if r.Verb.String() == "" {
		return to, ErrVerb
	}
	to = binary.BigEndian.AppendUint32(to, uint32(size))
	to = append(to, Version, byte(r.Verb))
	ms := min(max(r.Deadline.Milliseconds(), 0), math.MaxUint32)
	to = binary.BigEndian.AppendUint32(to, uint32(ms))
	to = binary.BigEndian.AppendUint16(to, uint16(len(r.Env)))
	for _, e := range r.Env {
		to = binary.BigEndian.AppendUint32(to, uint32(len(e)))
		to = append(to, e...)
	}
	return append(to, r.Stdin...), nil
}

// ReadRequest reads one request. Stdin shares no memory with the reader's.
func ReadRequest(from io.Reader) (*Request, error) {
	body, err := read(from)
	if err != nil {
		return nil, err
	}
	if len(body) < requestHead {
		return nil, ErrMalformed
	}
	if body[0] != Version {
		return nil, ErrVersion
	}
	r := &Request{Verb: Verb(body[1])}
	if r.Verb.String() == "" {
		return nil, ErrVerb
	}
	r.Deadline = time.Duration(binary.BigEndian.Uint32(body[2:])) * time.Millisecond
	count := int(binary.BigEndian.Uint16(body[6:]))
	if count > MaxEnv {
		return nil, ErrMalformed
	}
	body = body[requestHead:]
	for range count {
		if len(body) < lengthSize {
			return nil, ErrMalformed
		}
		n := binary.BigEndian.Uint32(body)
		body = body[lengthSize:]
		if uint64(n) > uint64(len(body)) {
			return nil, ErrMalformed
		}
		r.Env = append(r.Env, string(body[:n]))
		body = body[n:]
	}
	r.Stdin = body
	return r, nil
}

// Reply is the answer to a request.
type Reply struct {
	Failed bool   // JSON is a CNI error object
	JSON   []byte // empty if the operation has no result
}

// Append appends the reply as a frame.
func (r *Reply) Append(to []byte) ([]byte, error) {
	size := replyHead + len(r.JSON)
	if size > Max {
		return to, ErrTooLong
	}
	to = binary.BigEndian.AppendUint32(to, uint32(size))
	exit := byte(0)
	if r.Failed {
		exit = 1
	}
	return append(append(to, Version, exit), r.JSON...), nil
}

// ReadReply reads one reply.
func ReadReply(from io.Reader) (*Reply, error) {
	body, err := read(from)
	if err != nil {
		return nil, err
	}
	if len(body) < replyHead || body[1] > 1 {
		return nil, ErrMalformed
	}
	if body[0] != Version {
		return nil, ErrVersion
	}
	return &Reply{Failed: body[1] == 1, JSON: body[replyHead:]}, nil
}

// read reads a length and what it announces, growing as bytes arrive: a peer
// that only announces a megabyte costs nothing.
func read(from io.Reader) ([]byte, error) {
	var head [lengthSize]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return nil, err // io.EOF when nothing came at all
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > Max {
		return nil, ErrTooLong
	}
	body := make([]byte, 0, min(size, chunk))
	for int64(len(body)) < size {
		if len(body) == cap(body) {
			body = append(make([]byte, 0, min(size, 4*int64(cap(body)))), body...)
		}
		n, err := io.ReadFull(from, body[len(body):min(int64(cap(body)), size)])
		body = body[:len(body)+n]
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return body, nil
}
