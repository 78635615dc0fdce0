package deploy

import "fmt"

// labelAddon says on every object which addon brought it.
const labelAddon = "kelson.io/addon"

// rendered is an addon as it is to be in the cluster.
type rendered struct {
	Addon   string
	Objects []object
	Faults  []error // files left out, and why
	Skipped bool
}

// render turns files into objects. A file with a fault is left out whole: it
// may be half written.
func render(s source) rendered {
	r := rendered{Addon: s.Addon, Faults: append([]error(nil), s.Faults...), Skipped: s.Skipped}
	seen := map[ref]object{}
	for _, f := range s.Files {
		objects, err := decode(f.Path, f.Data)
		if err != nil {
			r.Faults = append(r.Faults, err)
			continue
		}
		for _, o := range objects {
			id := refOf(o.Unstructured)
			if first, twice := seen[id]; twice {
				r.Faults = append(r.Faults, fmt.Errorf("%s:%d: %s is already in %s:%d", o.File, o.Line, id, first.File, first.Line))
				continue
			}
			seen[id] = o
			labels := o.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels[labelAddon] = s.Addon
			o.SetLabels(labels)
			r.Objects = append(r.Objects, o)
		}
	}
	return r
}
