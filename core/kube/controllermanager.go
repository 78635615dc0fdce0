package kube

import (
	"context"
	"fmt"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
)

// ControllerManager runs kube-controller-manager until ctx ends or it fails.
func (*Embedded) ControllerManager(ctx context.Context, args []string) error {
	opts, err := parseControllerManager(args)
	if err != nil {
		return err
	}
	config, err := opts.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	forgetConfigz(app.ConfigzName)
	err = app.Run(ctx, config.Complete())
	select {
	case <-ctx.Done():
		return nil // however it takes the cancelled context
	default:
		return err
	}
}

func parseControllerManager(args []string) (*options.KubeControllerManagerOptions, error) {
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("kube-controller-manager: %w", err)
	}
	sets := opts.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	opts.ParsedFlags = &sets
	if err := parse("kube-controller-manager", sets, args); err != nil {
		return nil, err
	}
	return opts, nil
}
