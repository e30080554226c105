// A process that becomes somebody else, in the ways that lead elsewhere than setuid(2)
// alone: a daemon whose parent has ended, ids for files, a setuid program, files that are
// not his to give away. The last line is "done".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void failed(const char *what) {
	perror(what);
	exit(1);
}

static void make(const char *name) {
	int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
	if (fd < 0) failed(name);
	close(fd);
}

static void show(const char *name) {
	struct stat s;
	if (lstat(name, &s)) failed(name);
	printf("%s %u:%u %o\n", name, s.st_uid, s.st_gid, s.st_mode & 07777);
	fflush(stdout);
}

static void ids(const char *what) {
	unsigned r, e, s, gr, ge, gs;
	if (getresuid(&r, &e, &s) || getresgid(&gr, &ge, &gs)) failed("getresuid");
	printf("%s %u %u %u, %u %u %u\n", what, r, e, s, gr, ge, gs);
	fflush(stdout);
}

static void become(void) {
	gid_t groups[] = {9};
	if (setgroups(1, groups) || setgid(8) || setuid(7)) failed("setuid");
}

// Its parent has been waited for before its first call that anybody looks at.
static void daemonized(void) {
	int go[2], gone[2];
	char byte;
	if (pipe(go) || pipe(gone)) failed("pipe");
	pid_t parent = fork();
	if (parent == 0) {
		become();
		if (fork() == 0) {
			if (read(go[0], &byte, 1) != 1) _exit(1);
			ids("daemon");
			make("daemon");
			_exit(write(gone[1], "x", 1) != 1);
		}
		_exit(0);
	}
	waitpid(parent, NULL, 0);
	if (write(go[1], "x", 1) != 1 || read(gone[0], &byte, 1) != 1) failed("daemon");
	show("daemon");
}

static void expect(int result, int error, const char *what) {
	if (result == 0 ? error != 0 : errno != error) {
		printf("%s: %s\n", what, result ? strerror(errno) : "done");
		exit(1);
	}
}

static void gives(void) {
	const struct rlimit limit = {5, 5}, none = {0, 0};
	struct rlimit now = none;
	make("his");
	expect(chown("his", 0, -1), EPERM, "chown to root");
	expect(chown("his", 7, 4), EPERM, "chgrp to a foreign group");
	expect(chown("roots", 7, 8), EPERM, "chown of root's");
	expect(chown("roots", -1, -1), 0, "chown of nothing");
	expect(chown("his", 7, 9), 0, "chgrp to an own group");
	// Nothing that a process does to its limits makes it root again.
	expect(setrlimit(RLIMIT_LOCKS, &limit), 0, "setrlimit");
	expect(prlimit(0, RLIMIT_LOCKS, &limit, NULL), 0, "prlimit");
	expect(prlimit(0, RLIMIT_LOCKS, NULL, &now), 0, "prlimit");
	if (now.rlim_max == 5) failed("the limit was set");
	show("his");
	show("roots");
}

int main(int argc, char **argv) {
	umask(022);
	if (argc > 1) {
		ids(argv[1]);
		make(argv[1]);
		show(argv[1]);
		return 0;
	}
	daemonized();
	make("roots");
	setfsgid(6);
	setfsuid(5);
	make("fs");
	if (setfsuid(-1) != 5 || setfsgid(-1) != 6) failed("setfsuid");
	setfsuid(0);
	setfsgid(0);
	show("fs");
	char script[] = "script";
	int fd = open(script, O_CREAT | O_WRONLY, 0755);
	if (fd < 0 || write(fd, "#!/bin/sh\nid -u\n", 16) != 16 || close(fd)) failed(script);
	if (chown(script, 11, 12) || chmod(script, 06755)) failed(script);
	if (fork() == 0) {
		become();
		gives();
		if (fork() == 0) execl("./script", "script", NULL);
		wait(NULL);
		if (fork() == 0) execl("/somebody", "somebody", "plain", NULL);
		wait(NULL);
		if (fork() == 0) execl("/set", "set", "set", NULL);
		wait(NULL);
		execl("/root-set", "root-set", "root-set", NULL);
		failed("execl");
	}
	wait(NULL);
	ids("end");
	puts("done");
	return 0;
}
