package payload

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// stream is the decompressed tar stream. Frames are decoded ahead on all
// cores, at most window of them at a time, and read in order.
type stream struct {
	ctx    context.Context
	p      *File
	slots  []chan result // by frame
	tokens chan []byte   // spare output buffers; taking one is leave to decode
	next   int           // frame to read from next
	cur    []byte
	buf    []byte // the buffer behind cur, to be given back
	group  sync.WaitGroup
}

type result struct {
	data []byte
	err  error
}

func newStream(ctx context.Context, p *File) *stream {
	workers := runtime.GOMAXPROCS(0)
	s := &stream{ctx: ctx, p: p, slots: make([]chan result, len(p.Frames)), tokens: make(chan []byte, workers+2)}
	for range cap(s.tokens) {
		s.tokens <- nil
	}
	jobs := make(chan int)
	for i := range s.slots {
		s.slots[i] = make(chan result, 1)
	}
	s.group.Go(func() { s.feed(jobs) })
	for range workers {
		s.group.Go(func() { s.decode(jobs) })
	}
	return s
}

// feed hands out the frames in order.
func (s *stream) feed(jobs chan<- int) {
	defer close(jobs)
	for i := range s.slots {
		select {
		case jobs <- i:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *stream) decode(jobs <-chan int) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame))
	if err == nil {
		defer dec.Close()
	}
	var in []byte
	for {
		// The buffer first: a frame that was taken is always decoded, so the
		// oldest frame never waits for a buffer that later ones hold.
		var buf []byte
		select {
		case buf = <-s.tokens:
		case <-s.ctx.Done():
			return
		}
		i, ok := <-jobs
		if !ok {
			return
		}
		res := result{err: err}
		if err == nil {
			in, res = s.frame(dec, i, in, buf)
		}
		s.slots[i] <- res
	}
}

func (s *stream) frame(dec *zstd.Decoder, i int, in, buf []byte) ([]byte, result) {
	in, err := s.p.readFrame(i, in)
	if err != nil {
		return in, result{err: err}
	}
	size := s.p.Frames[i].Size
	if int64(cap(buf)) < size {
		buf = make([]byte, 0, size)
	}
	out, err := dec.DecodeAll(in, buf[:0])
	if err == nil && int64(len(out)) != size {
		err = fmt.Errorf("%d bytes, not %d", len(out), size)
	}
	if err != nil {
		return in, result{err: fmt.Errorf("payload frame %d is damaged: %w", i, err)}
	}
	return in, result{data: out}
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	for len(s.cur) == 0 {
		if s.buf != nil {
			s.tokens <- s.buf
			s.buf = nil
		}
		if s.next == len(s.slots) {
			return 0, io.EOF
		}
		select {
		case r := <-s.slots[s.next]:
			if r.err != nil {
				return 0, r.err
			}
			s.cur, s.buf = r.data, r.data
			s.next++
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(b, s.cur)
	s.cur = s.cur[n:]
	return n, nil
}

// wait returns when no goroutine is left; the context must have ended.
func (s *stream) wait() { s.group.Wait() }
