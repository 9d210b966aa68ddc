"""What every benchmark here shares: interleaved timing, a description of the machine, one JSON line a record.

Timings of different moments on a shared machine cannot be compared, so rivals take turns in one run and only
their ratio counts. Use as `from timing import emit, interleave, machine` in a script of this folder.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
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
      {name: {"min": seconds, "median": seconds}}.
    """
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for turn in range(warmup + repeats):
        for name, fn in list(fns.items())[:: 1 if turn % 2 == 0 else -1]:
            start = time.perf_counter()
            jax.block_until_ready(fn())
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: {"min": min(t), "median": statistics.median(t)} for name, t in seconds.items()}


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
