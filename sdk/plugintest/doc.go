// Package plugintest tests plugins over the wire that they are used on: Serve
// runs one in the test's own process over real gRPC, and Conform judges a built
// program by its socket alone, in whatever language it was written.
package plugintest
