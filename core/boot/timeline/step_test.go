package timeline

import "context"

// step is ready at once.
type step struct {
	name   string
	exited chan error
}

func (s step) Name() string                { return s.name }
func (s step) Start(context.Context) error { return nil }
func (s step) Ready(context.Context) error { return nil }
func (s step) Stop(context.Context) error  { return nil }
func (s step) Exited() <-chan error        { return s.exited }
