// Package bench measures the budgets of the architecture on the shipped file,
// beside the same work done by separate stock processes, and prints a table in
// Markdown. It is run by `make bench`, as root, with KELSON naming the file;
// -quick makes a short run that shows that everything can be measured.
//
// Both subjects live in network namespaces of their own, one after the other.
// What differs is stated under the table: the stock processes are built from
// the same modules, started in parallel, and spared certificates, extraction
// and image import, which are done before the clock starts.
package bench
