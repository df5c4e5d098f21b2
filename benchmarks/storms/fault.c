/* Faults in file operations, for `LD_PRELOAD`: counts what a process does to files under a folder, and at the n-th
 * operation kills it, tears the write, or lets it fail. Disarmed until `fault_arm` is called; needs no privileges.
 *
 * Counted: open with write flags, write, pwrite, writev, sendfile, copy_file_range, fsync, fdatasync, ftruncate, rename,
 * unlink, rmdir, mkdir, link. What the C library does within itself (fopen, fwrite) and memory maps are not seen. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL = -1, TEAR = -2 }; /* other actions are the errno that the operation fails with; 0 counts alone */

static char watched[PATH_MAX];
static int armed, at, action, sticky, log_fd = -1;
static int count;

/* folder: what is watched; number: the operation, from 1, that meets the fault; what: KILL, TEAR or an errno;
 * stays: later operations that need room fail as well; log: gets a line for each operation, -1 for none. */
void fault_arm(const char *folder, int number, int what, int stays, int log) {
    snprintf(watched, sizeof watched, "%s", folder);
    at = number, action = what, sticky = stays, log_fd = log, count = 0;
    __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST);
}

void fault_disarm(void) { armed = 0; }

static void name_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void full_name(int folder, const char *name, char *path) {
    char base[PATH_MAX] = "";
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        name_of_fd(folder, base);
    }
    snprintf(path, PATH_MAX, "%.2000s/%.2000s", base, name);
}

/* Whether the operation is to fail: errno is set then; 2 where half of a write is wanted before the kill. */
static int meets(const char *operation, const char *path, int needs_room) {
    if (strncmp(path, watched, strlen(watched))) return 0;
    int number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (log_fd >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%d %s %s\n", number, operation, path);
        syscall(SYS_write, log_fd, line, (size_t)length);
    }
    if (!action || number < at || (number > at && !(sticky && needs_room))) return 0;
    if (action == KILL || (action == TEAR && !strstr(operation, "write"))) kill(getpid(), SIGKILL);
    if (action == TEAR) return 2;
    errno = action;
    return 1;
}

static int at_name(const char *operation, int folder, const char *name, int needs_room) {
    char path[PATH_MAX];
    if (!armed || !name) return 0;
    full_name(folder, name, path);
    return meets(operation, path, needs_room);
}

static int at_fd(const char *operation, int fd, int needs_room) {
    char path[PATH_MAX];
    if (!armed) return 0;
    name_of_fd(fd, path);
    return meets(operation, path, needs_room);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name, folder, parameters, arguments)                                                        \
    int name parameters {                                                                                \
        va_list list;                                                                                    \
        va_start(list, flags);                                                                           \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;                                \
        va_end(list);                                                                                    \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) && at_name("open", folder, path, 1)) return -1; \
        return NEXT(name) arguments;                                                                     \
    }
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPEN(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

#define TEARABLE(type, name, parameters, arguments, half)                  \
    type name parameters {                                                 \
        int met = at_fd("write", fd, 1);                                   \
        if (met == 2) {                                                    \
            (void)!NEXT(name) half;                                        \
            kill(getpid(), SIGKILL);                                       \
        }                                                                  \
        return met ? -1 : NEXT(name) arguments;                            \
    }
TEARABLE(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
TEARABLE(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t to), (fd, data, size, to), (fd, data, size / 2, to))
TEARABLE(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t to), (fd, data, size, to), (fd, data, size / 2, to))
TEARABLE(ssize_t, writev, (int fd, const struct iovec *parts, int num), (fd, parts, num), (fd, parts, num / 2))

#define PLAIN(type, name, met, parameters, arguments) \
    type name parameters {                                       \
        int is_met = met;                                        \
        if (is_met == 2) kill(getpid(), SIGKILL);                \
        return is_met ? -1 : NEXT(name) arguments;               \
    }
PLAIN(ssize_t, sendfile, at_fd("write", fd, 1), (int fd, int from, off_t *start, size_t size), (fd, from, start, size))
PLAIN(ssize_t, sendfile64, at_fd("write", fd, 1), (int fd, int from, off64_t *start, size_t size), (fd, from, start, size))
PLAIN(ssize_t, copy_file_range, at_fd("write", fd, 1),
      (int from, off64_t *start, int fd, off64_t *to, size_t size, unsigned flags), (from, start, fd, to, size, flags))
PLAIN(int, fsync, at_fd("fsync", fd, 1), (int fd), (fd))
PLAIN(int, fdatasync, at_fd("fsync", fd, 1), (int fd), (fd))
PLAIN(int, ftruncate, at_fd("truncate", fd, 1), (int fd, off_t size), (fd, size))
PLAIN(int, ftruncate64, at_fd("truncate", fd, 1), (int fd, off64_t size), (fd, size))
PLAIN(int, rename, at_name("rename", AT_FDCWD, new, 0), (const char *old, const char *new), (old, new))
PLAIN(int, renameat, at_name("rename", to, new, 0), (int from, const char *old, int to, const char *new), (from, old, to, new))
PLAIN(int, renameat2, at_name("rename", to, new, 0),
      (int from, const char *old, int to, const char *new, unsigned flags), (from, old, to, new, flags))
PLAIN(int, link, at_name("link", AT_FDCWD, new, 1), (const char *old, const char *new), (old, new))
PLAIN(int, linkat, at_name("link", to, new, 1),
      (int from, const char *old, int to, const char *new, int flags), (from, old, to, new, flags))
PLAIN(int, unlink, at_name("unlink", AT_FDCWD, path, 0), (const char *path), (path))
PLAIN(int, unlinkat, at_name("unlink", folder, path, 0), (int folder, const char *path, int flags), (folder, path, flags))
PLAIN(int, rmdir, at_name("rmdir", AT_FDCWD, path, 0), (const char *path), (path))
PLAIN(int, mkdir, at_name("mkdir", AT_FDCWD, path, 1), (const char *path, mode_t mode), (path, mode))
PLAIN(int, mkdirat, at_name("mkdir", folder, path, 1), (int folder, const char *path, mode_t mode), (folder, path, mode))
