package deploy

import (
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestPackagedManifestsHaveNoUnknownField decodes each packaged object into
// its Go type: a misspelt or misplaced field would be dropped by the server.
func TestPackagedManifestsHaveNoUnknownField(t *testing.T) {
	values := map[string]string{
		tokenClusterDNS: "10.43.0.10", tokenClusterDNSList: "[10.43.0.10]", tokenDNSFamilies: "SingleStack",
		tokenClusterDomain: "cluster.local", tokenStoragePath: "/x", tokenRegistry: "", tokenAddressTypes: "InternalIP",
	}
	addons, err := packaged(os.DirFS("../../manifests"), values)
	if err != nil {
		t.Fatal(err)
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	checked := 0
	for _, files := range addons {
		for _, f := range files {
			for _, d := range split(f.Data) {
				found, err := decodeDocument(d)
				if err != nil {
					t.Fatal(err)
				}
				if !scheme.Scheme.Recognizes(found[0].GroupVersionKind()) {
					continue // the aggregator's types
				}
				if _, _, err := strict.Decode(d.Data, nil, nil); err != nil {
					t.Errorf("%s:%d: %v", f.Path, d.Line, err)
				}
				checked++
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d objects were checked", checked)
	}
}
