// Package pluginv1 is the base contract of every plugin, generated from
// plugin.proto, which is its specification.
package pluginv1
