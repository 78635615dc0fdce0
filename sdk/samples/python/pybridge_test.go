// Package python tests pybridge, a plugin in another language that was written
// from docs/plugin-wire.md alone: by the kits that judge every plugin, and by
// go-plugin's own client.
package python

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/kelson-io/kelson/sdk/manifest"
	"github.com/kelson-io/kelson/sdk/plugintest"
	cniv1 "github.com/kelson-io/kelson/sdk/proto/cni/v1"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

var update = flag.Bool("update", false, "write plugin.yaml anew")

const (
	folder      = "pybridge"         // of the plugin
	interpreter = "/usr/bin/python3" // as in the first line of pybridge.py
	deadline    = 30 * time.Second
)

// program is the path of the sample.
func program(t *testing.T) string {
	t.Helper()
	if out, err := exec.Command(interpreter, "-I", "-c", "import grpc, google.protobuf.message_factory").CombinedOutput(); err != nil {
		t.Skipf("needs the Debian packages python3-grpcio and python3-protobuf (make deps): %s %v", lastLine(out), err)
	}
	path, err := filepath.Abs(filepath.Join(folder, "pybridge.py"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func lastLine(out []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return lines[len(lines)-1]
}

// socketDir is short enough for the path of a socket.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kp") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestConform is the kit that judges every plugin.
func TestConform(t *testing.T) {
	plugintest.Conform(t, plugintest.Program{
		Path: program(t), Lifetime: readManifest(t).Lifetime, Config: json.RawMessage(`{"bridge":"conform0","mtu":1400}`),
	})
}

// connect is what go-plugin's client asks for.
type connect struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (connect) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error { return nil }

func (connect) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// TestStockClient takes go-plugin's client as it is: broker and stdio streams,
// which the plugin does not have, and its health check.
func TestStockClient(t *testing.T) {
	dir := socketDir(t)
	cmd := exec.Command(program(t))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), goplugin.EnvUnixSocketDir + "=" + dir}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "KELSON_PLUGIN", MagicCookieValue: "kelson.plugin.v1"},
		Plugins:          goplugin.PluginSet{"plugin": connect{}},
		Cmd:              cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     deadline,
		Logger:           hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Info}),
	})
	defer client.Kill()
	rpc, err := client.Client()
	if err != nil {
		t.Fatal(err)
	}
	if err := rpc.Ping(); err != nil {
		t.Errorf("health check: %v", err)
	}
	raw, err := rpc.Dispense("plugin")
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := raw.(*grpc.ClientConn)
	if !ok {
		t.Fatalf("dispensed a %T", raw)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	got, err := pluginv1.NewPluginClient(conn).Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	agree(t, got)
}

// agree compares with plugin.yaml what the plugin says of itself.
func agree(t *testing.T, got *pluginv1.DescribeResponse) {
	t.Helper()
	m := readManifest(t)
	want := &pluginv1.DescribeResponse{
		Kind: m.Kind, Name: m.Name, Version: m.Version, Summary: m.Summary,
		Protocols: m.Protocols, Capabilities: m.Capabilities, ConfigSchema: got.GetConfigSchema(),
	}
	if !proto.Equal(got, want) {
		t.Errorf("plugin.yaml says %v, the plugin %v", want, got)
	}
	var declared, described any
	if err := json.Unmarshal(m.ConfigSchema, &declared); err != nil {
		t.Fatalf("schema of plugin.yaml: %v", err)
	}
	if err := json.Unmarshal(got.GetConfigSchema(), &described); err != nil {
		t.Fatalf("schema of the plugin: %v", err)
	}
	if !reflect.DeepEqual(declared, described) {
		t.Errorf("the schema of plugin.yaml is %s, the plugin's is %s", m.ConfigSchema, got.GetConfigSchema())
	}
}

func manifestPath() string { return filepath.Join(folder, manifest.FileName) }

func readManifest(t *testing.T) manifest.Manifest {
	t.Helper()
	raw, err := os.ReadFile(manifestPath())
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse(raw, manifestPath())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestManifest keeps the digests of plugin.yaml right; -update writes them.
func TestManifest(t *testing.T) {
	raw, err := os.ReadFile(manifestPath())
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	m := readManifest(t)
	for name, want := range m.Files {
		content, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		found := "sha256:" + hex.EncodeToString(sum[:])
		if found != want && !*update {
			t.Errorf("%s: plugin.yaml says %s, it is %s (go test -run TestManifest -update)", name, want, found)
		}
		text = strings.ReplaceAll(text, want, found)
	}
	if *update {
		if err := os.WriteFile(manifestPath(), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestContract compares contract.binpb with the contract that Go compiles.
func TestContract(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(folder, "contract.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	found := map[string]*descriptorpb.FileDescriptorProto{}
	for _, f := range set.GetFile() {
		found[f.GetName()] = f
	}
	for _, file := range []protoreflect.FileDescriptor{pluginv1.File_plugin_v1_plugin_proto, cniv1.File_cni_v1_cni_proto} {
		if !proto.Equal(found[file.Path()], protodesc.ToFileDescriptorProto(file)) {
			t.Errorf("contract.binpb has another %s than the generated code: run make proto", file.Path())
		}
	}
}

// TestByHand runs it as a curious user does.
func TestByHand(t *testing.T) {
	cmd := exec.Command(program(t))
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "plugin of kind cni") {
		t.Errorf("got %v, %q; want help and a failure", err, out)
	}
}

// TestMissingPackages shows the remedy, which nobody else can give.
func TestMissingPackages(t *testing.T) {
	cmd := exec.Command(interpreter, "-I", "-S", program(t)) // -S leaves out the packages of the distribution
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "apt-get install -y python3-grpcio python3-protobuf") {
		t.Errorf("got %v, %q; want a failure that names the packages", err, out)
	}
}
