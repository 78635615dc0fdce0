// Package testkit runs the shipped file from outside, as a user would, and
// gives tests what a real server needs: network namespaces, a resolver, short
// data dirs, waits that keep their last reason, and a clean-up that proves it
// left nothing behind.
//
// Invariants: nothing touches the host's own network (a node and its outside
// world are both namespaces made here); only processes that belong to a test's
// data dir or run dir are ended, by pid; every resource is removed in
// t.Cleanup, after a failure too. A Server or Network is used from one test
// and its subtests; methods that take a testing.TB may run concurrently unless
// they start or stop the server.
//
// Environment: KELSON is the file under test; KELSON_NEXT a build of a later
// version; KELSON_ARTIFACTS a folder that receives the logs of failed tests.
package testkit
