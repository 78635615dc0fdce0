package node

import (
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// FatalHook is the environment variable that names the library whose fatal path is taken after the boot, so that
// a test can see the ordered stop and the restart of the host.
const FatalHook = "KELSON_TEST_FATAL"

// forceFatal takes the path that the hook asks for.
func (s *server) forceFatal() {
	var take func()
	switch os.Getenv(FatalHook) {
	case "kine":
		take = func() { logrus.Fatal("forced by " + FatalHook) }
	case "klog":
		take = func() { klog.Fatal("forced by " + FatalHook) }
	default:
		return
	}
	time.AfterFunc(2*time.Second, take)
}
