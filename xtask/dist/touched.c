/*
 * Traces a program and lists the code that it executes, in the order of first execution.
 *
 *   touched OUTPUT PROGRAM ARGUMENTS...
 *
 * Writes the address of the first instruction executed in each 16 bytes, one per line. ptrace(2) stops the program after each
 * instruction. Only addresses below 256 MiB are listed, which are those of a program linked to a fixed address.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define END (256UL << 20)

int main(int count, char **arguments)
{
    static unsigned char seen[END / 16];
    FILE *output = count > 2 ? fopen(arguments[1], "w") : NULL;
    pid_t pid = output ? fork() : -1;
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execv(arguments[2], arguments + 2);
        _exit(127);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFSTOPPED(status))
        return 125;
    for (int signal = 0;;) {
        ptrace(PTRACE_SINGLESTEP, pid, NULL, signal);
        if (waitpid(pid, &status, 0) < 0)
            return 125;
        if (WIFEXITED(status) || WIFSIGNALED(status))
            break;
        signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
        struct user_regs_struct regs;
        if (ptrace(PTRACE_GETREGS, pid, NULL, &regs) == 0 && regs.rip < END && !seen[regs.rip / 16]) {
            seen[regs.rip / 16] = 1;
            fprintf(output, "%llx\n", regs.rip);
        }
    }
    if (fclose(output) != 0)
        return 125;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
