// Package plugin is what the author of a plugin writes against: the base
// contract of every kind, as Go. The packages of the kinds (sdk/cni and its
// siblings) add theirs, sdk/serve makes a program of it, and sdk/plugintest
// tests it.
//
// A plugin with a typed configuration implements Typed; its main is
//
//	func main() {
//		p := mynet.New()
//		os.Exit(serve.Main(plugin.New(p), cni.Service(p)))
//	}
//
// Concurrency: Info, Schema and Validate may be called at any time, also
// together. Configure and Drain are called one at a time. Services of the kinds
// run beside all of them.
//
// Errors become gRPC statuses. Texts say what could not be done, in lower case
// and without the plugin's name: the host puts "cni(mynet): configure: " in
// front. Invalid, Unavailable and Unimplemented say what the host can do about
// it; Reason adds a word that programs compare. Any other error counts as a
// fault of the plugin.
package plugin
