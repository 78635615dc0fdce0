package deploy

import (
	"context"
	"errors"
	"fmt"
	"sort"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// objectError says which object was not applied, and where it was read.
type objectError struct {
	object object
	err    error
}

func (e *objectError) Error() string {
	return fmt.Sprintf("%s:%d: apply %s: %v", e.object.File, e.object.Line, refOf(e.object.Unstructured), e.err)
}

func (e *objectError) Unwrap() error { return e.err }

// summary joins the faults of one attempt: the first by place, and how many
// more there are. The order is stable, so that an unchanged reason is seen to
// be unchanged.
func summary(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	sort.SliceStable(faults, func(i, j int) bool {
		a, b := &objectError{}, &objectError{}
		if !errors.As(faults[i], &a) || !errors.As(faults[j], &b) {
			return false
		}
		if a.object.File != b.object.File {
			return a.object.File < b.object.File
		}
		return a.object.Line < b.object.Line
	})
	if len(faults) == 1 {
		return faults[0]
	}
	return fmt.Errorf("%w (and %d more)", faults[0], len(faults)-1)
}

// permanent tells a refusal that only a changed manifest can mend.
func permanent(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// removeAll deletes objects in the reverse order of their waves. It goes on
// after a fault and returns the first.
func removeAll(ctx context.Context, c cluster, addon string, refs []ref) error {
	sorted := append([]ref(nil), refs...)
	rank := func(r ref) wave {
		gvk := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
		return waveOf(gvk.Group, gvk.Kind)
	}
	sort.SliceStable(sorted, func(i, j int) bool { return rank(sorted[i]) > rank(sorted[j]) })
	var first error
	for _, r := range sorted {
		if err := c.Remove(ctx, addon, r); err != nil && first == nil {
			first = fmt.Errorf("remove %s: %w", r, err)
		}
	}
	return first
}
