// Calls that C libraries do not have yet; the last line is "done".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { IO_URING_SETUP = 425, FCHMODAT2 = 452, SETXATTRAT = 463, GETXATTRAT, LISTXATTRAT, REMOVEXATTRAT };
struct xattr_args { uint64_t value; uint32_t size, flags; };

static long done(long result, const char *what) {
	if (result >= 0) return result;
	perror(what);
	exit(1);
}

// rw for the owner, r for user 1234, nothing else.
static const unsigned char list[] = {
	2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xd2, 4, 0, 0,
	4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255 };
static const char name[] = "system.posix_acl_access";

int main(void) {
	unsigned char seen[64];
	char names[256];
	struct stat s;
	long fd = done(open("file", O_CREAT | O_RDWR, 0644), "open"), len;
	struct xattr_args in = { (uintptr_t)list, sizeof list, 0 }, out = { (uintptr_t)seen, sizeof seen, 0 };
	done(syscall(SETXATTRAT, AT_FDCWD, "file", 0, name, &in, sizeof in), "setxattrat");
	len = done(syscall(GETXATTRAT, fd, "", AT_EMPTY_PATH, name, &out, sizeof out), "getxattrat");
	printf("list %s\n", len == sizeof list && !memcmp(seen, list, sizeof list) ? "kept" : "lost");
	len = done(syscall(LISTXATTRAT, AT_FDCWD, "file", 0, names, sizeof names), "listxattrat");
	for (char *at = names; at < names + len; at += strlen(at) + 1) printf("name %s\n", at);
	done(syscall(FCHMODAT2, fd, "", 0600, AT_EMPTY_PATH), "fchmodat2");
	done(syscall(REMOVEXATTRAT, AT_FDCWD, "file", 0, name), "removexattrat");
	len = syscall(GETXATTRAT, AT_FDCWD, "file", 0, name, &out, sizeof out);
	printf("removed %s\n", len < 0 && errno == ENODATA ? "yes" : "no");
	done(fstat(fd, &s), "fstat");
	printf("mode %o\n", s.st_mode);
	memset(seen, 0, sizeof seen);
	len = syscall(IO_URING_SETUP, 1, names);
	printf("ring %s\n", len < 0 && errno == ENOSYS ? "none" : "some");
	puts("done");
	return 0;
}
