package kube

import (
	"context"
	"fmt"

	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
)

// Scheduler runs kube-scheduler until ctx ends or it fails.
func (*Embedded) Scheduler(ctx context.Context, args []string) error {
	opts, err := parseScheduler(args)
	if err != nil {
		return err
	}
	name, err := cache.NewInformerName("kube-scheduler")
	if err != nil {
		return fmt.Errorf("name informers: %w", err)
	}
	defer name.Release()
	opts.InformerName = name
	cc, sched, err := app.Setup(ctx, opts)
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	forgetConfigz("componentconfig")
	err = app.Run(ctx, cc, sched)
	if ctx.Err() != nil {
		return nil // its answer to a cancelled context is an error
	}
	return err
}

func parseScheduler(args []string) (*options.Options, error) {
	opts := options.NewOptions()
	if err := parse("kube-scheduler", *opts.Flags, args); err != nil {
		return nil, err
	}
	return opts, nil
}
