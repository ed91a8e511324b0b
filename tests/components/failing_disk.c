/* Preloaded into a process, it makes every write to a file whose name holds "otel-voice.db" fail while the file that
   FAILING_DISK names exists; the error's number (5 is EIO, 30 EROFS) is what that file says. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int error_of(int fd) {
    char link[64], path[4096], said[16];
    const char *control = getenv("FAILING_DISK");
    if (control == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strstr(path, "otel-voice.db") == NULL) return 0;
    int file = open(control, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    length = read(file, said, sizeof said - 1);
    close(file);
    said[length > 0 ? length : 0] = 0;
    return atoi(said);
}

#define FAILING(result, name, parameters, arguments)                     \
    result name parameters {                                             \
        static result(*real) parameters;                                 \
        int before = errno, error = error_of(fd);                        \
        if (error) {                                                     \
            errno = error;                                               \
            return -1;                                                   \
        }                                                                \
        errno = before;                                                  \
        if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, #name);     \
        return real arguments;                                           \
    }

FAILING(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
FAILING(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
FAILING(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
FAILING(int, fsync, (int fd), (fd))
FAILING(int, fdatasync, (int fd), (fd))
