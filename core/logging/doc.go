// Package logging makes the host's one logger and leads everything else into
// it: klog, logrus and slog (and with it the standard library's log), each
// adapted at one place here.
//
// Invariants: one stream, one format. A library's fatal path (klog.Fatal,
// klog.FlushAndExit, logrus.Fatal) does not end the process: after
// InstallExitHandlers it reports and its goroutine blocks for ever, while all
// others can go on logging.
//
// Concurrency: the Install functions write globals of the libraries without a
// lock, as those demand; call them once, before anything that logs is started.
package logging
