package kube

import (
	"context"
	"fmt"
	"net"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

// APIServer runs kube-apiserver on the given open listener until ctx ends or
// it fails. It owns the listener from the call on. After ctx ends it drains
// its requests and returns nil.
func (*Embedded) APIServer(ctx context.Context, args []string, listener net.Listener) error {
	opts, err := parseAPIServer(args)
	if err != nil {
		return err
	}
	opts.SecureServing.Listener = listener
	completed, err := opts.Complete(ctx)
	if err != nil {
		return fmt.Errorf("complete options: %w", err)
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return fmt.Errorf("validate options: %w", utilerrors.NewAggregate(errs))
	}
	return app.Run(ctx, completed)
}

func parseAPIServer(args []string) (*options.ServerRunOptions, error) {
	opts := options.NewServerRunOptions()
	if err := parse("kube-apiserver", opts.Flags(), args); err != nil {
		return nil, err
	}
	return opts, nil
}

// validateAPIServer reports bad values of args. It works on options of its
// own, since completing them is not repeatable.
func validateAPIServer(args []string) error {
	opts, err := parseAPIServer(args)
	if err != nil {
		return err
	}
	if errs := opts.SecureServing.Validate(); len(errs) > 0 {
		return fmt.Errorf("kube-apiserver: %w", utilerrors.NewAggregate(errs))
	}
	return nil
}
