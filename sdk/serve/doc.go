// Package serve makes a program of a plugin: one line in its main,
//
//	os.Exit(serve.Main(plugin.New(p), cni.Register(p)))
//
// Started by the host, the program serves the base contract and the given
// services over gRPC until it is told to end. Run by hand it prints help, and
// answers describe, schema, validate and manifest.
//
// Started by the host means that the environment has the cookie. The program
// then makes a Unix socket of mode 0600 in the folder PLUGIN_UNIX_SOCKET_DIR,
// prints one line (1|1|unix|PATH|grpc|) on its standard output, and from then
// on writes everything to its standard error. It ends after the host's
// shutdown call, and, having drained, after SIGTERM. It also ends when the host
// is gone: its standard input, if a pipe or a socket, is closed, or its parent
// has ended. With KELSON_PLUGIN_LIFETIME=node it outlives the host.
//
// In both lifetimes nobody reading its output does not hurt it (SIGPIPE is
// ignored), SIGINT is ignored, a panic in a handler is reported on standard
// error and answered as an error, and no core file holds its secrets.
package serve
