package sample

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/kelson-io/kelson/sdk/plugin"
	"github.com/kelson-io/kelson/sdk/serve"
)

// FaultKey is the environment variable that names a Fault.
const FaultKey = "KELSON_SAMPLE_FAULT"

// Fault names a way to break the contract.
type Fault string

// The faults.
const (
	FaultDescribe   Fault = "describe"    // another version at each call
	FaultName       Fault = "name"        // a name that is none
	FaultSchema     Fault = "schema"      // a schema that is none
	FaultLax        Fault = "lax"         // takes unknown keys and wrong types
	FaultPathless   Fault = "pathless"    // remarks without a path
	FaultTwice      Fault = "twice"       // a second Configure fails
	FaultHang       Fault = "hang"        // a Configure that was given up goes on forever
	FaultSilent     Fault = "silent"      // Health sends nothing
	FaultReason     Fault = "reason"      // a condition without a proper reason
	FaultLeak       Fault = "leak"        // logs the secret
	FaultLeakMetric Fault = "leak-metric" // a metric with the secret
	FaultDrain      Fault = "drain"       // Drain never returns
	FaultSigterm    Fault = "sigterm"     // SIGTERM is ignored
	FaultSocket     Fault = "socket"      // leaves a file in the socket's folder
	FaultOrphan     Fault = "orphan"      // outlives its host
	FaultMortal     Fault = "mortal"      // dies with its host although of the node
	FaultEager      Fault = "eager"       // serves without the cookie
)

// Faults are all of them.
func Faults() []Fault {
	return []Fault{
		FaultDescribe, FaultName, FaultSchema, FaultLax, FaultPathless, FaultTwice, FaultHang, FaultSilent, FaultReason, FaultLeak,
		FaultLeakMetric, FaultDrain, FaultSigterm, FaultSocket, FaultOrphan, FaultMortal, FaultEager,
	}
}

// Run is the program's main, with the fault that the environment names.
func Run(proc serve.Process) int {
	fault := Fault(proc.Getenv(FaultKey))
	getenv := proc.Getenv
	proc.Getenv = func(key string) string {
		switch {
		case key == serve.LifetimeKey && fault == FaultOrphan:
			return serve.LifetimeNode
		case key == serve.LifetimeKey && fault == FaultMortal:
			return ""
		case key == serve.CookieKey && fault == FaultEager:
			return serve.CookieValue
		}
		return getenv(key)
	}
	p := New(&Sample{Fault: fault, Stderr: proc.Stderr})
	if fault == FaultTwice && getenv(serve.CookieKey) != "" {
		return serveHandmade(proc, p)
	}
	return serve.Run(proc, p)
}

// New is the sample as a Plugin, broken as its Fault says.
func New(s *Sample) plugin.Plugin { return &faulty{Plugin: plugin.New(s), sample: s} }

// faulty breaks what the author of a typed plugin cannot get wrong.
type faulty struct {
	plugin.Plugin

	sample    *Sample
	described atomic.Int64
}

// Metrics is the sample's.
func (f *faulty) Metrics(ctx context.Context) ([]byte, error) { return f.sample.Metrics(ctx) }

// Drain is the sample's.
func (f *faulty) Drain(ctx context.Context) error { return f.sample.Drain(ctx) }

// Info is the sample's, unless broken.
func (f *faulty) Info() plugin.Info {
	i := f.Plugin.Info()
	switch f.sample.Fault {
	case FaultDescribe:
		i.Version = "1.2." + strconv.FormatInt(f.described.Add(1), 10)
	case FaultName:
		i.Name = "Sample!"
	}
	return i
}

// Schema is the sample's, unless broken.
func (f *faulty) Schema() json.RawMessage {
	if f.sample.Fault == FaultSchema {
		return json.RawMessage(`{"type":"object","properties":7}`)
	}
	return f.Plugin.Schema()
}

// Validate is the sample's, unless broken.
func (f *faulty) Validate(ctx context.Context, raw json.RawMessage) plugin.Diagnostics {
	found := f.Plugin.Validate(ctx, raw)
	switch f.sample.Fault {
	case FaultLax:
		return nil
	case FaultPathless:
		for i := range found {
			found[i].Path = ""
		}
	}
	return found
}

// Configure is the sample's, unless broken.
func (f *faulty) Configure(ctx context.Context, s plugin.Settings) error {
	switch f.sample.Fault {
	case FaultSigterm:
		signal.Ignore(syscall.SIGTERM)
	case FaultSocket:
		if err := os.WriteFile(filepath.Join(os.Getenv(serve.SocketDirKey), "left"), nil, 0o600); err != nil {
			return err
		}
	}
	err := f.Plugin.Configure(ctx, s)
	if f.sample.Fault == FaultReason {
		f.sample.health.Degraded("it is bad", "really")
	}
	return err
}

// Health is the sample's, unless broken.
func (f *faulty) Health() *plugin.Health {
	if f.sample.Fault == FaultSilent {
		select {}
	}
	return f.Plugin.Health()
}
