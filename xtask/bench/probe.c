/*
 * Counts the system calls of a program and measures its peak resident memory.
 *
 *   probe PROGRAM ARGUMENTS...
 *
 * Prints both on standard error: "calls KiB". ptrace(2) stops the program before and after each call. The peak is VmHWM of
 * /proc/PID/status at the last stop before its exit. getrusage(2) would include the memory of the parent process.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static long peak(pid_t pid)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "r");
    while (status && fgets(line, sizeof line, status))
        sscanf(line, "VmHWM: %ld", &kib);
    if (status)
        fclose(status);
    return kib;
}

int main(int count, char **arguments)
{
    pid_t pid = count > 1 ? fork() : -1;
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execv(arguments[1], arguments + 1);
        _exit(127);
    }
    int status;
    long stops = 0, kib = 0;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
        return 125;
    ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXIT);
    for (int signal = 0;; signal = 0) {
        ptrace(PTRACE_SYSCALL, pid, NULL, signal);
        if (waitpid(pid, &status, 0) < 0)
            return 125;
        if (WIFEXITED(status) || WIFSIGNALED(status))
            break;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80))
            stops++;
        else if (status >> 16 == PTRACE_EVENT_EXIT)
            kib = peak(pid);
        else
            signal = WSTOPSIG(status);
    }
    /* A call stops twice, but the last one, which ends the program, once. */
    fprintf(stderr, "%ld %ld\n", (stops + 1) / 2, kib);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
