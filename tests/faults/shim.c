/* Faults of the operating system, for a process that is started with LD_PRELOAD=this.
 *
 * FAULT_UNDER   directory; other files are left alone
 * FAULT_AFTER   bytes that may be written there before the fault
 * FAULT_ERRNO   error of write and pwrite from then on; "kill": the process kills itself
 * FAULT_SYNC    error of fsync under the directory
 *
 * The variables are read at each call, so that a process may set them for its children. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long bytes_written;

/* How many bytes were written under the directory. */
long fault_written(void) { return bytes_written; }

static int is_under(int descriptor)
{
    const char *under = getenv("FAULT_UNDER");
    if (under == NULL || *under == '\0')
        return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = '\0';
    return strncmp(path, under, strlen(under)) == 0;
}

/* Count bytes about to be written; return the error that they meet, 0 for none. */
static int fault(int descriptor, size_t count)
{
    if (!is_under(descriptor))
        return 0;
    const char *after = getenv("FAULT_AFTER"), *error = getenv("FAULT_ERRNO");
    if (error != NULL && *error && bytes_written + (long)count > (after ? atol(after) : 0)) {
        if (strcmp(error, "kill") == 0)
            raise(SIGKILL);
        return atoi(error);
    }
    bytes_written += (long)count;
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int descriptor, const void *bytes, size_t count)
{
    int error = fault(descriptor, count);
    if (error) {
        errno = error;
        return -1;
    }
    return REAL(write)(descriptor, bytes, count);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t offset)
{
    int error = fault(descriptor, count);
    if (error) {
        errno = error;
        return -1;
    }
    return REAL(pwrite64)(descriptor, bytes, count, offset);
}

int fsync(int descriptor)
{
    const char *error = getenv("FAULT_SYNC");
    if (error != NULL && *error && is_under(descriptor)) {
        errno = atoi(error);
        return -1;
    }
    return REAL(fsync)(descriptor);
}
