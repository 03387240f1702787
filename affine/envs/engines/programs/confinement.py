"""Taking rights away from the calling process, for good: capabilities, Landlock, seccomp, rlimits.

Standard library and `ctypes` only: `sandbox_server` loads this file by its path, without the package.
Linux on x86-64 and aarch64 (the aarch64 numbers are the kernel's generic table; the sandbox's self-test
decides at start whether they hold). Sources: linux/seccomp.h, linux/landlock.h, linux/filter.h,
linux/prctl.h, asm/unistd.h.

Every function raises OSError where the kernel refuses.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import struct
from collections.abc import Sequence

_libc = ctypes.CDLL(None, use_errno=True)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""machine -> column of the tables below, AUDIT_ARCH_* value."""

# name -> number on x86-64, on aarch64. What a single Python process needs that reads its standard
# input, computes (in threads too), and writes its standard output.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    **{"read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67)},
    **{"pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57)},
    **{"close_range": (436, 436), "fstat": (5, 80), "ftruncate": (77, 46), "fsync": (74, 82)},
    **{"fdatasync": (75, 83), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24)},
    **{"pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None)},
    **{"pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21)},
    **{"epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd2": (290, 19), "mmap": (9, 222)},
    **{"mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233)},
    **{"mincore": (27, 232), "msync": (26, 227), "brk": (12, 214), "rt_sigaction": (13, 134)},
    **{"rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136)},
    **{"rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132)},
    **{"pause": (34, None), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173)},
    **{"getpgid": (121, 155), "getpgrp": (111, None), "getsid": (124, 156), "getuid": (102, 174)},
    **{"geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158)},
    **{"getresuid": (118, 148), "getresgid": (120, 150), "getcwd": (79, 17), "umask": (95, 166)},
    **{"uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "times": (100, 153)},
    **{"getrlimit": (97, 163), "getpriority": (140, 141), "sched_yield": (24, 124)},
    **{"sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120)},
    **{"getcpu": (309, 168), "clock_gettime": (228, 113), "clock_getres": (229, 114)},
    **{"clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201, None)},
    **{"alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102), "futex": (202, 98)},
    **{"futex_waitv": (449, 449), "set_robust_list": (273, 99), "get_robust_list": (274, 100)},
    **{"rseq": (334, 293), "set_tid_address": (218, 96), "arch_prctl": (158, None), "membarrier": (324, 283)},
    **{"restart_syscall": (219, 128), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94)},
    **{"wait4": (61, 260), "waitid": (247, 95)},
}
_FILES: dict[str, tuple[int | None, int | None]] = {
    **{"stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291)},
    **{"access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None)},
    **{"readlinkat": (267, 78), "getdents": (78, None), "getdents64": (217, 61), "statfs": (137, 43)},
    **{"fstatfs": (138, 44)},
}
_OPEN, _OPENAT, _NEWFSTATAT = (2, None), (257, 56), (262, 79)
_CLONE, _CLONE3, _OPENAT2 = (56, 220), (435, 435), (437, 437)
_KILL, _TGKILL, _IOCTL, _PRLIMIT64, _FCNTL = (62, 129), (234, 131), (16, 29), (302, 261), (72, 25)

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF opcodes
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_ANY_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0x400000  # __O_TMPFILE
_OWN_PID = 0x7FABCDEF  # stands for the confined process in a filter; larger than any real pid
_HARMLESS_FCNTL = (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL)
"""F_SETFL is allowed too, without O_ASYNC. With that and F_SETOWN and F_SETSIG a pipe sends any signal to any process
of the same user; only Landlock since ABI 6 would stop it."""
_CLONE_THREAD, _AT_EMPTY_PATH, _TCGETS, _FIONREAD = 0x10000, 0x1000, 0x5401, 0x541B
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT, _LANDLOCK_VERSION = 444, 445, 446, 1


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _prctl(option: int, value: int, what: str) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), what)


def no_new_privileges() -> None:
    """No later execve can raise privileges; needed before Landlock and seccomp."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")


def die_with_parent(parent: int, with_signal: int) -> None:
    """Have the kernel send `with_signal` to this process when process `parent` ends (its main thread, where
    the parent has several). Exits at once where it ended already."""
    _prctl(_PR_SET_PDEATHSIG, with_signal, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def kill_children() -> None:
    """Kill and reap every child until none is left; with `adopt_orphans` also what daemonised itself."""
    while True:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:
            for child in listing.read().split():
                os.kill(int(child), signal.SIGKILL)


def drop_root(readable: Sequence[str]) -> None:
    """Where this process is root: become "nobody" if others may read all of `readable`, else stay uid 0
    without any capability (so that modules below a closed home can still be imported)."""
    if os.geteuid() != 0:
        return
    os.setgroups([])
    if all(_open_to_others(path) for path in readable):
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        return
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_libc.capset(header, bytes(24)), "capset")


def _open_to_others(path: str) -> bool:
    parts = [path]
    while parts[-1] != os.path.dirname(parts[-1]):
        parts.append(os.path.dirname(parts[-1]))
    return all(os.stat(part).st_mode & 0o001 for part in parts) and bool(os.stat(path).st_mode & 0o004)


def limit(memory: int, cpu_seconds: int, file_bytes: int, processes: int | None) -> None:
    """Set the resource limits of this process: address space in bytes, CPU seconds (SIGXCPU there, SIGKILL
    one later), size of a written file in bytes, processes of this user (None leaves it)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if processes is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


# --- Landlock ---------------------------------------------------------------------------------------


def landlock_abi() -> int:
    """The kernel's Landlock ABI version; 0 where there is none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)))


def landlock_ruleset(readable: Sequence[str]) -> int:
    """A file descriptor of a ruleset: reading below `readable`, and nothing else on files, on TCP (ABI 4),
    nor signals and abstract sockets out of the domain (ABI 6)."""
    abi = landlock_abi()
    files = (1 << 13) - 1  # every right of ABI 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # refer, truncate, ioctl on devices
        files |= (1 << bit) if abi >= since else 0
    fields = [files] + ([0b11] if abi >= 4 else []) + ([0b11] if abi >= 6 else [])
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE, attributes, size, 0), "landlock_create_ruleset")
    for path in readable:
        if os.path.exists(path):
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", (1 << 2) | (1 << 3), fd)  # read files, list directories
            _check(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
            os.close(fd)
    return ruleset


def landlock_restrict(ruleset: int) -> None:
    """Put this process under `ruleset`."""
    _check(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")


# --- seccomp ----------------------------------------------------------------------------------------


def seccomp_filter(files: bool) -> bytes:
    """A classic BPF program (an array of struct sock_filter) for `seccomp_install`.

    Whatever is not listed fails with EPERM (numbers newer than the table with ENOSYS, so that the C
    library falls back). Threads are allowed, processes are not; signals may go to the process itself only, also
    those that a file would send (`fcntl`). With
    `files` paths may be opened for reading; without, no path can be opened. Raises OSError where the
    machine's system calls are not known.
    """
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOTSUP, f"no table of system calls for {platform.machine()}")
    column, arch = _ARCHITECTURES[platform.machine()]
    out: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_EQ, 1, 0, arch),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, 0),  # the call's number
    ]
    if column == 0:
        out += [(_JUMP_GE, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL_PROCESS)]  # the x32 table

    def on(call: tuple[int | None, int | None], *block: tuple[int, int, int, int]) -> None:
        number = call[column]
        if number is not None:
            out.append((_JUMP_EQ, 0, len(block), number))
            out.extend(block)

    def argument(index: int, test: int, value: int, yes: int, no: int) -> tuple[tuple[int, int, int, int], ...]:
        low_word = 16 + 8 * index
        return (_LOAD, 0, 0, low_word), (test, 0, 1, value), (_RETURN, 0, 0, yes), (_RETURN, 0, 0, no)

    denied, absent, no_access = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO | errno.EACCES
    for call in (*_ALLOWED.values(), *(_FILES.values() if files else ())):
        on(call, (_RETURN, 0, 0, _ALLOW))
    if files:
        on(_OPEN, *argument(1, _JUMP_SET, _ANY_WRITE, no_access, _ALLOW))
        on(_OPENAT, *argument(2, _JUMP_SET, _ANY_WRITE, no_access, _ALLOW))
    else:
        on(_NEWFSTATAT, *argument(3, _JUMP_SET, _AT_EMPTY_PATH, _ALLOW, no_access))  # glibc's fstat
        for call in (_OPEN, _OPENAT, *_FILES.values()):
            on(call, (_RETURN, 0, 0, no_access))
    on(_CLONE, *argument(0, _JUMP_SET, _CLONE_THREAD, _ALLOW, denied))
    for call in (_CLONE3, _OPENAT2):
        on(call, (_RETURN, 0, 0, absent))
    for call in (_KILL, _TGKILL):
        on(call, *argument(0, _JUMP_EQ, _OWN_PID, _ALLOW, denied))
    load, test, yes, no = argument(1, _JUMP_EQ, _FIONREAD, _ALLOW, no_access)
    on(_IOCTL, load, (_JUMP_EQ, 1, 0, _TCGETS), test, yes, no)
    command, flags = 16 + 8 * 1, 16 + 8 * 2
    harmless = [part for number in _HARMLESS_FCNTL for part in ((_JUMP_EQ, 0, 1, number), (_RETURN, 0, 0, _ALLOW))]
    set_flags = ((_JUMP_EQ, 0, 3, fcntl.F_SETFL), (_LOAD, 0, 0, flags), (_JUMP_SET, 1, 0, os.O_ASYNC))
    on(_FCNTL, (_LOAD, 0, 0, command), *harmless, *set_flags, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, denied))
    on(_PRLIMIT64, *argument(0, _JUMP_EQ, 0, _ALLOW, denied))
    newest = max(call[column] or 0 for call in _ALLOWED.values())
    out += [(_JUMP_GE, 0, 1, newest), (_RETURN, 0, 0, absent), (_RETURN, 0, 0, denied)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in out)


def seccomp_install(program: bytes, pid: int) -> None:
    """Filter this thread's system calls, and those of all it starts, through `program`, for good; `pid` is
    this process."""
    program = program.replace(struct.pack("=I", _OWN_PID), struct.pack("=I", pid))
    array = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    header = Program(len(program) // 8, ctypes.addressof(array))
    zero = ctypes.c_ulong(0)
    pointer = ctypes.byref(header)
    _check(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), pointer, zero, zero), "seccomp")
