"""Freed memory stays with the process.

glibc gives every freed block of more than 32 MiB back to the kernel, which fills the next one with zeros
again: with a small model on a CPU that was 40 % of the processor time (90 million page faults in 500 steps).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks; nothing happens where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 64 * 2**20)
