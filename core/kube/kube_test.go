package kube

import (
	"strings"
	"testing"
)

func TestArgumentsAreChecked(t *testing.T) {
	for _, tc := range []struct {
		name string
		args Args
		want string
	}{
		{"none", Args{}, ""},
		{"unknown flag of the API server", Args{APIServer: []string{"--no-such=1"}}, "kube-apiserver: unknown flag: --no-such"},
		{"bad value of the scheduler", Args{Scheduler: []string{"--secure-port=x"}}, "kube-scheduler: invalid argument"},
		{"unknown flag of the controller-manager", Args{ControllerManager: []string{"--no-such=1"}}, "kube-controller-manager: unknown flag"},
		{"a word that is no flag", Args{Scheduler: []string{"word"}}, `kube-scheduler: unexpected argument "word"`},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, tc.want, func() error { _, err := New(tc.args); return err }) })
	}
}

func TestKubeletArgumentsAreChecked(t *testing.T) {
	for _, tc := range []struct{ name, arg, want string }{
		{"configuration", "max-pods=42", ""},
		{"dashes", "--max-pods=42", ""},
		{"unknown", "no-such=1", "kubelet: unknown flag: --no-such"},
		{"bad value", "max-pods=many", "kubelet: invalid argument"},
	} {
		t.Run(tc.name, func(t *testing.T) { expect(t, tc.want, func() error { return CheckKubeletArgs([]string{tc.arg}) }) })
	}
}

func expect(t *testing.T, want string, f func() error) {
	t.Helper()
	switch err := f(); {
	case want == "" && err != nil:
		t.Error(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %s", err, want)
	}
}
