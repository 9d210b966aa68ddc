"""What every benchmark here shares: interleaved timing, a description of the machine, one JSON line a record.

Timings of different moments on a shared machine cannot be compared, so rivals take turns in one run and only
their ratio counts. Use as `from timing import emit, interleave, machine` in a script of this folder.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

ALLOCATOR_VARIABLES = (
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def interleave(fns: dict[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, dict[str, float]]:
    """Time functions in turns, forth and back (a, b, c, c, b, a, ...), so that none always runs after the same other.

    Args:
      fns: {name: function without arguments}; arrays of JAX in the result are waited for.
      repeats: timed rounds.
      warmup: rounds before them that are not counted (compilation, caches, thread pools).

    Returns:
      {name: {"min": seconds, "median": seconds, "cpu": processor seconds of all threads, the least of all rounds}}.
      On a machine that others use, "cpu" is the steadiest of the three.
    """
    wall: dict[str, list[float]] = {name: [] for name in fns}
    cpu: dict[str, list[float]] = {name: [] for name in fns}
    for turn in range(warmup + repeats):
        for name, fn in list(fns.items())[:: 1 if turn % 2 == 0 else -1]:
            start, cpu_start = time.perf_counter(), time.process_time()
            jax.block_until_ready(fn())
            if turn >= warmup:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
    return {name: {"min": min(t), "median": statistics.median(t), "cpu": min(cpu[name])} for name, t in wall.items()}


def peak_memory() -> float:
    """Peak memory of this process so far, in GiB.

    From the kernel's own record of this program, where there is one: `ru_maxrss` of a child process starts at what its
    parent held.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2**20
    scale = 2**30 if platform.system() == "Darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Where the numbers come from: processor, cores, load, devices, versions, allocator environment.

    Args:
      packages: distributions, besides jax and jaxlib, whose versions belong to the record.
    """
    devices = jax.devices()
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", *packages)},
        },
        "allocator": {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ},
    }


def emit(record: dict[str, Any]) -> None:
    """Print one record as one JSON line; seconds and ratios with four digits."""
    print(json.dumps(_rounded(record)), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _processor() -> str:
    """The processor's name as the system gives it, with its family and model where the name is vague."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
