/*
 * auxexec starts a dynamically linked tool of bin/aux through the loader and
 * the libraries that travel with it, so that the tool runs on a host that has
 * neither. Every tool in bin/aux is a symbolic link to this static program:
 *
 *   bin/aux/<tool>          -> lib/auxexec
 *   bin/aux/lib/auxexec     this program
 *   bin/aux/lib/ld.so       the loader
 *   bin/aux/lib/            the libraries, and xtables/ with its modules
 *   bin/aux/libexec/<tool>  the real program
 *
 * All paths derive from the location of this file, because a data dir may lie
 * anywhere. The tool's name is that of the link that was executed.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what)
{
	fprintf(stderr, "kelson bin/aux: %s: ", what);
	perror(NULL);
	return 127;
}

/* locate writes the folder of this program (bin/aux/lib) to dir. */
static int locate(const char *execfn, char dir[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
	if (n > 0)
		dir[n] = '\0';
	else if (!realpath(execfn, dir)) /* no /proc, early in a container's life */
		return -1;
	char *slash = strrchr(dir, '/');
	if (!slash)
		return -1;
	*slash = '\0';
	return 0;
}

int main(int argc, char **argv)
{
	const char *execfn = (const char *)getauxval(AT_EXECFN);
	char dir[PATH_MAX], loader[PATH_MAX + 16], tool[PATH_MAX + 300], xtables[PATH_MAX + 16];

	if (!execfn || locate(execfn, dir) != 0)
		return fail("find own location");
	const char *slash = strrchr(execfn, '/');
	const char *name = slash ? slash + 1 : execfn;
	if (strlen(name) > 255)
		return fail("name too long");

	snprintf(loader, sizeof loader, "%s/ld.so", dir);
	snprintf(tool, sizeof tool, "%s/../libexec/%s", dir, name);
	snprintf(xtables, sizeof xtables, "%s/xtables", dir);
	if (access(tool, X_OK) != 0)
		return fail(tool);
	if (setenv("XTABLES_LIBDIR", xtables, 1) != 0)
		return fail("setenv");

	char **args = calloc((size_t)argc + 8, sizeof *args);
	if (!args)
		return fail("calloc");
	int n = 0;
	args[n++] = loader;
	args[n++] = "--inhibit-cache";
	args[n++] = "--library-path";
	args[n++] = dir;
	args[n++] = "--argv0";
	args[n++] = (char *)name; /* xtables and kmod choose their command by it */
	args[n++] = tool;
	for (int i = 1; i < argc; i++)
		args[n++] = argv[i];
	execve(loader, args, environ);
	return fail(loader);
}
