"""Settings of glibc's memory allocator for the server's processes. It reads them once, when a process starts."""

import os

_FEW_HEAPS = {"MALLOC_ARENA_MAX": "2"}
"""By default glibc makes up to eight heaps per core and gives new threads different ones: in time each heap is as large
as the largest job needs."""
MALLOC_ENV = _FEW_HEAPS | {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
"""Environment of a process that runs networks, set before it starts: glibc keeps freed feature maps. By default it
returns them to the kernel and faults the same pages in again, which on a CPU takes half of the time."""
API_MALLOC_ENV = _FEW_HEAPS | {
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "1048576",
    "GLIBC_TUNABLES": ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"))),
}
"""Environment of the API process, which handles large bodies: freed memory is returned to the kernel. By default glibc
keeps more and more of it after a large block was freed. It asks for huge pages (glibc 2.35 and later; earlier ones
ignore it): to free a body of 75 MB then takes 0.5 ms instead of 5 ms, and all threads wait for that."""
