package deploy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// server answers from a table of "METHOD path" and keeps what it was asked.
type server struct {
	mu      sync.Mutex
	asked   []string
	types   []string
	answers map[string]string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	line := r.Method + " " + r.URL.RequestURI()
	if r.Method == http.MethodDelete {
		line += " " + string(body)
	}
	s.asked = append(s.asked, line)
	s.types = append(s.types, r.Header.Get("Content-Type"))
	w.Header().Set("Content-Type", "application/json")
	answer, known := s.answers[r.Method+" "+r.URL.Path]
	switch {
	case known:
		fmt.Fprint(w, answer)
	case r.Method == http.MethodPatch || r.Method == http.MethodDelete:
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	}
}

func connect(t *testing.T, answers map[string]string) (*apiCluster, *server) {
	t.Helper()
	s := &server{answers: answers}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	c, err := newCluster(&rest.Config{Host: h.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestApplyRequests(t *testing.T) {
	kinds, err := json.Marshal(map[string]any{
		"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "x.io/v1",
		"resources": []map[string]any{
			{"name": "widgets", "kind": "Widget", "namespaced": true},
			{"name": "widgets/status", "kind": "Widget", "namespaced": true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const query = "?fieldManager=kelson-addon-a&force=true"
	cases := map[string]struct{ manifest, want string }{
		"namespaced":        {"{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: ns}}", "PATCH /api/v1/namespaces/ns/configmaps/x" + query},
		"default namespace": {"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}", "PATCH /apis/apps/v1/namespaces/default/deployments/x" + query},
		"cluster-wide":      {"{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: \"system:x\"}}", "PATCH /apis/rbac.authorization.k8s.io/v1/clusterroles/system:x" + query},
		"custom":            {"{apiVersion: x.io/v1, kind: Widget, metadata: {name: w}}", "GET /apis/x.io/v1, PATCH /apis/x.io/v1/namespaces/default/widgets/w" + query},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			api, s := connect(t, map[string]string{"GET /apis/x.io/v1": string(kinds)})
			objects, err := decode("f.yaml", []byte(c.manifest))
			if err != nil {
				t.Fatal(err)
			}
			if err := api.Apply(limit(t), "a", objects[0].Unstructured); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(s.asked, ", "); got != c.want {
				t.Errorf("asked %s\nwant  %s", got, c.want)
			}
			if got := s.types[len(s.types)-1]; !strings.HasPrefix(got, "application/apply-patch+") {
				t.Errorf("content type %s is no server-side apply", got)
			}
		})
	}
}

func TestUnknownKindIsNamed(t *testing.T) {
	api, _ := connect(t, nil)
	objects, err := decode("f.yaml", []byte("{apiVersion: x.io/v1, kind: Widget, metadata: {name: w}}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Apply(limit(t), "a", objects[0].Unstructured); err == nil || !strings.Contains(err.Error(), "find kind Widget of x.io/v1") {
		t.Errorf("got %v", err)
	}
	if err := api.Remove(limit(t), "a", ref{APIVersion: "x.io/v1", Kind: "Widget", Name: "w"}); err != nil {
		t.Errorf("removing an object of a kind that is gone: %v", err)
	}
}

func TestRemoveTakesOnlyItsOwn(t *testing.T) {
	const path = "/api/v1/namespaces/n/configmaps/x"
	object := func(addon string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","uid":"u-1","labels":{"kelson.io/addon":"` + addon + `"}}}`
	}
	for name, c := range map[string]struct{ answer, want string }{
		"ours":   {object("a"), `"preconditions":{"uid":"u-1"}`},
		"others": {object("b"), ""},
		"gone":   {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]string{}
			if c.answer != "" {
				answers["GET "+path] = c.answer
			}
			api, s := connect(t, answers)
			if err := api.Remove(limit(t), "a", ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "n", Name: "x"}); err != nil {
				t.Fatal(err)
			}
			asked := strings.Join(s.asked, "\n")
			if deleted := strings.Contains(asked, "DELETE"); deleted != (c.want != "") || !strings.Contains(asked, c.want) {
				t.Errorf("asked %s, want %q", asked, c.want)
			}
		})
	}
}

// TestBuiltinKinds compares the table with the kinds that client-go knows.
func TestBuiltinKinds(t *testing.T) {
	m := newMapping(nil)
	if len(m.known) < 30 {
		t.Fatalf("only %d kinds were read from the table", len(m.known))
	}
	elsewhere := []string{"apiregistration.k8s.io", "apiextensions.k8s.io"} // not in client-go's scheme
	for gvk, r := range m.known {
		if gvk.Group == elsewhere[0] || gvk.Group == elsewhere[1] {
			continue
		}
		if !scheme.Scheme.Recognizes(gvk) {
			t.Errorf("%s does not exist", gvk)
		}
		if plural, _ := meta.UnsafeGuessKindToResource(gvk); plural != r.GroupVersionResource && gvk.Kind != "Endpoints" {
			t.Errorf("%s is served as %s, the table says %s", gvk, plural, r.GroupVersionResource)
		}
	}
	if r := m.known[schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}]; r.Namespaced {
		t.Error("a namespace is said to be in a namespace")
	}
}
