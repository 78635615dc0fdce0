// Package metricsserver pins the module that the metrics-server image is built
// from; the image's program is the module's own cmd/metrics-server.
package metricsserver
