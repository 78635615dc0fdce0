// Command etcd is the stock etcd server of the modules that Kelson links: the
// datastore of the separate processes that the benchmark compares with.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
