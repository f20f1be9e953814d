"""Free memory and this process's own, by what the kernel's files say, and giving it back."""

import platform

import pytest
import torch

from adamerge.storage.memory import anonymous_memory, free_memory, give_back, read_from_disk


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 8000 kB\nHugePages_Total: 0\n"}
BOX = "sys/fs/cgroup"
V2 = {
    "proc/self/cgroup": "0::/box/job\n",
    f"{BOX}/box/memory.max": "4096000\n",
    f"{BOX}/box/memory.current": "3000000\n",
    f"{BOX}/box/memory.stat": "anon 1\nactive_file 500000\ninactive_file 1000000\nshmem 7\n",
    f"{BOX}/box/job/memory.max": "max\n",
    f"{BOX}/box/job/memory.current": "1\n",
}
V1 = {
    "proc/self/cgroup": "4:memory,cpu:/box\n3:pids:/other\n",
    f"{BOX}/memory/memory.limit_in_bytes": "9223372036854771712\n",  # no limit
    f"{BOX}/memory/memory.usage_in_bytes": "1\n",
    f"{BOX}/memory/box/memory.limit_in_bytes": "2000000\n",
    f"{BOX}/memory/box/memory.usage_in_bytes": "1500000\n",
    f"{BOX}/memory/box/memory.stat": "active_file 1\ntotal_active_file 100000\ntotal_inactive_file 200000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MEMINFO, 8000 * 1024),
        (MEMINFO | V2, 4096000 - 3000000 + 1500000),
        (MEMINFO | V1, 2000000 - 1500000 + 300000),
        (MEMINFO | V2 | {f"{BOX}/box/memory.current": "6000000\n"}, 0),
        (MEMINFO | V2 | {f"{BOX}/box/memory.max": "max\n"}, 8000 * 1024),
    ],
)
def test_the_tightest_limit_counts_and_the_page_cache_is_free(tmp_path, files, expected):
    write(tmp_path, files)
    assert free_memory(tmp_path) == expected


def test_memory_apart_from_mapped_files(tmp_path):
    write(tmp_path, {"proc/self/status": "Name: x\nVmRSS: 900 kB\nRssAnon: 70 kB\nRssFile: 830 kB\n"})
    assert anonymous_memory(tmp_path) == 70 * 1024
    assert anonymous_memory(tmp_path / "no such system") == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep less")
def test_bytes_from_the_disk(tmp_path):
    assert read_from_disk(tmp_path) == 0  # the system does not say
    write(tmp_path, {"proc/self/io": "rchar: 9\nwchar: 8\nread_bytes: 4096\nwrite_bytes: 7\n"})
    assert read_from_disk(tmp_path) == 4096


def test_what_is_freed_among_what_lives_on_is_given_back():
    torch.ones(2**22)  # glibc keeps pieces of 16 MiB from now on
    pairs = [(torch.ones(2**20), torch.ones(2**12)) for _ in range(16)]
    full = anonymous_memory()
    alive = [small for _, small in pairs]
    del pairs
    if anonymous_memory() < full - 2**25:  # most of 64 MiB
        pytest.skip("after what this process did before, glibc keeps nothing")
    give_back(2**40)
    assert anonymous_memory() > full - 2**25  # it has not grown as much
    give_back(0)
    assert anonymous_memory() < full - 3 * 2**24
    assert all(bool(small.all()) for small in alive)
