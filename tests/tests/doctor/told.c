/* What a daemon's host tells it, preloaded: a clock that is ahead (TOLD_SECONDS_AHEAD) and another kernel's version
 * (TOLD_KERNEL). Both are of the whole machine: a namespace has neither of its own. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    const char *ahead = getenv("TOLD_SECONDS_AHEAD");
    if (result == 0 && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += atol(ahead);
    return result;
}

int uname(struct utsname *of) {
    int result = (int)syscall(SYS_uname, of);
    const char *kernel = getenv("TOLD_KERNEL");
    if (result == 0 && kernel) {
        strncpy(of->release, kernel, sizeof of->release - 1);
        of->release[sizeof of->release - 1] = 0;
    }
    return result;
}
