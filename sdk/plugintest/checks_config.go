package plugintest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kelson-io/kelson/sdk/plugin"
	pluginv1 "github.com/kelson-io/kelson/sdk/proto/plugin/v1"
)

// unknownKey is a key that no plugin knows.
const unknownKey = "kelson-conform-unknown-key"

// starts: one socket, of mode 0600, in the folder that was named.
func starts(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	info, err := os.Lstat(pr.Socket)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(pr.dir)
	switch {
	case err != nil:
		return err
	case filepath.Dir(pr.Socket) != pr.dir:
		return fmt.Errorf("the socket %s is not in the folder %s", pr.Socket, pr.dir)
	case info.Mode() != fs.ModeSocket|0o600:
		return fmt.Errorf("the socket has mode %v, want a socket of 0600", info.Mode())
	case len(entries) != 1:
		return fmt.Errorf("there is more than the socket in its folder: %v", entries)
	}
	return pr.alive(r.ctx)
}

// describe: well formed, and the same from every incarnation.
func describe(r *run) error {
	var answers []*pluginv1.DescribeResponse
	for range 2 {
		pr, err := r.start()
		if err != nil {
			return err
		}
		for range 2 {
			d, err := r.describe(pr)
			if err != nil {
				return err
			}
			answers = append(answers, d)
		}
	}
	first := answers[0]
	for _, d := range answers[1:] {
		if !proto.Equal(first, d) {
			return fmt.Errorf("describe answers once\n%v\nand then\n%v", first, d)
		}
	}
	err := plugin.Info{Kind: first.GetKind(), Name: first.GetName(), Version: first.GetVersion(), Protocols: first.GetProtocols()}.Check()
	if s := first.GetSummary(); s == "" || strings.Contains(s, "\n") {
		err = errors.Join(err, fmt.Errorf("summary %q: want one sentence", s))
	}
	return err
}

func (r *run) describe(pr *process) (*pluginv1.DescribeResponse, error) {
	ctx, cancel := r.call()
	defer cancel()
	d, err := pr.Plugin.Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	return d, nil
}

// schema: it compiles, describes an object, and takes the good configuration.
func schema(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	d, err := r.describe(pr)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(d.GetConfigSchema()))
	if err != nil {
		return fmt.Errorf("the schema is not JSON: %w", err)
	}
	if object, ok := doc.(map[string]any); !ok || object["type"] != "object" {
		return errors.New(`the schema must have "type": "object"`)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("mem:///config.json", doc); err != nil {
		return err
	}
	compiled, err := c.Compile("mem:///config.json")
	if err != nil {
		return fmt.Errorf("compile the schema: %w", err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(r.config()))
	if err != nil {
		return err
	}
	if err := compiled.Validate(value); err != nil {
		return fmt.Errorf("the good configuration is not valid by the schema: %w", err)
	}
	return nil
}

// properties are the schemas of the configuration's own keys.
func (r *run) properties(pr *process) (map[string]map[string]any, error) {
	d, err := r.describe(pr)
	if err != nil {
		return nil, err
	}
	var s struct {
		Properties map[string]map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(d.GetConfigSchema(), &s); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	return s.Properties, nil
}

// judged are the errors about a configuration, each with a summary.
func (r *run) judged(pr *process, raw []byte) ([]*pluginv1.Diagnostic, error) {
	ctx, cancel := r.call()
	defer cancel()
	answer, err := pr.Plugin.Validate(ctx, &pluginv1.ValidateRequest{Config: raw})
	if err != nil {
		return nil, fmt.Errorf("validate %.200s: %w", raw, err)
	}
	var found []*pluginv1.Diagnostic
	for _, d := range answer.GetDiagnostics() {
		if d.GetSeverity() == pluginv1.Diagnostic_SEVERITY_UNSPECIFIED || d.GetSummary() == "" || strings.Contains(d.GetSummary(), "\n") {
			return nil, fmt.Errorf("diagnostic without severity, or without a summary of one line: %v", d)
		}
		if d.GetSeverity() == pluginv1.Diagnostic_SEVERITY_ERROR {
			found = append(found, d)
		}
	}
	return found, nil
}

// validate: the good configuration has no errors, however often it is judged.
func validate(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	for range 3 {
		found, err := r.judged(pr, r.config())
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("the good configuration has errors: %v", found)
		}
	}
	return nil
}

// with is the good configuration with one key changed.
func (r *run) with(key string, value any) ([]byte, error) {
	object := map[string]any{}
	if err := json.Unmarshal(r.config(), &object); err != nil {
		return nil, fmt.Errorf("Program.Config: %w", err)
	}
	object[key] = value
	return json.Marshal(object)
}

// refused demands an error whose path is the key, or something in it.
func (r *run) refused(pr *process, key string, value any) error {
	raw, err := r.with(key, value)
	if err != nil {
		return err
	}
	found, err := r.judged(pr, raw)
	if err != nil {
		return err
	}
	for _, d := range found {
		if d.GetPath() == key || strings.HasPrefix(d.GetPath(), key+".") {
			return nil
		}
	}
	return fmt.Errorf("validate %s: no error with the path %s, but %v", raw, key, found)
}

// unknownKeys: refused by Validate with their path, and by Configure.
func unknownKeys(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	if err := r.refused(pr, unknownKey, "x"); err != nil {
		return err
	}
	raw, err := r.with(unknownKey, "x")
	if err != nil {
		return err
	}
	request, err := r.settings(1)
	if err != nil {
		return err
	}
	request.Config = raw
	ctx, cancel := r.call()
	defer cancel()
	if _, err := pr.Plugin.Configure(ctx, request); status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("configure %s: want InvalidArgument, not %w", raw, orNil(err))
	}
	// What was refused must not stand in the way of what is good.
	return r.configure(pr, 2)
}

var errNil = errors.New("success")

func orNil(err error) error {
	if err == nil {
		return errNil
	}
	return err
}

// wrongTypes: a value of another type than the schema's has an error with its
// path.
func wrongTypes(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	properties, err := r.properties(pr)
	if err != nil {
		return err
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		switch properties[key]["type"] {
		case "string":
			errs = append(errs, r.refused(pr, key, []any{1}))
		case "boolean", "integer", "number", "array", "object":
			errs = append(errs, r.refused(pr, key, "no such type"))
		}
	}
	return errors.Join(errs...)
}

// malformed: what is no configuration at all is refused, and harms nobody.
func malformed(r *run) error {
	pr, err := r.start()
	if err != nil {
		return err
	}
	for _, raw := range []string{
		"{", "[]", "null", "1", `"x"`, "{}{}", "\xff", `{"a":1,"a":2}`,
		strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000),
	} {
		found, err := r.judged(pr, []byte(raw))
		if err != nil && status.Code(err) != codes.InvalidArgument {
			return err
		}
		if err == nil && len(found) == 0 {
			return fmt.Errorf("validate %.40q: no error", raw)
		}
		if err := pr.alive(r.ctx); err != nil {
			return fmt.Errorf("after validate %.40q: %w", raw, err)
		}
	}
	return nil
}

// configure: the same settings again, also as a later generation, change
// nothing and need nothing.
func configure(r *run) error {
	pr, err := r.configured()
	if err != nil {
		return err
	}
	before, err := r.condition(pr)
	if err != nil {
		return err
	}
	for generation := range uint64(3) {
		if err := r.configure(pr, max(1, generation)); err != nil {
			return fmt.Errorf("the same again: %w", err)
		}
	}
	after, err := r.condition(pr)
	if err != nil {
		return err
	}
	if before.GetState() == pluginv1.HealthResponse_STATE_READY && after.GetState() != before.GetState() {
		return fmt.Errorf("ready before the same settings came again, then %v", after)
	}
	return nil
}

// secrets: none shows in output, metrics, health, remarks or errors, whatever
// becomes of the configuration.
func secrets(r *run) error {
	pr, err := r.configured()
	if err != nil {
		return err
	}
	var seen strings.Builder
	note := func(answer proto.Message, err error) {
		fmt.Fprintln(&seen, answer, err)
	}
	request, err := r.settings(2)
	if err != nil {
		return err
	}
	ctx, cancel := r.call()
	defer cancel()
	note(pr.Plugin.Metrics(ctx, &pluginv1.MetricsRequest{}))
	note(r.condition(pr))
	note(pr.Plugin.Validate(ctx, &pluginv1.ValidateRequest{Config: request.GetConfig()}))
	note(pr.Plugin.Describe(ctx, &pluginv1.DescribeRequest{}))
	if request.Config, err = r.with(unknownKey, "x"); err != nil {
		return err
	}
	note(pr.Plugin.Configure(ctx, request))
	for name := range request.GetSecrets() {
		request.Secrets[name] = []byte(r.secretValues()[name]) // no JSON
	}
	request.Config = r.config()
	note(pr.Plugin.Configure(ctx, request))
	note(pr.Plugin.Drain(ctx, &pluginv1.DrainRequest{}))
	if err := pr.terminate(); err != nil {
		return err
	}
	for name, value := range r.secretValues() {
		for where, text := range map[string]string{"its output": pr.output.String(), "its answers": seen.String()} {
			if strings.Contains(text, value) {
				return fmt.Errorf("secret %q shows in %s", name, where)
			}
		}
	}
	return nil
}
