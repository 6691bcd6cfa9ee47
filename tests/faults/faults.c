/*
 * Preloaded into petreld: lets it be killed, fail, or wait, at one of the calls
 * that change a directory.
 *
 * Environment:
 *   FAULT_DIRECTORY  calls on it and on what is below it count ...
 *   FAULT_ARMED   ... as long as this file is there
 *   FAULT_AT      the number of the call, from 1, at which it happens
 *   FAULT_KILL    if set, the process is killed
 *   FAULT_HOLD    if set, the call waits until FAULT_STRUCK has a 1 as its `released`
 *                 (see below), as on a slow disk; otherwise the call fails
 *   FAULT_STRUCK  file that gets the call's name when it happens; empty or zeros before
 *
 * Programs that it executes are left alone: the environment that they would
 * inherit has no LD_PRELOAD.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What copies of the process share with it; they may make few system calls. */
struct shared {
    char struck[32];
    volatile int released;
    int armed;
    long calls;
};

static char directory[PATH_MAX], armed[PATH_MAX];
static struct shared *shared;
static pid_t original, tender;
static long at;
static int deadly, slow;

/* How often it is looked whether a call that is held may go on. */
#define LOOKS 20000000000L

static void take(char *to, const char *variable)
{
    const char *value = getenv(variable);

    if (value)
        strncpy(to, value, PATH_MAX - 1);
}

__attribute__((constructor)) static void start(void)
{
    const char *value = getenv("FAULT_AT");
    int file = open(getenv("FAULT_STRUCK"), O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    take(directory, "FAULT_DIRECTORY");
    take(armed, "FAULT_ARMED");
    original = getpid();
    at = value ? atol(value) : 0;
    deadly = getenv("FAULT_KILL") != NULL;
    slow = getenv("FAULT_HOLD") != NULL;
    if (file < 0 || ftruncate(file, sizeof *shared))
        abort();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED)
        abort();
    close(file);
    unsetenv("LD_PRELOAD");
}

/* Whether it is the directory or anything in it. */
static int below(const char *path)
{
    size_t length = strlen(directory);

    return length && !strncmp(path, directory, length) && (!path[length] || path[length] == '/');
}

/* Whether this call, which counts, is to fail. */
static int counted(const char *call, int error)
{
    if (++shared->calls != at)
        return 0;
    strncpy(shared->struck, call, sizeof shared->struck - 1);
    if (deadly)
        kill(getpid(), SIGKILL);
    if (slow) {
        /* Without system calls, of which a confined copy may make few. */
        for (long looks = 0; !shared->released && looks < LOOKS; looks++)
            ;
        return 0;
    }
    errno = error;
    return 1;
}

static int strikes(const char *call, const char *path, int error)
{
    if (!shared || !below(path) || syscall(SYS_faccessat, AT_FDCWD, armed, F_OK, 0))
        return 0;
    shared->armed = 1;
    return counted(call, error);
}

static int strikes_file(const char *call, int file, int error)
{
    char link[32 + sizeof "/proc/self/fd/"] = "/proc/self/fd/", path[PATH_MAX];
    char digits[16], *digit = digits;
    size_t end = strlen(link);
    ssize_t length;
    int type;
    socklen_t size = sizeof type;

    if (file < 0 || !shared)
        return 0;
    /* The files that a copy of the process has are all in the directory, unless it becomes a tender. */
    if (getpid() != original && getpid() != tender)
        return shared->armed && getsockopt(file, SOL_SOCKET, SO_TYPE, &type, &size)
            && counted(call, error);
    do
        *digit++ = '0' + file % 10;
    while (file /= 10);
    while (digit > digits)
        link[end++] = *--digit;
    link[end] = '\0';
    length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = '\0';
    return strikes(call, path, error);
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) \
        real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(function) \
    int function(const char *path, int flags, ...) \
    { \
        REAL(int, #function, const char *, int, ...); \
        va_list rest; \
        mode_t mode; \
        va_start(rest, flags); \
        mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (flags & O_CREAT && strikes(#function, path, ENOSPC)) \
            return -1; \
        return real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

#define ON_FILE(result, function, error, parameters, arguments) \
    result function parameters \
    { \
        static result (*real) parameters; \
        if (!real) \
            real = (result (*) parameters)dlsym(RTLD_NEXT, #function); \
        return strikes_file(#function, file, error) ? -1 : real arguments; \
    }

ON_FILE(ssize_t, write, ENOSPC, (int file, const void *data, size_t size), (file, data, size))
ON_FILE(ssize_t, writev, ENOSPC, (int file, const struct iovec *parts, int count), (file, parts, count))
ON_FILE(ssize_t, pwrite, ENOSPC, (int file, const void *data, size_t size, off_t to), (file, data, size, to))
ON_FILE(ssize_t, pwrite64, ENOSPC, (int file, const void *data, size_t size, off64_t to), (file, data, size, to))
ON_FILE(int, ftruncate64, EIO, (int file, off64_t size), (file, size))
ON_FILE(int, fsync, EIO, (int file), (file))
ON_FILE(int, fdatasync, EIO, (int file), (file))

/* What is about to be another program begins a session. It has its memory from the original. */
pid_t setsid(void)
{
    REAL(pid_t, "setsid", void);
    tender = getpid();
    return real();
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    return strikes("rename", to, ENOSPC) ? -1 : real(from, to);
}

int link(const char *from, const char *to)
{
    REAL(int, "link", const char *, const char *);
    return strikes("link", to, ENOSPC) ? -1 : real(from, to);
}

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags)
{
    REAL(int, "linkat", int, const char *, int, const char *, int);
    return strikes("linkat", to, ENOSPC) ? -1 : real(from_directory, from, to_directory, to, flags);
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    return strikes("unlink", path, EIO) ? -1 : real(path);
}
