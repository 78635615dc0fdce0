package config_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/kelson-io/kelson/sdk/config"
)

// FuzzDecode: nothing panics, what Decode accepts is valid by the schema, every
// error has a summary of one line, and no message shows a secret.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `{"name":"x"}`, `{"name":"x","name":"y"}`, `[[[[`, `{"name":"x","port":1e3,"small":1.0}`,
		`{"name":"x","peers":[{"address":"10.0.0.1","weight":3}],"labels":{"":"a"},"optional":{"address":"::1"}}`,
		`{"name":"x","key":{"secret":"psk"},"timeout":"1m0.5s","modes":["a","b"],"extra":[null]}`,
		`{"name":"x","timeout":"0","nested":{"level":-0},"maybe":1,"enabled":false,"backend":"host-gw"}`,
		`{"name":"` + canary + `","key":{"secret":"psk","x":"y"}}`,
	} {
		f.Add([]byte(seed))
	}
	schema := compile(f, config.Schema[full]())
	secrets := map[string]json.RawMessage{"psk": []byte(`"` + canary + `"`), "bad": []byte(canary)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, found := config.Decode[full](raw, secrets)
		for _, d := range found {
			if d.Summary == "" || strings.Contains(d.Summary, "\n") {
				t.Errorf("summary %q", d.Summary)
			}
			if strings.Contains(d.String(), canary) && !strings.Contains(string(raw), canary) {
				t.Errorf("a secret shows: %s", d)
			}
		}
		if found.HasErrors() || len(raw) == 0 {
			return
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatalf("accepted %q: %v", raw, err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("accepted, but not valid by the schema: %q: %v", raw, err)
		}
	})
}
