"""What a bank of directions looks like: one static page, rows directions, columns strengths.

    OUT/index.html     for each direction its pictures on a few images, layer weights, measures, and prototype

Made anew from OUT/bank.json, which `lsap_jax.commands.discover` writes.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lsap_jax import charts, page
from lsap_jax.checkpoints import store
from lsap_jax.errors import ResultError

_AT_ONCE = 4  # directions whose pictures are loaded before they are scrolled to


def write(out: str | os.PathLike) -> pathlib.Path:
    """Write OUT/index.html from OUT/bank.json.

    The record holds "title", "settings" (a tree of JSON), "notes" (sentences), and "directions", a list of

        name, origin, unit
        layer_weights   list of numbers, or null
        measures        {name: {"mean": number, "spread": number, "count": images}}
        rows            [{"image": name, "strengths": [...], "files": [paths from OUT]}]
        prototype       a path from OUT, or null

    Raises:
      ResultError: if the record is missing or damaged, or the page cannot be written.
    """
    out = pathlib.Path(out)
    try:
        bank = json.loads((out / "bank.json").read_text())
        text = render(bank)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{out / 'bank.json'}: missing or damaged ({error}); run discover again") from error
    try:
        store.write_atomically(out / "index.html", text.encode())
    except OSError as error:
        raise ResultError(f"{out / 'index.html'}: cannot be written ({error}); free some space") from error
    return out / "index.html"


def render(bank: Mapping[str, Any]) -> str:
    """The page as HTML; paths of pictures are relative to its folder."""
    found = bank["directions"]
    heading = f"{len(found)} direction{'' if len(found) == 1 else 's'}: {bank['title']}"
    notes = "".join(f"<li>{page.escape(note)}</li>" for note in bank.get("notes", []))
    body = [
        f"<header><h1>{page.escape(heading)}</h1></header>",
        f"<ul class='notes'>{notes}</ul>" if notes else "",
        _overview(found),
        *(_article(index, d) for index, d in enumerate(found)),
        f"<section><h2>Settings</h2>{page.table(page.flat(bank['settings']))}</section>",
    ]
    return page.document(heading, body)


def _overview(found: Sequence[Mapping[str, Any]]) -> str:
    """Every measure of every direction, in one table."""
    names = list(dict.fromkeys(name for d in found for name in d["measures"]))
    if not names:
        return ""
    head = "".join(f"<th scope='col'>{page.escape(name)}</th>" for name in ("direction", *names))
    rows = []
    for index, d in enumerate(found):
        cells = "".join(f"<td>{page.escape(_measured(d['measures'].get(name)))}</td>" for name in names)
        rows.append(f"<tr><th scope='row'><a href='#direction-{index}'>{page.escape(d['name'])}</a></th>{cells}</tr>")
    return (
        f"<section><h2>Measures, mean ± standard deviation over images</h2><div class='wide'><table><tr>{head}</tr>"
        f"{''.join(rows)}</table></div></section>"
    )


def _article(index: int, d: Mapping[str, Any]) -> str:
    rows = []
    for row in d["rows"]:
        figures = [
            page.figure(
                pathlib.PurePosixPath(file).parts,
                f"{row['image']}, {d['name']} {strength:+g}",
                [page.strength(strength, d["unit"])],
                index >= _AT_ONCE,
            )
            for strength, file in zip(row["strengths"], row["files"], strict=True)
        ]
        rows.append(
            f"<p class='muted'>{page.escape(row['image'])}</p><div class='series' tabindex='0'>{''.join(figures)}</div>"
        )
    extra = []
    if d.get("layer_weights"):
        drawn = charts.bars(d["layer_weights"], f"layer weights of {d['name']}", axis="layer")
        used = np.flatnonzero(np.abs(d["layer_weights"]) > 0.01 * np.abs(d["layer_weights"]).max())
        extra.append(page.chart(drawn, f"Layer weights; it acts in {len(used)} of {len(d['layer_weights'])} layers."))
    if d.get("prototype"):
        parts = pathlib.PurePosixPath(d["prototype"]).parts
        extra.append(
            page.figure(parts, f"prototype of {d['name']}", ["prototype", "what it looks for"], index >= _AT_ONCE)
        )
    return (
        f"<article id='direction-{index}'><h2>{page.escape(d['name'])}</h2>"
        f"<p class='muted'>{page.escape(d['origin'])}</p>"
        + "".join(rows)
        + f"<div class='charts'>{''.join(extra)}</div></article>"
    )


def _measured(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "–"
    spread = f" ± {value['spread']:.3g}" if value.get("count", 1) > 1 else ""
    return f"{page.number(value['mean'], 3)}{spread}"
