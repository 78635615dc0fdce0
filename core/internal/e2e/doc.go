// Package e2e tests the shipped file from outside: real servers with real
// containers, each in a network namespace that leads nowhere, so that every
// boot here is also proof that nothing is pulled.
//
// The tests need root and the environment variable KELSON (the built file);
// KELSON_NEXT (a build of a later version) for the upgrade. Every wait has a
// generous deadline; none asserts speed, which is the benchmark's matter. At
// most two servers run at once.
package e2e
