// Installs a package with the calls of apk-tools: every file is made under a
// temporary name below the descriptor of a root directory, given its owner and
// renamed; a script is written there and executed after fchdir(2) and chroot(2).
// Directories come first, then symbolic and hard links, devices and files.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int root;

static void check(int result, const char *what) {
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static const char *temporary(const char *name) {
	static char path[256];
	const char *slash = strrchr(name, '/');
	snprintf(path, sizeof path, "%.*s.apk.%08x", slash ? (int)(slash - name) + 1 : 0, name, rand());
	return path;
}

// What a name of the package is, its owner, its mode, and what it says.
static void extract(const char *name, mode_t mode, uid_t uid, gid_t gid, const char *data, dev_t dev) {
	const char *temp = temporary(name);
	struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
	if (S_ISDIR(mode)) {
		check(mkdirat(root, name, mode & 07777), name);
		temp = name;
	} else if (S_ISLNK(mode)) {
		check(symlinkat(data, root, temp), temp);
	} else if (S_ISREG(mode)) {
		int fd = openat(root, temp, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC | O_EXCL, mode & 07777);
		check(fd, temp);
		check(write(fd, data, strlen(data)), temp);
		check(close(fd), temp);
	} else {
		check(mknodat(root, temp, mode, dev), temp);
	}
	check(fchownat(root, temp, uid, gid, AT_SYMLINK_NOFOLLOW), "fchownat");
	// chown(2) takes these bits off.
	if (mode & 07000) check(fchmodat(root, temp, mode & 07777, 0), "fchmodat");
	if (S_ISREG(mode) && strstr(name, "cap")) {
		static const char value[] = "\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
		int fd = openat(root, temp, O_RDWR | O_CLOEXEC);
		check(fd, temp);
		check(fsetxattr(fd, "security.capability", value, 20, 0), "fsetxattr");
		close(fd);
	}
	check(utimensat(root, temp, times, AT_SYMLINK_NOFOLLOW), "utimensat");
	if (temp != name) check(renameat(root, temp, root, name), "renameat");
	struct stat s;
	check(fstatat(root, name, &s, AT_SYMLINK_NOFOLLOW), name);
	if (s.st_uid != uid || s.st_gid != gid || s.st_mode != mode || s.st_rdev != dev) {
		printf("%s is %u:%u %o\n", name, s.st_uid, s.st_gid, s.st_mode);
		exit(1);
	}
}

static void script(const char *name, const char *text) {
	char path[128];
	snprintf(path, sizeof path, "lib/apk/exec/probe-1-r0.%s", name);
	int fd = openat(root, path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0755);
	check(fd, path);
	check(write(fd, text, strlen(text)), path);
	close(fd);
	pid_t child = fork();
	if (child == 0) {
		umask(022);
		check(fchdir(root), "fchdir");
		check(chroot("."), "chroot");
		check(chdir("/"), "chdir");
		char *argv[] = {path, "1-r0", "", NULL}, *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
		execve(path, argv, env);
		check(-1, path);
	}
	int status;
	check(waitpid(child, &status, 0), "waitpid");
	if (status) {
		printf("%s: %x\n", name, status);
		exit(1);
	}
	check(unlinkat(root, path, 0), path);
}

int main(int argc, char **argv) {
	root = openat(AT_FDCWD, argv[argc - 1], O_RDONLY | O_CLOEXEC);
	check(root, "root");
	umask(0);
	for (const char *dir = "lib\0lib/apk\0lib/apk/exec\0"; *dir; dir += strlen(dir) + 1)
		if (mkdirat(root, dir, 0755) && faccessat(root, dir, F_OK, 0)) check(-1, dir);
	script("pre-install", "#!/bin/sh\nset -e\necho 'probe:x:611:612::/srv:/bin/sh' >>/etc/passwd\n"
	       "echo 'probe:x:612:' >>/etc/group\n");
	extract("srv", S_IFDIR | 02750, 611, 612, NULL, 0);
	extract("srv/plain", S_IFREG | 0640, 611, 612, "plain\n", 0);
	extract("srv/suid", S_IFREG | 06755, 0, 612, "suid\n", 0);
	extract("srv/cap", S_IFREG | 0755, 0, 0, "cap\n", 0);
	extract("srv/link", S_IFLNK | 0777, 611, 0, "plain", 0);
	extract("srv/fifo", S_IFIFO | 0600, 0, 612, NULL, 0);
	extract("srv/null", S_IFCHR | 0666, 0, 3, NULL, makedev(1, 3));
	extract("srv/disk", S_IFBLK | 0660, 0, 6, NULL, makedev(8, 1));
	const char *hard = temporary("srv/hard");
	check(linkat(root, "srv/plain", root, hard, 0), "linkat");
	check(renameat(root, hard, root, "srv/hard"), "renameat");
	script("post-install", "#!/bin/sh\nset -e\nchown probe:probe /etc/marker\nmkdir -p /var/lib/probe\n"
	       "chown -R probe /var/lib/probe\nstat -c '%U:%G %a' /srv/plain >/var/lib/probe/said\n"
	       "test -c /srv/null\nsu probe -c 'id -u; touch /tmp/mine' >>/var/lib/probe/said\n");
	return 0;
}
