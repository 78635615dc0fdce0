package node

import (
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// fatalHook names the library whose fatal path is taken after the boot, so that
// a test can see the ordered stop and the restart of the host.
const fatalHook = "KELSON_TEST_FATAL"

// forceFatal takes the path that the hook asks for.
func (s *server) forceFatal() {
	var take func()
	switch os.Getenv(fatalHook) {
	case "kine":
		take = func() { logrus.Fatal("forced by " + fatalHook) }
	case "klog":
		take = func() { klog.Fatal("forced by " + fatalHook) }
	default:
		return
	}
	time.AfterFunc(2*time.Second, take)
}
