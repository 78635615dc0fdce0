package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kelson-io/kelson/sdk/cni/frame"
)

const (
	defaultParallel = 8
	maxConnections  = 256 // more wait in the socket's backlog

	defaultDeadline = 60 * time.Second // for requests that name none
	longestDeadline = 5 * time.Minute
	arriveDeadline  = 30 * time.Second // a request must have arrived
	leaveDeadline   = 5 * time.Second  // a reply must have left
)

// listener serves the attachment socket. The service's gate orders the work.
type listener struct {
	path   string
	socket *net.UnixListener
	file   os.FileInfo // of path, to remove only our own
	cancel context.CancelFunc
}

// listen makes the socket of the last Setup the one that is served. It is called
// with control held.
func (s *service) listen() error {
	if s.serving != nil && s.serving.intact(s.socket) {
		return nil
	}
	old := s.serving
	next, err := s.open(s.socket)
	if err != nil {
		return err
	}
	s.serving = next
	if old != nil {
		return old.close(false)
	}
	return nil
}

// unlisten stops serving.
func (s *service) unlisten() error {
	if s.serving == nil {
		return nil
	}
	err := s.serving.close(true)
	s.serving = nil
	return err
}

// open binds beside path and renames, so that whoever connects finds either the
// old socket or one that is served.
func (s *service) open(path string) (*listener, error) {
	temp := filepath.Join(filepath.Dir(path), "."+strconv.Itoa(os.Getpid())+".sock")
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	socket.SetUnlinkOnClose(false)
	info, err := place(temp, path)
	if err != nil {
		return nil, errors.Join(err, socket.Close(), os.Remove(temp))
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{path: path, socket: socket, file: info, cancel: cancel}
	go s.accept(ctx, l)
	return l, nil
}

func place(temp, path string) (os.FileInfo, error) {
	// Until here the folder's mode protects it; nobody can have been accepted.
	if err := os.Chmod(temp, 0o600); err != nil {
		return nil, err
	}
	info, err := os.Lstat(temp)
	if err != nil {
		return nil, err
	}
	return info, os.Rename(temp, path)
}

// intact tells that the socket is still in its place.
func (l *listener) intact(path string) bool {
	now, err := os.Lstat(path)
	return err == nil && l.path == path && os.SameFile(now, l.file)
}

// close stops accepting. What is under way is finished if wait is false, and
// cancelled otherwise.
func (l *listener) close(cancel bool) error {
	var err error
	if l.intact(l.path) {
		err = os.Remove(l.path)
	}
	if closeErr := l.socket.Close(); closeErr != nil {
		err = errors.Join(err, closeErr)
	}
	if cancel {
		l.cancel()
	}
	return err
}

func (s *service) accept(ctx context.Context, l *listener) {
	free := make(chan struct{}, maxConnections)
	var conversations sync.WaitGroup
	defer func() {
		conversations.Wait()
		l.cancel()
	}()
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.socket.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files: those that run will close some
			s.log.Warn("accept attachment", "err", err)
			<-free
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return
			}
			continue
		}
		conversations.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			s.converse(ctx, conn)
		})
	}
}

// converse answers the one request of a connection.
func (s *service) converse(ctx context.Context, conn *net.UnixConn) {
	if err := rootOnly(conn); err != nil {
		s.log.Warn("attachment refused", "err", err)
		return
	}
	now := time.Now()
	if err := conn.SetReadDeadline(now.Add(arriveDeadline)); err != nil {
		return
	}
	request, err := frame.ReadRequest(conn)
	var reply frame.Reply
	if err != nil {
		reply = frame.Reply{Failed: true, JSON: object(Errorf(CodeIO, "read request: %w", err), "")}
	} else {
		reply = s.answer(ctx, request)
	}
	raw, err := reply.Append(nil)
	if err != nil {
		tooLong := frame.Reply{Failed: true, JSON: object(Errorf(CodeIO, "encode reply: %w", err), "")}
		raw, _ = tooLong.Append(nil)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(leaveDeadline)); err != nil {
		return
	}
	if _, err := conn.Write(raw); err != nil {
		// The shim has gone. What it asked for was done; its runtime undoes it.
		s.log.Warn("answer attachment", "err", err)
	}
}

// rootOnly refuses peers that are not root, whatever the socket's mode became.
func rootOnly(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if peer.Uid != 0 {
		return fmt.Errorf("peer has uid %d, pid %d", peer.Uid, peer.Pid)
	}
	return nil
}

// answer does one operation.
func (s *service) answer(ctx context.Context, f *frame.Request) frame.Reply {
	deadline := defaultDeadline
	if f.Deadline > 0 {
		deadline = min(f.Deadline, longestDeadline)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	conf, err := parseConf(f.Stdin)
	var raw []byte
	if err == nil {
		err = s.safely(func() error {
			raw, err = s.operate(ctx, f, conf)
			return err
		})
	}
	if err != nil {
		return frame.Reply{Failed: true, JSON: object(err, conf.CNIVersion)}
	}
	return frame.Reply{JSON: raw}
}

func (s *service) operate(ctx context.Context, f *frame.Request, conf netConf) ([]byte, error) {
	switch f.Verb {
	case frame.Status:
		if err := s.network.Status(ctx); err != nil {
			return nil, &codedError{statusCode(err), err}
		}
		return nil, nil
	case frame.GC:
		if !conf.hasValid {
			return nil, Errorf(CodeConfig, "cni.dev/valid-attachments is missing")
		}
		if err := acquire(ctx, s.control); err != nil {
			return nil, err
		}
		defer func() { <-s.control }()
		_, err := s.collect(ctx, conf.attachments())
		return nil, err
	case frame.GetInfo:
		return []byte(`{"cniVersion":"` + conf.CNIVersion + `","supportedVersions":["1.0.0","1.1.0"]}`), nil
	}
	r, err := s.names.request(f, conf)
	if err != nil {
		return nil, err
	}
	leave, err := s.gate.enter(ctx, r.ContainerID)
	if err != nil {
		return nil, Errorf(CodeTryAgain, "other attachments are under way: %w", err)
	}
	defer leave()
	switch f.Verb {
	case frame.Add:
		result, err := s.network.Add(ctx, r)
		if err != nil {
			return nil, err
		}
		return encode(result, r.CNIVersion)
	case frame.Del:
		return nil, s.network.Del(ctx, r)
	default:
		return nil, s.network.Check(ctx, r)
	}
}
