/*
 * pause is the first process of every pod: it holds the pod's namespaces open,
 * reaps the children that are re-parented to it when the pod shares one PID
 * namespace, and ends on SIGINT or SIGTERM. It behaves as the Kubernetes pause
 * image 3.10.2 does.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef VERSION
#error "VERSION must be set by the build"
#endif

static void end(int signo)
{
	(void)signo;
	_exit(0);
}

static void reap(int signo)
{
	(void)signo;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int main(int argc, char **argv)
{
	struct sigaction act;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-v") == 0) {
			puts("pause " VERSION);
			return 0;
		}
	}
	if (getpid() != 1)
		fputs("warning: pause should be the first process of a pod\n", stderr);

	memset(&act, 0, sizeof(act));
	act.sa_handler = end;
	if (sigaction(SIGINT, &act, NULL) < 0)
		return 1;
	if (sigaction(SIGTERM, &act, NULL) < 0)
		return 2;
	act.sa_handler = reap;
	act.sa_flags = SA_NOCLDSTOP;
	if (sigaction(SIGCHLD, &act, NULL) < 0)
		return 3;
	for (;;)
		pause();
}
