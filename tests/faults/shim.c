/* Counts the calls by which a process changes a file system, over all its threads, and kills the
 * process in front of the one that it was armed for, or has that and all later ones fail. Loaded
 * with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long count;
static atomic_long armed = -1; /* -1: count nothing */
static atomic_int failing;     /* the errno of calls from `armed` on; 0: be killed there */

/* Begin to count; with `at` above 0, something happens in front of call number `at`. */
void shim_arm(long at, int error) {
    atomic_store(&count, 0);
    atomic_store(&failing, error);
    atomic_store(&armed, at);
}
long shim_count(void) { return atomic_load(&count); }
void shim_disarm(void) { atomic_store(&armed, -1); }

/* Count a call; return whether it has to fail. */
static int tick(int takes_space) {
    long at = atomic_load(&armed);
    if (at < 0) return 0;
    long number = atomic_fetch_add(&count, 1) + 1;
    int error = atomic_load(&failing);
    if (!at || number < at) return 0;
    if (!error) kill(getpid(), SIGKILL);
    if (error == ENOSPC && !takes_space) return 0;
    errno = error;
    return 1;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = dlsym(RTLD_NEXT, #name)
#define TAKES if (tick(1)) return -1
#define FREES if (tick(0)) return -1

/* Standard output and error tell the test; they change no file system. */
ssize_t write(int fd, const void *b, size_t n) { NEXT(write); if (fd > 2) TAKES; return next(fd, b, n); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { NEXT(pwrite); TAKES; return next(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { NEXT(pwrite64); TAKES; return next(fd, b, n, o); }
int fsync(int fd) { NEXT(fsync); FREES; return next(fd); }
int fdatasync(int fd) { NEXT(fdatasync); FREES; return next(fd); }
int ftruncate(int fd, off_t n) { NEXT(ftruncate); TAKES; return next(fd, n); }
int ftruncate64(int fd, off64_t n) { NEXT(ftruncate64); TAKES; return next(fd, n); }
int rename(const char *a, const char *b) { NEXT(rename); TAKES; return next(a, b); }
int renameat(int d, const char *a, int e, const char *b) { NEXT(renameat); TAKES; return next(d, a, e, b); }
int unlink(const char *p) { NEXT(unlink); FREES; return next(p); }
int unlinkat(int d, const char *p, int f) { NEXT(unlinkat); FREES; return next(d, p, f); }
int rmdir(const char *p) { NEXT(rmdir); FREES; return next(p); }
int link(const char *a, const char *b) { NEXT(link); TAKES; return next(a, b); }
int linkat(int d, const char *a, int e, const char *b, int f) { NEXT(linkat); TAKES; return next(d, a, e, b, f); }
int symlink(const char *a, const char *b) { NEXT(symlink); TAKES; return next(a, b); }
int symlinkat(const char *a, int d, const char *b) { NEXT(symlinkat); TAKES; return next(a, d, b); }
int mkdir(const char *p, mode_t m) { NEXT(mkdir); TAKES; return next(p, m); }
int mkdirat(int d, const char *p, mode_t m) { NEXT(mkdirat); TAKES; return next(d, p, m); }
int chmod(const char *p, mode_t m) { NEXT(chmod); FREES; return next(p, m); }
int fchmod(int fd, mode_t m) { NEXT(fchmod); FREES; return next(fd, m); }
int fchmodat(int d, const char *p, mode_t m, int f) { NEXT(fchmodat); FREES; return next(d, p, m, f); }
