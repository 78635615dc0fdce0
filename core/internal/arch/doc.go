// Package arch holds the repository's structural rules as tests: who may
// import whom, where a process may end, how long a file or a function may be,
// that packages and exported identifiers are documented.
//
// The rules work on the tree as files (go/parser, nothing compiled), so they
// take a second and see nested modules too. A rule that has to bend does so in
// the exceptions table of exceptions_test.go, with a reason; an exception that
// is no longer needed fails the test as well.
package arch
