// Makes files in every way, in the working directory, and says whose each is.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void failed(const char *what) {
	perror(what);
	exit(1);
}

static void show(const char *name) {
	struct stat s;
	if (lstat(name, &s)) failed(name);
	printf("%s %u:%u %o\n", name, s.st_uid, s.st_gid, s.st_mode);
}

int main(int argc, char **argv) {
	if (argc > 1 && (setgid(8) || setuid(7))) failed("setuid");
	umask(027);
	if (symlink("to", "symlink")) failed("symlink");
	if (symlinkat("to", AT_FDCWD, "symlinkat")) failed("symlinkat");
	if (mkfifo("fifo", 0666)) failed("mkfifo");
	if (mknod("sock", S_IFSOCK | 0777, 0)) failed("mknod");
	if (mknod("file", 0666, 0)) failed("mknod");
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "bound"}, back = {0};
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(s, (void *)&address, sizeof address) || listen(s, 1)) failed("bind");
	if (connect(c, (void *)&address, sizeof address)) failed("connect");
	socklen_t len = sizeof back;
	if (getsockname(s, (void *)&back, &len) || strcmp(back.sun_path, "bound")) failed(back.sun_path);
	if (bind(s, (void *)&address, sizeof address) == 0) failed("bound twice");
	struct open_how how = {.flags = O_CREAT | O_WRONLY, .mode = 0666, .resolve = RESOLVE_BENEATH};
	int fd = syscall(SYS_openat2, AT_FDCWD, "how", &how, sizeof how);
	if (fd < 0 || write(fd, "x", 1) != 1) failed("openat2");
	fd = syscall(SYS_openat2, AT_FDCWD, "../how", &how, sizeof how);
	if (fd >= 0) failed("beneath");
	fd = open(".", O_TMPFILE | O_RDWR, 0666);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (fd < 0 || linkat(AT_FDCWD, path, AT_FDCWD, "nameless", AT_SYMLINK_FOLLOW)) failed("O_TMPFILE");
	if (mkdir("directory", 0777)) failed("mkdir");
	const char *all[] = {"symlink", "symlinkat", "fifo", "sock", "file",
	                     "bound", "how", "nameless", "directory"};
	for (int i = 0; i < 9; i++) show(all[i]);
	return 0;
}
