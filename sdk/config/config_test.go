package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kelson-io/kelson/sdk/config"
)

var update = flag.Bool("update", false, "write the golden files")

type backend string

type peer struct {
	Address netip.Addr `kelson:"address,required" doc:"where it is"`
	Weight  float64    `kelson:"weight,default=1.5,min=0,max=10"`
}

type full struct {
	Name     string            `kelson:"name,required,min=1,max=8" doc:"what it is called"`
	Backend  backend           `kelson:"backend,default=vxlan,enum=vxlan|host-gw|wireguard-native"`
	Enabled  bool              `kelson:"enabled,default=true"`
	Offset   int               `kelson:"offset,min=-5,max=5"`
	Small    int8              `kelson:"small"`
	Port     uint16            `kelson:"port,default=8472,min=1"`
	Big      uint64            `kelson:"big"`
	Timeout  time.Duration     `kelson:"timeout,default=5s,min=100ms,max=1m" doc:"how long to wait"`
	Modes    []string          `kelson:"modes,default=a|b,enum=a|b|c,min=1,max=2"`
	Peers    []peer            `kelson:"peers,max=2"`
	Labels   map[string]string `kelson:"labels,max=2"`
	Nested   peerless          `kelson:"nested"`
	Optional *peer             `kelson:"optional"`
	Maybe    *int              `kelson:"maybe,min=1"`
	Extra    json.RawMessage   `kelson:"extra"`
	Key      config.Secret     `kelson:"key"`
	Skipped  chan int          `kelson:"-"`
	hidden   int
}

type peerless struct {
	Level int `kelson:"level,default=3"`
}

func TestSchemaGolden(t *testing.T) {
	raw := config.Schema[full]()
	var indented bytes.Buffer
	if err := json.Indent(&indented, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	got := append(indented.Bytes(), '\n')
	golden := filepath.Join("testdata", "full.schema.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("schema differs from %s; -update writes it:\n%s", golden, got)
	}
	compile(t, raw)
}

func compile(t testing.TB, raw json.RawMessage) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("mem:///schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///schema.json")
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return s
}

func TestDefaults(t *testing.T) {
	got, found := config.Decode[full]([]byte(`{"name":"x"}`), nil)
	if len(found) > 0 {
		t.Fatal(found)
	}
	want := full{
		Name: "x", Backend: "vxlan", Enabled: true, Port: 8472, Timeout: 5 * time.Second,
		Modes: []string{"a", "b"}, Nested: peerless{Level: 3},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.hidden != 0 {
		t.Error("an unexported field was set")
	}
}

func TestValues(t *testing.T) {
	raw := `{"name":"näme","backend":"host-gw","enabled":false,"offset":-5,"small":-128,"port":1.0,"big":18446744073709551615,
		"timeout":"1m","modes":["c"],"peers":[{"address":"10.0.0.1"},{"address":"fd00::1","weight":2}],
		"labels":{"a.b":"c"},"nested":{"level":1e2},"optional":{"address":"::1"},"maybe":7,"extra":{"b":[1,null],"a":"<"},
		"key":{"secret":"psk"}}`
	got, found := config.Decode[full]([]byte(raw), map[string]json.RawMessage{"psk": []byte(`"s3cret\n"`)})
	if len(found) > 0 {
		t.Fatal(found)
	}
	seven := 7
	want := full{
		Name: "näme", Backend: "host-gw", Offset: -5, Small: -128, Port: 1, Big: 18446744073709551615,
		Timeout: time.Minute, Modes: []string{"c"},
		Peers:    []peer{{netip.MustParseAddr("10.0.0.1"), 1.5}, {netip.MustParseAddr("fd00::1"), 2}},
		Labels:   map[string]string{"a.b": "c"},
		Nested:   peerless{Level: 100},
		Optional: &peer{netip.MustParseAddr("::1"), 1.5},
		Maybe:    &seven, Extra: json.RawMessage(`{"a":"\u003c","b":[1,null]}`), Key: got.Key,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Key.Reveal() != "s3cret\n" || got.Key.Name() != "psk" {
		t.Errorf("secret %q = %q", got.Key.Name(), got.Key.Reveal())
	}
}

func TestDiagnostics(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		{"empty", ``, `name: is required`},
		{"not JSON", `{"name":`, `is not valid JSON: unexpected end of JSON input`},
		{"trailing comma", `{"name":"x",}`, `is not valid JSON: invalid character '}' looking for beginning of object key string`},
		{"two values", `{} {}`, `is not valid JSON: invalid character '{' after top-level value`},
		{"not UTF-8", "{\"name\":\"\xff\"}", `is not valid JSON: not UTF-8`},
		{"not an object", `[]`, `must be an object, not a list`},
		{"null", `null`, `must be an object, not null (leave the key out)`},
		{"near key", `{"name":"x","backnd":"vxlan"}`, `backnd: unknown key (did you mean "backend"?)`},
		{"case matters", `{"Name":"x"}`, `Name: unknown key (did you mean "name"?); name: is required`},
		{"far key", `{"name":"x","nested":{"zzzzzz":1}}`, `nested.zzzzzz: unknown key (valid: level)`},
		{"twice", `{"name":"x","name":"y"}`, `name: is given twice`},
		{"too short", `{"name":""}`, `name: must be at least 1 characters long`},
		{"too long", `{"name":"123456789"}`, `name: must be at most 8 characters long`},
		{"enum", `{"name":"x","backend":"vxlam"}`, `backend: must be one of vxlan, host-gw, wireguard-native (did you mean "vxlan"?)`},
		{"null value", `{"name":"x","port":null}`, `port: must be a whole number from 0 to 65535, not null (leave the key out)`},
		{"string for number", `{"name":"x","port":"1"}`, `port: must be a whole number from 0 to 65535, not a string`},
		{"fraction", `{"name":"x","offset":1.5}`, `offset: must be a whole number from -9223372036854775808 to 9223372036854775807`},
		{"overflow", `{"name":"x","small":128}`, `small: must be a whole number from -128 to 127`},
		{"overflow by exponent", `{"name":"x","small":1e3}`, `small: must be a whole number from -128 to 127`},
		{"huge exponent", `{"name":"x","big":1e999999999}`, `big: must be a whole number from 0 to 18446744073709551615`},
		{"negative", `{"name":"x","port":-1}`, `port: must be a whole number from 0 to 65535`},
		{"below", `{"name":"x","port":0}`, `port: must be at least 1`},
		{"above", `{"name":"x","offset":6}`, `offset: must be at most 5`},
		{"duration", `{"name":"x","timeout":"5"}`, `timeout: must be a duration (write it like "1m30s")`},
		{"short duration", `{"name":"x","timeout":"99ms"}`, `timeout: must be at least 100ms`},
		{"long duration", `{"name":"x","timeout":"61s"}`, `timeout: must be at most 1m`},
		{"list", `{"name":"x","modes":"a"}`, `modes: must be a list, not a string`},
		{"no entry", `{"name":"x","modes":[]}`, `modes: must be at least 1 entries long`},
		{"entry", `{"name":"x","modes":["a","x"]}`, `modes.1: must be one of a, b, c (valid: a, b, c)`},
		{"in a list", `{"name":"x","peers":[{"address":"10.0.0.1"},{}]}`, `peers.1.address: is required`},
		{"text", `{"name":"x","peers":[{"address":"10.0.0"}]}`, `peers.0.address: ParseAddr("10.0.0"): IPv4 address too short`},
		{"float", `{"name":"x","peers":[{"address":"::1","weight":10.5}]}`, `peers.0.weight: must be at most 10`},
		{"map", `{"name":"x","labels":{"a":1}}`, `labels.a: must be a string, not a number`},
		{"pointer", `{"name":"x","maybe":0}`, `maybe: must be at least 1`},
		{"bool", `{"name":"x","enabled":"yes"}`, `enabled: must be a boolean, not a string`},
		{"all at once", `{"offset":9,"x":1}`, `x: unknown key (valid: name, backend, enabled, offset, small, port, big, timeout, modes, peers, labels, nested, optional, maybe, extra, key); name: is required; offset: must be at most 5`},
		{"secret as text", `{"name":"x","key":"hunter2"}`, `key: must refer to a secret (write {"secret": "NAME"} and give the value as secret NAME)`},
		{"secret with more", `{"name":"x","key":{"secret":"a","value":"hunter2"}}`, `key: must refer to a secret (write {"secret": "NAME"} and give the value as secret NAME)`},
		{"no such secret", `{"name":"x","key":{"secret":"b"}}`, `key: there is no secret "b" (give the plugin a secret of this name)`},
		{"bad secret", `{"name":"x","key":{"secret":"bad"}}`, `key: the value of secret "bad" is not a JSON string`},
	}
	secrets := map[string]json.RawMessage{"a": []byte(`"hunter2"`), "bad": []byte(`hunter2`)}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, found := config.Decode[full]([]byte(tt.raw), secrets)
			err := found.Err()
			if err == nil {
				t.Fatalf("no error, want %s", tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the message shows a secret")
			}
		})
	}
}

func TestDeepNesting(t *testing.T) {
	raw := `{"name":"x","extra":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`
	_, found := config.Decode[full]([]byte(raw), nil)
	if err := found.Err(); err == nil || !strings.Contains(err.Error(), "nested deeper than 64 levels") {
		t.Errorf("got %v", err)
	}
}

func TestUnresolvedSecret(t *testing.T) {
	c, found := config.Decode[full]([]byte(`{"name":"x","key":{"secret":"psk"}}`), nil)
	if len(found) > 0 || !c.Key.IsSet() || c.Key.Name() != "psk" || c.Key.Reveal() != "" {
		t.Errorf("%v: set %v, name %q", found, c.Key.IsSet(), c.Key.Name())
	}
}

func TestRequiredInside(t *testing.T) {
	type inner struct {
		Must string `kelson:"must,required"`
	}
	type outer struct {
		Inner inner  `kelson:"inner"`
		Maybe *inner `kelson:"maybe"`
	}
	_, found := config.Decode[outer](nil, nil)
	if got := found.Err(); got == nil || got.Error() != "inner.must: is required" {
		t.Errorf("got %v", got)
	}
	if s := string(config.Schema[outer]()); !strings.Contains(s, `"required":["inner"]`) {
		t.Errorf("the schema does not require inner: %s", s)
	}
}

func TestInspect(t *testing.T) {
	type loop struct {
		Again []struct{} `kelson:"again"`
		Self  *loop      `kelson:"self"`
	}
	tests := []struct {
		err  error
		want string
	}{
		{config.Inspect[full](), ""},
		{config.Inspect[int](), "not a struct"},
		{config.Inspect[loop](), "contains itself"},
		{config.Inspect[struct{ A int }](), `field A needs a tag kelson:"name", or kelson:"-"`},
		{config.Inspect[struct {
			a int `kelson:"a"`
		}](), "field a has a tag but is not exported"},
		{config.Inspect[struct {
			A int `kelson:"a.b"`
		}](), `key "a.b"`},
		{config.Inspect[struct {
			A int `kelson:"a"`
			B int `kelson:"a"`
		}](), `a second key "a"`},
		{config.Inspect[struct {
			A chan int `kelson:"a"`
		}](), "chan int cannot be configured"},
		{config.Inspect[struct {
			A map[int]string `kelson:"a"`
		}](), "keys of a map must be strings"},
		{config.Inspect[struct {
			A **int `kelson:"a"`
		}](), "a pointer adds nothing here"},
		{config.Inspect[struct {
			A int `kelson:"a,requird"`
		}](), `unknown option "requird"`},
		{config.Inspect[struct {
			A int `kelson:"a,required,default=1"`
		}](), "needs no default"},
		{config.Inspect[struct {
			A int `kelson:"a,max=5,default=9"`
		}](), `default "9" must be at most 5`},
		{config.Inspect[struct {
			A int `kelson:"a,default=x"`
		}](), `default "x"`},
		{config.Inspect[struct {
			A config.Secret `kelson:"a,default=x"`
		}](), "only plain values"},
		{config.Inspect[struct {
			A bool `kelson:"a,min=1"`
		}](), "it has no bounds"},
		{config.Inspect[struct {
			A int `kelson:"a,enum=1|2"`
		}](), "only strings"},
		{config.Inspect[struct {
			A string `kelson:"a,min=-1"`
		}](), "a length is not negative"},
	}
	for _, tt := range tests {
		if got := tt.err; (tt.want == "") != (got == nil) || got != nil && !strings.Contains(got.Error(), tt.want) {
			t.Errorf("got %v, want %q", got, tt.want)
		}
	}
}

// TestBadType: an author's mistake shows everywhere, and lets nothing pass.
func TestBadType(t *testing.T) {
	type bad struct{ A int }
	if err := compile(t, config.Schema[bad]()).Validate(map[string]any{}); err == nil {
		t.Error("the schema of a bad type accepts {}")
	}
	if _, found := config.Decode[bad](nil, nil); !found.HasErrors() {
		t.Error("a bad type decodes")
	}
}
