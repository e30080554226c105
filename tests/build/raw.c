// A program without a C library, for x86-64 and for i386: its own entry, its own
// system calls, as the Go runtime has them. Makes files, gives them away, becomes
// somebody else, and says what it sees; the last line is "done".
//
// With NARROW i386 uses its first calls, whose ids have 16 bits.
#ifdef NARROW
enum { EXIT = 1, WRITE = 4, OPEN = 5, CHMOD = 15, MKDIR = 39, MKNOD = 14, SYMLINK = 83, RENAME = 38,
       LSTAT = 107, FSTAT = 108, STAT = 106, STATX = 383, LCHOWN = 16, FCHOWN = 95, CHOWN = 182,
       FCHOWNAT = 298, SETGROUPS = 81, GETGROUPS = 80, SETRESUID = 164, SETRESGID = 170, GETUID = 24,
       GETEUID = 49, GETGID = 47, GETRESUID = 165, SETUID = 23 };
typedef unsigned short id;
struct file { unsigned char head[8]; id mode, links, uid, gid; unsigned char rdev[8], rest[96]; };
#elif defined __i386__
enum { EXIT = 1, WRITE = 4, OPEN = 5, CHMOD = 15, MKDIR = 39, MKNOD = 14, SYMLINK = 83, RENAME = 38,
       LSTAT = 196, FSTAT = 197, STAT = 195, FSTATAT = 300, STATX = 383, LCHOWN = 198, FCHOWN = 207,
       CHOWN = 212, FCHOWNAT = 298, SETGROUPS = 206, GETGROUPS = 205, SETRESUID = 208,
       SETRESGID = 210, GETUID = 199, GETEUID = 201, GETGID = 200, GETRESUID = 209, SETUID = 213 };
typedef unsigned id;
struct file { unsigned char head[16]; unsigned mode, links, uid, gid; unsigned char rdev[8], rest[96]; };
#endif
#ifdef __i386__
static long call(long n, long a, long b, long c, long d, long e) {
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return r;
}
__asm__(".globl _start\n_start: xor %ebp,%ebp; and $-16,%esp; call start\n");
#else
enum { EXIT = 60, WRITE = 1, OPEN = 2, CHMOD = 90, MKDIR = 83, MKNOD = 133, SYMLINK = 88, RENAME = 82,
       LSTAT = 6, FSTAT = 5, STAT = 4, FSTATAT = 262, STATX = 332, LCHOWN = 94, FCHOWN = 93, CHOWN = 92,
       FCHOWNAT = 260, SETGROUPS = 116, GETGROUPS = 115, SETRESUID = 117, SETRESGID = 119,
       GETUID = 102, GETEUID = 107, GETGID = 104, GETRESUID = 118, SETUID = 105 };
static long call(long n, long a, long b, long c, long d, long e) {
	long r;
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
	                 : "rcx", "r11", "memory");
	return r;
}
typedef unsigned id;
struct file { unsigned char head[24]; unsigned mode, uid, gid, pad; unsigned char rdev[8], rest[96]; };
__asm__(".globl _start\n_start: xor %ebp,%ebp; and $-16,%rsp; call start\n");
#endif
#define CALL(n, a, b, c, d, e) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

static void put(const char *text) {
	long len = 0;
	while (text[len]) len++;
	CALL(WRITE, 1, text, len, 0, 0);
}

static void number(unsigned long n, unsigned base) {
	char text[24], *at = text + sizeof text - 1;
	*at = 0;
	do *--at = "0123456789abcdef"[n % base]; while (n /= base);
	put(at);
	put(" ");
}

static void done(long result, const char *what) {
	if (result >= 0) return;
	put(what);
	put(" failed: ");
	number(-result, 10);
	CALL(EXIT, 1, 0, 0, 0, 0);
}

static void show(const char *name, struct file *file) {
	put(name);
	put(" ");
	number(file->uid, 10);
	number(file->gid, 10);
	number(file->mode, 8);
	number(file->rdev[1], 10);
	number(file->rdev[0], 10);
	put("\n");
}

__attribute__((used)) void start(void) {
	static struct file file;
	static unsigned statx[64];
	static id ids[3];
	static const id groups[] = {(id)100000, 4};
	long fd = CALL(OPEN, "plain", 0102, 0640, 0, 0);
	done(fd, "open");
	done(CALL(FCHOWN, fd, 70001, 70002, 0, 0), "fchown");
	done(CALL(FSTAT, fd, &file, 0, 0, 0), "fstat");
	show("fstat", &file);
	done(CALL(CHOWN, "plain", -1, 5, 0, 0), "chown");
	done(CALL(STAT, "plain", &file, 0, 0, 0), "stat");
	show("stat", &file);
	done(CALL(SYMLINK, "plain", "link", 0, 0, 0), "symlink");
	done(CALL(LCHOWN, "link", 6, 7, 0, 0), "lchown");
	done(CALL(LSTAT, "link", &file, 0, 0, 0), "lstat");
	show("lstat", &file);
	done(CALL(MKNOD, "null", 020666, 0x103, 0, 0), "mknod");
	done(CALL(FCHOWNAT, -100, "null", 8, 9, 0), "fchownat");
	done(CALL(RENAME, "null", "device", 0, 0, 0), "rename");
#ifdef NARROW
	done(CALL(STAT, "device", &file, 0, 0, 0), "stat");
#else
	done(CALL(FSTATAT, -100, "device", &file, 0, 0), "fstatat");
#endif
	show("fstatat", &file);
	done(CALL(STATX, -100, "device", 0, 0x7ff, statx), "statx");
	put("statx ");
	number(statx[5], 10);
	number(statx[6], 10);
	number(statx[7] & 0xffff, 8);
	put("\n");
	done(CALL(SETGROUPS, 2, groups, 0, 0, 0), "setgroups");
	done(CALL(SETRESGID, 8, 8, 8, 0, 0), "setresgid");
	done(CALL(SETRESUID, 70000, 7, 7, 0, 0), "setresuid");
	done(CALL(GETGROUPS, 3, ids, 0, 0, 0), "getgroups");
	put("ids ");
	number(ids[0], 10);
	number(ids[1], 10);
	done(CALL(GETRESUID, &ids[0], &ids[1], &ids[2], 0, 0), "getresuid");
	for (int i = 0; i < 3; i++) number(ids[i], 10);
	number(CALL(GETUID, 0, 0, 0, 0, 0), 10);
	number(CALL(GETEUID, 0, 0, 0, 0, 0), 10);
	number(CALL(GETGID, 0, 0, 0, 0, 0), 10);
	put("\n");
	done(CALL(MKDIR, "directory", 0755, 0, 0, 0), "mkdir");
	done(CALL(LSTAT, "directory", &file, 0, 0, 0), "lstat");
	show("mkdir", &file);
	put(CALL(SETUID, 0, 0, 0, 0, 0) == -1 ? "refused\n" : "became root\n");
	put("done\n");
	CALL(EXIT, 0, 0, 0, 0, 0);
}
