package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestRequestOnTheWire(t *testing.T) {
	r := Request{Verb: Del, Deadline: 1500 * time.Millisecond, Env: []string{"A=1", ""}, Stdin: []byte("{}")}
	raw, err := r.Append([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	// length 21 | version | verb | 1500 ms | 2 strings | "A=1" | "" | {}
	want := "78" + "00000015" + "01" + "02" + "000005dc" + "0002" + "00000003" + "413d31" + "00000000" + "7b7d"
	if got := hex.EncodeToString(raw); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	got, err := ReadRequest(iotest.OneByteReader(bytes.NewReader(raw[1:])))
	if err != nil || !reflect.DeepEqual(*got, r) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestReplyOnTheWire(t *testing.T) {
	r := Reply{Failed: true, JSON: []byte(`{"code":11}`)}
	raw, err := r.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(raw[:6]), "0000000d0101"; got != want {
		t.Fatalf("head %s, want %s", got, want)
	}
	got, err := ReadReply(bytes.NewReader(raw))
	if err != nil || !reflect.DeepEqual(*got, r) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		raw  string // hex
		want error
	}{
		"nothing":               {"", io.EOF},
		"half a length":         {"0000", io.ErrUnexpectedEOF},
		"too long":              {"00100001", ErrTooLong},
		"longer than it is":     {"0000000a0101", io.ErrUnexpectedEOF},
		"a megabyte announced":  {"00100000", io.ErrUnexpectedEOF},
		"no room for the head":  {"000000020101", ErrMalformed},
		"empty":                 {"00000000", ErrMalformed},
		"version":               {"00000008" + "0201000000000000", ErrVersion},
		"verb 0":                {"00000008" + "0100000000000000", ErrVerb},
		"verb 7":                {"00000008" + "0107000000000000", ErrVerb},
		"string missing":        {"00000008" + "0101000000000001", ErrMalformed},
		"string longer than it": {"0000000d" + "0101000000000001" + "ffffffff41", ErrMalformed},
		"too many strings":      {"00000008" + "010100000000ffff", ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := hex.DecodeString(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ReadRequest(bytes.NewReader(raw)); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if _, err := ReadReply(bytes.NewReader([]byte{0, 0, 0, 2, 1, 2})); !errors.Is(err, ErrMalformed) {
		t.Errorf("exit 2: %v", err)
	}
	if _, err := ReadReply(bytes.NewReader([]byte{0, 0, 0, 2, 9, 0})); !errors.Is(err, ErrVersion) {
		t.Errorf("version 9: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	big := strings.Repeat("x", Max)
	for name, c := range map[string]struct {
		r    Request
		want error
	}{
		"stdin":   {Request{Verb: Add, Stdin: []byte(big)}, ErrTooLong},
		"env":     {Request{Verb: Add, Env: []string{big}}, ErrTooLong},
		"strings": {Request{Verb: Add, Env: make([]string, MaxEnv+1)}, ErrTooLong},
		"verb":    {Request{}, ErrVerb},
	} {
		if out, err := c.r.Append(nil); !errors.Is(err, c.want) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (&Reply{JSON: []byte(big)}).Append(nil); !errors.Is(err, ErrTooLong) {
		t.Errorf("reply: %v", err)
	}
	full := Request{Verb: Add, Stdin: []byte(big[:Max-requestHead])}
	raw, err := full.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ReadRequest(bytes.NewReader(raw)); err != nil || len(back.Stdin) != len(full.Stdin) {
		t.Errorf("largest frame: %v", err)
	}
}

// TestAnnouncedSizeCostsNothing keeps a peer that only announces from making
// the reader allocate.
func TestAnnouncedSizeCostsNothing(t *testing.T) {
	raw := []byte{0, 0x10, 0, 0, 1}
	got := testing.Benchmark(func(b *testing.B) {
		b.Helper()
		b.ReportAllocs()
		for b.Loop() {
			_, _ = ReadRequest(bytes.NewReader(raw))
		}
	})
	if got.AllocedBytesPerOp() > 2*chunk {
		t.Errorf("%d bytes allocated for five received", got.AllocedBytesPerOp())
	}
}

func TestVerbs(t *testing.T) {
	for v := Add; v <= GetInfo; v++ {
		if back, ok := ParseVerb(v.String()); !ok || back != v {
			t.Errorf("%d is %q and back %d", v, v, back)
		}
	}
	if _, ok := ParseVerb(""); ok {
		t.Error("empty command is a verb")
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, r := range []Request{{Verb: Add, Env: []string{"CNI_COMMAND=ADD"}, Stdin: []byte("{}")}, {Verb: GetInfo}} {
		raw, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ReadRequest(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil {
			t.Fatalf("%+v was read but cannot be written: %v", r, err)
		}
		if !bytes.Equal(again, raw[:len(again)]) {
			t.Fatalf("read %x, wrote %x", raw, again)
		}
	})
}

func FuzzReadReply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 1, 0, '{', '}'})
	f.Add([]byte{0, 0x10, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ReadReply(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil || !bytes.Equal(again, raw[:len(again)]) {
			t.Fatalf("read %x, wrote %x, %v", raw, again, err)
		}
	})
}
