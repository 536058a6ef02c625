/* Counts the calls by which a process changes a file system, over all its threads, and kills the
 * process in front of the one that it was armed for. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long count;
static atomic_long armed = -1; /* -1: count nothing */

/* Begin to count; with `at` above 0, kill the process before call number `at`. */
void shim_arm(long at) { atomic_store(&count, 0); atomic_store(&armed, at); }
long shim_count(void) { return atomic_load(&count); }

static void tick(void) {
    long at = atomic_load(&armed);
    if (at >= 0 && atomic_fetch_add(&count, 1) + 1 == at) kill(getpid(), SIGKILL);
}

/* Standard output and error tell the test; they change no file system. */
#define IF_FILE(fd) if ((fd) > 2) tick()
#define NEXT(name) static __typeof__(&name) next; if (!next) next = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *b, size_t n) { NEXT(write); IF_FILE(fd); return next(fd, b, n); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { NEXT(pwrite); tick(); return next(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { NEXT(pwrite64); tick(); return next(fd, b, n, o); }
int fsync(int fd) { NEXT(fsync); tick(); return next(fd); }
int fdatasync(int fd) { NEXT(fdatasync); tick(); return next(fd); }
int ftruncate(int fd, off_t n) { NEXT(ftruncate); tick(); return next(fd, n); }
int ftruncate64(int fd, off64_t n) { NEXT(ftruncate64); tick(); return next(fd, n); }
int rename(const char *a, const char *b) { NEXT(rename); tick(); return next(a, b); }
int renameat(int d, const char *a, int e, const char *b) { NEXT(renameat); tick(); return next(d, a, e, b); }
int unlink(const char *p) { NEXT(unlink); tick(); return next(p); }
int unlinkat(int d, const char *p, int f) { NEXT(unlinkat); tick(); return next(d, p, f); }
int rmdir(const char *p) { NEXT(rmdir); tick(); return next(p); }
int link(const char *a, const char *b) { NEXT(link); tick(); return next(a, b); }
int linkat(int d, const char *a, int e, const char *b, int f) { NEXT(linkat); tick(); return next(d, a, e, b, f); }
int symlink(const char *a, const char *b) { NEXT(symlink); tick(); return next(a, b); }
int symlinkat(const char *a, int d, const char *b) { NEXT(symlinkat); tick(); return next(a, d, b); }
int mkdir(const char *p, mode_t m) { NEXT(mkdir); tick(); return next(p, m); }
int mkdirat(int d, const char *p, mode_t m) { NEXT(mkdirat); tick(); return next(d, p, m); }
int chmod(const char *p, mode_t m) { NEXT(chmod); tick(); return next(p, m); }
int fchmod(int fd, mode_t m) { NEXT(fchmod); tick(); return next(fd, m); }
int fchmodat(int d, const char *p, mode_t m, int f) { NEXT(fchmodat); tick(); return next(d, p, m, f); }
