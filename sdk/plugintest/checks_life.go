package plugintest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kelson-io/kelson/sdk/internal/wire"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
	"github.com/kelson-io/kelson/sdk/serve"
)

// silence is the longest that a Health stream may be silent, with some grace
// for a busy machine.
const silence = 12 * time.Second

// cancellation: a call that was given up is over, and the next one is served.
func cancellation(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	request, err := r.settings(1)
	if err != nil {
		return err
	}
	for _, patience := range []time.Duration{100 * time.Millisecond, time.Millisecond} {
		ctx, cancel := context.WithTimeout(r.ctx, patience)
		_, err := pr.Plugin.Configure(ctx, request)
		cancel()
		if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded && code != codes.Canceled {
			return fmt.Errorf("configure within %v: %w", patience, err)
		}
		if err := r.configure(pr, 1); err != nil {
			return fmt.Errorf("after a call that was given up: %w", err)
		}
	}
	// Streams are closed in heaps, some before their first message.
	var open sync.WaitGroup
	for i := range 100 {
		open.Go(func() {
			ctx, cancel := r.call()
			defer cancel()
			if stream, err := pr.Plugin.Health(ctx, &pluginv1.HealthRequest{}); err == nil && i%2 == 0 {
				_, _ = stream.Recv()
			}
		})
	}
	open.Wait()
	return pr.alive(r.ctx)
}

// condition is the first message of a new Health stream.
func (r *run) condition(pr *process) (*pluginv1.HealthResponse, error) {
	ctx, cancel := r.call()
	defer cancel()
	stream, err := pr.Plugin.Health(ctx, &pluginv1.HealthRequest{})
	if err != nil {
		return nil, err
	}
	h, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("health: nothing at once: %w", err)
	}
	return h, nil
}

// health: at once, on several streams, and well formed, before and after
// Configure.
func health(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	for i := range 4 {
		h, err := r.condition(pr)
		if err != nil {
			return err
		}
		ready := h.GetState() == pluginv1.HealthResponse_STATE_READY
		switch {
		case h.GetState() == pluginv1.HealthResponse_STATE_UNSPECIFIED:
			return fmt.Errorf("health without a state: %v", h)
		case ready && h.GetReason() != "":
			return fmt.Errorf("health: ready, but for the reason %q", h.GetReason())
		case !ready && !regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`).MatchString(h.GetReason()):
			return fmt.Errorf("health: reason %q of %v: want one word in CamelCase", h.GetReason(), h.GetState())
		}
		if i == 1 {
			if err := r.configure(pr, 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// heartbeat: something at least every ten seconds.
func heartbeat(r *run) error {
	pr, err := r.configured()
	if err != nil {
		return err
	}
	stream, err := pr.Plugin.Health(r.ctx, &pluginv1.HealthRequest{})
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	for range 3 {
		go func() {
			_, err := stream.Recv()
			received <- err
		}()
		select {
		case err := <-received:
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
		case <-time.After(silence):
			return fmt.Errorf("health: silent for %v", silence)
		}
	}
	return nil
}

// metrics: absent, or lines of the text format of at most 1 MiB.
func metrics(r *run) error {
	pr, err := r.configured()
	if err != nil {
		return err
	}
	ctx, cancel := r.call()
	defer cancel()
	answer, err := pr.Plugin.Metrics(ctx, &pluginv1.MetricsRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil
	case err != nil:
		return fmt.Errorf("metrics: %w", err)
	case len(answer.GetText()) > 1<<20:
		return fmt.Errorf("metrics of %d bytes, at most 1 MiB", len(answer.GetText()))
	}
	sample := regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})? [-+0-9.eEInfNa]+( [0-9]+)?$`)
	for line := range strings.Lines(string(answer.GetText())) {
		line = strings.TrimRight(line, "\n")
		if line != "" && !strings.HasPrefix(line, "#") && !sample.MatchString(line) {
			return fmt.Errorf("metrics: %q is not a sample", line)
		}
	}
	return nil
}

// hostileClient: junk, oversized messages and unknown methods are refused, and
// harm nobody.
func hostileClient(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", pr.Socket)
	if err != nil {
		return err
	}
	_, _ = io.WriteString(conn, strings.Repeat("\x00junk\xff", 1000))
	conn.Close()
	if err := pr.alive(r.ctx); err != nil {
		return fmt.Errorf("after junk on the socket: %w", err)
	}
	ctx, cancel := r.call()
	defer cancel()
	if err := pr.Invoke(ctx, "/kelson.plugin.v1.Plugin/NoSuchMethod", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("an unknown method: want Unimplemented, not %w", orNil(err))
	}
	big := &pluginv1.ValidateRequest{Config: make([]byte, wire.MaxMessage+1)}
	if _, err := pr.Plugin.Validate(ctx, big); status.Code(err) != codes.ResourceExhausted {
		return fmt.Errorf("a message of %d bytes: want ResourceExhausted, not %w", len(big.GetConfig()), orNil(err))
	}
	if err := pr.alive(r.ctx); err != nil {
		return fmt.Errorf("after an oversized message: %w", err)
	}
	return nil
}

// drain: within its deadline, also twice; the process ends when told so.
func drain(r *run) error {
	pr, err := r.configured()
	if err != nil {
		return err
	}
	for range 2 {
		ctx, cancel := r.call()
		_, err := pr.Plugin.Drain(ctx, &pluginv1.DrainRequest{})
		cancel()
		if err != nil {
			return fmt.Errorf("drain: %w", err)
		}
	}
	return pr.terminate()
}

// sigterm: ends the process in every state, and leaves no socket.
func sigterm(r *run) error {
	for _, start := range []func(...string) (*process, error){r.start, r.configured} {
		pr, err := start()
		if err != nil {
			return err
		}
		if err := pr.terminate(); err != nil {
			return fmt.Errorf("SIGTERM: %w", err)
		}
		if _, err := os.Lstat(pr.Socket); err == nil {
			return errors.New("the socket is left behind")
		}
	}
	return nil
}

// hostGone: a closed standard input ends it.
func hostGone(r *run) error {
	pr, err := r.configured()
	if err != nil {
		return err
	}
	pr.stdin.Close()
	if err := pr.awaitEnd(); err != nil {
		return fmt.Errorf("the host closed the standard input: %w", err)
	}
	return nil
}

// nodeLifetime: it goes on without the host, and without anybody who reads its
// output; SIGTERM still ends it.
func nodeLifetime(r *run) error {
	if r.Lifetime != serve.LifetimeNode {
		return errNotAsked
	}
	pr, err := r.configured(nodeEnv)
	if err != nil {
		return err
	}
	pr.closePipes()
	bad, err := r.with(unknownKey, "x")
	if err != nil {
		return err
	}
	// Whatever it prints about these calls meets a closed pipe.
	for range 20 {
		if _, err := r.judged(pr, bad); err != nil {
			return fmt.Errorf("without the host: %w", err)
		}
		if err := r.configure(pr, 2); err != nil {
			return fmt.Errorf("without the host: %w", err)
		}
	}
	if err := pr.alive(r.ctx); err != nil {
		return fmt.Errorf("without the host: %w", err)
	}
	return pr.terminate()
}

// restarts: ten incarnations in one folder leave neither socket nor process.
func restarts(r *run) error {
	dir, err := r.folder()
	if err != nil {
		return err
	}
	for i := range 10 {
		pr, err := r.startIn(dir)
		if err != nil {
			return err
		}
		if err := r.configure(pr, 1); err != nil {
			return err
		}
		if err := pr.terminate(); err != nil {
			return fmt.Errorf("incarnation %d: %w", i, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("incarnation %d left %v", i, entries)
		}
		err = eventually(endTime, func() error {
			if err := syscall.Kill(-pr.cmd.Process.Pid, 0); errors.Is(err, syscall.ESRCH) {
				return nil
			}
			return fmt.Errorf("incarnation %d left processes", i)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// byHand: without the cookie it tells what it is, and ends.
func byHand(r *run) error {
	dir, err := r.folder()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, endTime)
	defer cancel()
	cmd := r.command([]string{"PLUGIN_UNIX_SOCKET_DIR=" + dir})
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	_ = cmd.Wait()
	switch text := out.String(); {
	case ctx.Err() != nil:
		return fmt.Errorf("without the cookie it runs on: %s", text)
	case strings.HasPrefix(text, "1|"):
		return errors.New("without the cookie it serves")
	case text == "":
		return errors.New("without the cookie it says nothing")
	}
	return nil
}
