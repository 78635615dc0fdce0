// Package localpathprovisioner pins the module that the local-path-provisioner
// image is built from; the image's program is the module's own main package.
package localpathprovisioner
