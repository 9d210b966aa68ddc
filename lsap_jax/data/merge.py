"""Checking that every part of a sharded set is there, and joining their manifests.

Merging needs nothing but the files, so whoever comes last does it; done twice, or by two processes at once, it writes
the same bytes.
"""

import collections
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from lsap_jax.data import results, shards
from lsap_jax.errors import ResultError


def merge(out: str | os.PathLike, verify: bool = True) -> dict[str, int]:
    """Join the manifests of all parts into OUT/manifest.json.

    Args:
      out: results folder of `invert` with `config.invert.store = "shards"`.
      verify: read every shard and compare its checksum; otherwise it only must be there.

    Returns:
      {"images": ..., "failures": ...} in all.

    Raises:
      ResultError: if a part is missing, unfinished, made with other settings, or a shard is missing or damaged; says
        which, and how to make it.
    """
    out = pathlib.Path(out)
    settings = results.read_settings(out)
    if "store" not in settings:
        raise ResultError(f"{out} holds one folder per image, and nothing to merge")
    parts = parts_of(out, settings)
    missing = [text for part in parts if (text := _missing(part))]
    if missing:
        raise ResultError(f"{out} is not complete:\n  " + "\n  ".join(missing))
    head = shards.manifest_head(parts[0].folder / shards.MANIFEST)
    return shards.write_manifest(out / shards.MANIFEST, _joined(parts, shards.settings_hash(settings), verify), head)


def is_complete(out: str | os.PathLike, count: int) -> bool:
    """Whether all of `count` parts are finished."""
    folders = pathlib.Path(out) / shards.FOLDER
    return all((folders / f"part-{i:05d}-of-{count:05d}" / shards.MANIFEST).exists() for i in range(count))


def parts_of(out: pathlib.Path, settings: dict[str, Any]) -> list[shards.Part]:
    """The parts that OUT is split into.

    Raises:
      ResultError: if there is none, or they are parts of different splits.
    """
    found = collections.Counter()
    for folder in sorted((out / shards.FOLDER).glob("part-*")):
        if match := re.fullmatch(r"part-\d{5,}-of-(\d{5,})", folder.name):
            found[int(match[1])] += 1
    if not found:
        raise ResultError(f"{out} has no parts yet: run the invert command with this --out")
    if len(found) > 1:
        said = " and ".join(f"{n} of {count}" for count, n in sorted(found.items()))
        raise ResultError(
            f"{out} holds parts of different splits ({said}): remove those of one from {out / shards.FOLDER}"
        )
    (count,) = found
    stored = settings["store"]
    return [shards.Part(out, index, count, stored["entries"], stored["shard_size"]) for index in range(count)]


def _missing(part: shards.Part) -> str:
    """What a part lacks, and what to do; empty if it is finished."""
    if (part.folder / shards.MANIFEST).exists():
        return ""
    cure = f"run the invert command of {part.out} with --shard {part.index}/{part.count}"
    absent = [shard for shard in part.shards if not part.path(shard).exists()]
    if not part.folder.is_dir():
        return f"part {part.index} of {part.count} was never begun; {cure}"
    if not absent:
        return f"part {part.index} of {part.count} lacks its manifest; {cure}"
    some = ", ".join(part.path(shard).name for shard in absent[:3]) + (", ..." if len(absent) > 3 else "")
    return f"part {part.index} of {part.count} lacks {len(absent)} of {len(part.shards)} shards ({some}); {cure}"


def _joined(parts: list[shards.Part], wanted: str, verify: bool) -> Iterator[dict[str, Any]]:
    """The shards of all parts, checked one by one."""
    for part in parts:
        manifest = part.folder / shards.MANIFEST
        cure = f"run the invert command of {part.out} with --shard {part.index}/{part.count} again"
        head = shards.manifest_head(manifest)
        if head["settings_hash"] != wanted:
            raise ResultError(
                f"{manifest}: made with other settings than {part.out}/settings.json; remove {part.folder}"
            )
        numbers = iter(part.shards)
        for line in shards.manifest_shards(manifest):
            shard = next(numbers, None)
            stretch = range(line["first"], line["first"] + line["entries"])
            if shard is None or line["shard"] != shard or stretch != part.stretch(shard):
                raise ResultError(f"{manifest}: shard {line['shard']} does not belong there; remove it and {cure}")
            path = part.out / line["file"]
            if not path.exists() or (verify and shards.sha256(path) != line["sha256"]):
                state = "damaged" if path.exists() else "missing"
                raise ResultError(f"{path} is {state}: remove it, if it is there, and {manifest}, and {cure}")
            yield line
        if (left := next(numbers, None)) is not None:
            raise ResultError(f"{manifest}: shard {left} is not in it; remove it and {cure}")
