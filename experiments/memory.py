"""What the C library's allocator has to be told for large arrays on CPU."""

import ctypes
import os
import sys

TUNABLES = "GLIBC_TUNABLES"
# Pages of 2 MiB, and one heap that keeps what is freed.
ALLOCATOR = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.arena_max": 1,
    "glibc.malloc.mmap_max": 0,
    "glibc.malloc.trim_threshold": 2**40,
}


def use_huge_pages() -> None:
    """Has glibc back arrays with huge pages and keep them: restarts this process once to tell it.

    XLA:CPU takes its temporaries from the system anew at every call. In pages of 4 KiB that costs
    more than filling them: a copy of an array ran at 5 GB/s, and runs at 24. And a virtual machine
    that hands free pages back to its host gets them again at half a gigabyte a second: an update of
    SmolLM2 after ten seconds of sampling took 20 s, and takes 17. glibc reads its tunables when a
    process starts.
    """
    if sys.platform == "linux" and TUNABLES not in os.environ:
        os.environ[TUNABLES] = ":".join(f"{name}={value}" for name, value in ALLOCATOR.items())
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def release_memory() -> None:
    """Hands freed memory back to the system; after updates glibc holds on to over 1 GB of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
