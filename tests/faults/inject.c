/* Counts the system calls by which a process reads or changes files below one folder, and at the n-th of them kills the
   process or lets the call fail. Preloaded (LD_PRELOAD) into the process that tests/support/fork_server.py forks from, so
   that C libraries (SQLite, safetensors, OpenCV, torch) are reached as well as Python. It does nothing until `arm`. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READ = 1, OPEN = 2, WRITE = 4, SYNC = 8, NAME = 16 };  /* kinds of calls, of which `kinds` is a sum */

struct shared {  /* in a file that the harness maps too */
    long count;      /* calls so far */
    long fired;      /* how often one was the n-th, or came after it where the fault stays */
    char what[496];  /* the first that did: its name and its file */
};

static struct shared *shared;
static char root[4096];
static size_t root_length;
static int kinds, action, stays, armed_pid;  /* action: 0 counts, -1 kills, else the errno that the call ends with */
static int trace = -1;  /* where action is 0: the file that every call is written down in */
static long at;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

void faults_disarm(void) { armed_pid = 0; }

int faults_arm(const char *file, const char *folder, int which, long n, int what, int remains) {
    char name[4200];
    snprintf(name, sizeof name, "%s.trace", file);
    if (!what) trace = REAL(open)(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int fd = REAL(open)(file, O_RDWR);
    if (fd < 0) return -1;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (shared == MAP_FAILED) return -1;
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    kinds = which, at = n, action = what, stays = remains, armed_pid = getpid();
    return 0;
}

static int below(const char *path) { return strncmp(path, root, root_length) == 0 && !strstr(path, "/__pycache__"); }

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* Whether this call is one to `strike`. */
static int counts(const char *name, const char *path) {
    if (!below(path)) return 0;
    long number = ++shared->count;
    if (!action) dprintf(trace, "%s %s\n", name, path + root_length);
    if (!action || number < at || (number > at && !stays)) return 0;
    if (!shared->fired++) snprintf(shared->what, sizeof shared->what, "%s %s", name, path + root_length);
    return 1;
}

static int strike(void) {
    if (action < 0) kill(getpid(), SIGKILL);
    errno = action;
    return 1;
}

static int on_path(int kind, const char *name, int dir, const char *path) {
    char full[8192], base[4096];
    if (!armed_pid || getpid() != armed_pid || !(kinds & kind) || !path) return 0;
    if (path[0] == '/') return counts(name, path) && strike();
    if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(dir, base, sizeof base)) return 0;
    snprintf(full, sizeof full, "%s/%s", base, path);
    return counts(name, full) && strike();
}

static int found_on_fd(int kind, const char *name, int fd) {
    char path[4096];
    if (!armed_pid || getpid() != armed_pid || !(kinds & kind)) return 0;
    return path_of(fd, path, sizeof path) && counts(name, path);
}

static int on_fd(int kind, const char *name, int fd) { return found_on_fd(kind, name, fd) && strike(); }

#define CHANGING(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))

#define OPENS(name)                                                                                  \
    int name(const char *path, int flags, ...) {                                                     \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);       \
        if (on_path(CHANGING(flags) ? OPEN : READ, "open", AT_FDCWD, path)) return -1;               \
        return REAL(name)(path, flags, mode);                                                        \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                                               \
    int name(int dir, const char *path, int flags, ...) {                                            \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);       \
        if (on_path(CHANGING(flags) ? OPEN : READ, "open", dir, path)) return -1;                    \
        return REAL(name)(dir, path, flags, mode);                                                   \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

#define FOPENS(name)                                                                                 \
    FILE *name(const char *path, const char *mode) {                                                 \
        if (on_path(strpbrk(mode, "wa+") ? OPEN : READ, "open", AT_FDCWD, path)) return NULL;        \
        return REAL(name)(path, mode);                                                               \
    }
FOPENS(fopen)
FOPENS(fopen64)

/* A kill in a write leaves its first half in the file. */
ssize_t write(int fd, const void *bytes, size_t size) {
    if (found_on_fd(WRITE, "write", fd)) {
        if (action < 0) REAL(write)(fd, bytes, size / 2);
        strike();
        return -1;
    }
    return REAL(write)(fd, bytes, size);
}

#define PWRITES(name, offset_type)                                                                   \
    ssize_t name(int fd, const void *bytes, size_t size, offset_type where) {                        \
        if (found_on_fd(WRITE, "pwrite", fd)) {                                                      \
            if (action < 0) REAL(name)(fd, bytes, size / 2, where);                                  \
            strike();                                                                                \
            return -1;                                                                               \
        }                                                                                            \
        return REAL(name)(fd, bytes, size, where);                                                   \
    }
PWRITES(pwrite, off_t)
PWRITES(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return on_fd(WRITE, "writev", fd) ? -1 : REAL(writev)(fd, parts, count);
}

ssize_t sendfile(int out, int in, off_t *where, size_t size);
ssize_t sendfile(int out, int in, off_t *where, size_t size) {
    return on_fd(WRITE, "sendfile", out) ? -1 : REAL(sendfile)(out, in, where, size);
}

ssize_t sendfile64(int out, int in, off64_t *where, size_t size);
ssize_t sendfile64(int out, int in, off64_t *where, size_t size) {
    return on_fd(WRITE, "sendfile", out) ? -1 : REAL(sendfile64)(out, in, where, size);
}

#define TRUNCATES(name, offset_type)                                                                 \
    int name(int fd, offset_type size) { return on_fd(WRITE, "truncate", fd) ? -1 : REAL(name)(fd, size); }
TRUNCATES(ftruncate, off_t)
TRUNCATES(ftruncate64, off64_t)

ssize_t read(int fd, void *bytes, size_t size) {
    return on_fd(READ, "read", fd) ? -1 : REAL(read)(fd, bytes, size);
}

#define PREADS(name, offset_type)                                                                    \
    ssize_t name(int fd, void *bytes, size_t size, offset_type where) {                              \
        return on_fd(READ, "pread", fd) ? -1 : REAL(name)(fd, bytes, size, where);                   \
    }
PREADS(pread, off_t)
PREADS(pread64, off64_t)

int fsync(int fd) { return on_fd(SYNC, "fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return on_fd(SYNC, "fsync", fd) ? -1 : REAL(fdatasync)(fd); }

int rename(const char *old, const char *new) {
    return on_path(NAME, "rename", AT_FDCWD, new) ? -1 : REAL(rename)(old, new);
}
int renameat(int from, const char *old, int to, const char *new) {
    return on_path(NAME, "rename", to, new) ? -1 : REAL(renameat)(from, old, to, new);
}
int link(const char *old, const char *new) {
    return on_path(NAME, "link", AT_FDCWD, new) ? -1 : REAL(link)(old, new);
}
int linkat(int from, const char *old, int to, const char *new, int flags) {
    return on_path(NAME, "link", to, new) ? -1 : REAL(linkat)(from, old, to, new, flags);
}
int symlink(const char *target, const char *new) {
    return on_path(NAME, "symlink", AT_FDCWD, new) ? -1 : REAL(symlink)(target, new);
}
int unlink(const char *path) { return on_path(NAME, "unlink", AT_FDCWD, path) ? -1 : REAL(unlink)(path); }
int unlinkat(int dir, const char *path, int flags) {
    return on_path(NAME, "unlink", dir, path) ? -1 : REAL(unlinkat)(dir, path, flags);
}
int rmdir(const char *path) { return on_path(NAME, "rmdir", AT_FDCWD, path) ? -1 : REAL(rmdir)(path); }
int mkdir(const char *path, mode_t mode) {
    return on_path(NAME, "mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}
int chmod(const char *path, mode_t mode) {
    return on_path(NAME, "chmod", AT_FDCWD, path) ? -1 : REAL(chmod)(path, mode);
}
int fchmod(int fd, mode_t mode) { return on_fd(NAME, "chmod", fd) ? -1 : REAL(fchmod)(fd, mode); }
