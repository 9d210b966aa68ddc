"""What a results folder looks like: a strip of pictures, and one static page.

    OUT/strip.png     target, inversion and edits side by side, of the first images
    OUT/index.html    everything in the folder; opens from disk, without server, network or script

Both are made anew from the files of the folder (`lsap_jax.data.results`) whenever a command has changed it.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lsap_jax import charts, page, pretrained
from lsap_jax.checkpoints import store
from lsap_jax.data import images as image_files
from lsap_jax.data import results
from lsap_jax.errors import ImageError, ResultError

# key of metrics.json: (name, unit, decimals, whether larger is better)
METRICS: dict[str, tuple[str, str, int, bool]] = {
    "lpips_vgg": ("LPIPS-VGG", "", 3, False),
    "lpips_alex": ("LPIPS-Alex", "", 3, False),
    "psnr": ("PSNR", "dB", 2, True),
    "ssim": ("SSIM", "", 3, True),
    "id": ("ID, cosine", "", 3, True),
    "mse": ("MSE", "", 4, False),
}
_TILE, _CAPTION, _TITLE, _GAP = 256, 26, 30, 8  # pixels
_MOST_ROWS = 16  # of strip.png
_MOST_IMAGES = 500  # of the page, about 20 kB each
_AT_ONCE = 8  # images of the page whose pictures are loaded before they are scrolled to
_PAPER, _INK = (255, 255, 255), (32, 32, 36)


class Edit(NamedTuple):
    """One edited series of an image: its folder and its `edit.json`."""

    folder: pathlib.Path
    record: dict[str, Any]


class Entry(NamedTuple):
    """One image of a results folder."""

    name: str
    folder: pathlib.Path
    metrics: dict[str, Any]
    edits: list[Edit]


def strip(images: Sequence[np.ndarray], labels: Sequence[str], title: str = "") -> np.ndarray:
    """Pictures side by side, each under its caption.

    Args:
      images: (H, W, 3) each, uint8 or float in [-1, 1]; shown 256 pixels wide.
      labels: a caption for each; cut where it is too long.
      title: a line above all.

    Returns:
      (height, width, 3) uint8.

    Raises:
      ImageError: if there is no image, or not a caption for each.
    """
    if not images or len(images) != len(labels):
        raise ImageError(
            f"a strip needs a caption for each of its pictures: {len(images)} and {len(labels)} were given"
        )
    tiles = []
    for image in images:
        pixels = np.asarray(image)
        tile = Image.fromarray(pixels if pixels.dtype == np.uint8 else image_files.to_uint8(pixels))
        smooth = Image.Resampling.BOX if tile.width >= _TILE else Image.Resampling.NEAREST
        tiles.append(tile.resize((_TILE, max(1, round(_TILE * tile.height / tile.width))), smooth))
    top = _CAPTION + (_TITLE if title else 0)
    width = len(tiles) * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, top + max(tile.height for tile in tiles) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        font = ImageFont.load_default(size=20)
        draw.text((_GAP, _TITLE / 2 + 2), _cut(title, font, width - 2 * _GAP), _INK, font, anchor="lm")
    font = ImageFont.load_default(size=16)
    for index, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = _GAP + index * (_TILE + _GAP)
        draw.text((x, top - _CAPTION / 2), _cut(label, font, _TILE), _INK, font, anchor="lm")
        sheet.paste(tile, (x, top))
    return np.asarray(sheet)


def write_index(out: str | os.PathLike) -> pathlib.Path:
    """Write OUT/strip.png and OUT/index.html from what lies in the results folder.

    Beside the folder's own layout, OUT/failures.json is shown if there is one: [{"file": ..., "reason": ...}, ...].

    Returns:
      The path of the page.

    Raises:
      ResultError: if the folder is not one of ours, cannot be written, or a file in it is damaged.
    """
    out = pathlib.Path(out)
    settings = results.read_settings(out)
    entries = [_entry(out, name) for name in results.finished(out)]
    failures = _json(out / "failures.json") if (out / "failures.json").exists() else []
    rows = [picture_row for entry in entries[:_MOST_ROWS] for picture_row in _strips(entry)][:_MOST_ROWS]
    if rows:
        image_files.write_png(out / "strip.png", _stacked(rows))
    text = render(settings, entries, failures)
    try:
        store.write_atomically(out / "index.html", text.encode())
    except OSError as error:
        raise ResultError(f"{out / 'index.html'}: cannot be written ({error}); free some space") from error
    return out / "index.html"


def render(settings: Mapping[str, Any], entries: Sequence[Entry], failures: Sequence[Mapping[str, str]]) -> str:
    """The page as HTML; paths of pictures are relative to the results folder."""
    generator = str(settings.get("generator", "unknown generator"))
    heading = f"{len(entries)} image{'' if len(entries) == 1 else 's'} inverted"
    about = " · ".join(filter(None, [generator, str(settings.get("preset", "")), _count(entries)]))
    shown = entries[:_MOST_IMAGES]
    rest = len(entries) - len(shown)
    asset = pretrained.ASSETS.get(generator)
    licence = settings.get("licence") or (asset.licence if asset else "as its source states; it was loaded from a file")
    body = [
        f"<header><h1>{page.escape(heading)}</h1><p class='muted'>{page.escape(about)}</p></header>",
        _summary(entries) if len(entries) > 1 else "",
        _failures(failures),
        *(_article(index, entry) for index, entry in enumerate(shown)),
        f"<p class='muted'>{rest} more images are in the folder <code>images</code>.</p>" if rest else "",
        f"<section><h2>Settings</h2>{page.table(page.flat(settings))}</section>",
        f"<footer><p>Generator {page.escape(generator)}, licence of its weights: {page.escape(licence)}.</p></footer>",
    ]
    return page.document(f"{heading} · {generator}", body)


def _article(index: int, entry: Entry) -> str:
    """Everything about one image."""
    metrics, lazy = entry.metrics, index >= _AT_ONCE
    pictures = "".join(
        page.figure(("images", entry.name, f"{kind}.png"), f"{entry.name}, {kind}", [kind], lazy)
        for kind in ("target", "inversion")
    )
    numbers = {
        f"{name} {'↑' if up else '↓'}": page.number(metrics.get(key), digits, unit)
        for key, (name, unit, digits, up) in METRICS.items()
        if key in metrics
    }
    known = {*METRICS, "sncd", "sncd_z", "history", "notes"}
    extra = {key: page.plain(value) for key, value in metrics.items() if key not in known}
    notes = metrics.get("notes") or []
    notes = [notes] if isinstance(notes, str) else notes
    return (
        f"<article id='image-{index}'><h2>{page.escape(entry.name)}</h2>"
        + (f"<ul class='notes'>{''.join(f'<li>{page.escape(note)}</li>' for note in notes)}</ul>" if notes else "")
        + f"<div class='top'><div class='pair'>{pictures}</div><div>{page.table(numbers | extra)}</div></div>"
        + "".join(_series(entry.name, edit, lazy) for edit in entry.edits)
        + f"<div class='charts'>{_alignment(metrics)}{_history(metrics.get('history') or {})}</div></article>"
    )


def _series(name: str, edit: Edit, lazy: bool) -> str:
    """A row of edited pictures of image `name`."""
    record = edit.record
    figures = []
    for index, (strength, file) in enumerate(zip(record["strengths"], record["files"], strict=True)):
        caption = [page.strength(strength, record["unit"])]
        for key, metric in (("id", "ID"), ("lpips_alex", "LPIPS-Alex"), ("sncd_z_max", "largest z")):
            if key in record.get("metrics", {}):
                caption.append(f"{metric} {page.number(record['metrics'][key][index], 2)}")
        parts = ("images", name, "edits", edit.folder.name, file)
        figures.append(page.figure(parts, f"{name}, {record['label']} {caption[0]}", caption, lazy))
    origin = "; ".join(f"{d['name']}: {d['origin']}" for d in record["directions"])
    return (
        f"<h3>{page.escape(record['label'])}</h3>"
        f"<p class='muted'>{page.escape(origin)}. ID and LPIPS are against the inversion.</p>"
        f"<div class='series' tabindex='0'>{''.join(figures)}</div>"
        + "".join(
            page.figure(
                ("images", name, "edits", edit.folder.name, extra.name), f"{name}, {extra.stem}", [extra.stem], lazy
            )
            for extra in sorted([*edit.folder.glob("morph.*"), *edit.folder.glob("grid.png")])
        )
    )


def _alignment(metrics: Mapping[str, Any]) -> str:
    """SNCD layer by layer: among generator samples, and raw."""
    charts_made = []
    z, raw = metrics.get("sncd_z"), metrics.get("sncd")
    if z:
        finite = [v for v in z if math.isfinite(v)]
        beyond = sum(abs(v) > 3 for v in finite)
        worst = max(finite, default=math.nan)
        lines = (-3, -1, 1, 3) if min(finite, default=0) < -3 else (-1, 1, 3)
        tips = [f"layer {n}: z {v:.2f}" + (f", SNCD {raw[n]:.3f}" if raw else "") for n, v in enumerate(z)]
        svg = charts.bars(z, "alignment of each layer", axis="layer", lines=lines, limit=3, tips=tips)
        text = (
            f"Alignment: SNCD of each layer in standard deviations among the generator's own samples. Within ±1 is "
            f"typical; {beyond} of {len(z)} layers are beyond 3; the largest is {worst:.1f}."
        )
        charts_made.append(page.chart(svg, text))
    if raw:
        text = f"SNCD of each layer, as it is: mean {np.mean(raw):.3f}. Smaller is closer to the average style."
        charts_made.append(page.chart(charts.bars(raw, "SNCD of each layer", axis="layer"), text))
    return "".join(charts_made)


def _history(history: Mapping[str, Sequence[float]]) -> str:
    """A curve for the loss and for each of its terms."""
    names = sorted(history, key=lambda name: (name != "loss", name))
    made = [(charts.curve(history[name], f"{name} over the steps"), name) for name in names if len(history[name]) > 1]
    charts_made = [page.chart(svg, "Loss" if name == "loss" else f"Term {name}") for svg, name in made if svg]
    terms = "".join(charts_made[1:])
    details = (
        f"<details><summary>Terms of the loss</summary><div class='charts'>{terms}</div></details>" if terms else ""
    )
    return "".join(charts_made[:1]) + details


def _summary(entries: Sequence[Entry]) -> str:
    """Mean and range of every metric over the images, with the worst one linked."""
    rows = []
    for key, (name, unit, digits, up) in METRICS.items():
        measured = [(e.metrics.get(key), index) for index, e in enumerate(entries)]
        values = [(v, index) for v, index in measured if isinstance(v, int | float) and math.isfinite(v)]
        if values:
            ordered = sorted(values, reverse=up)
            mean = sum(value for value, _ in values) / len(values)
            worst = ordered[-1][1]
            link = f"<a href='#image-{worst}'>{page.escape(entries[worst].name)}</a>"
            cells = "".join(
                f"<td>{page.escape(page.number(v, digits, unit))}</td>" for v in (mean, ordered[0][0], ordered[-1][0])
            )
            rows.append(f"<tr><th scope='row'>{page.escape(name)} {'↑' if up else '↓'}</th>{cells}<td>{link}</td></tr>")
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("metric", "mean", "best", "worst", "worst image"))
    return (
        f"<section><h2>All images</h2><div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div></section>"
    )


def _failures(failures: Sequence[Mapping[str, str]]) -> str:
    if not failures:
        return ""
    items = "".join(
        f"<li><strong>{page.escape(f.get('file', ''))}</strong>: {page.escape(f.get('reason', ''))}</li>"
        for f in failures
    )
    return f"<section class='failures'><h2>Not inverted: {len(failures)}</h2><ul>{items}</ul></section>"


def _strips(entry: Entry) -> list[np.ndarray]:
    """The rows of strip.png that one image has: one for each series of edits, or one without."""
    base = [image_files.read(entry.folder / f"{kind}.png") for kind in ("target", "inversion")]
    rows = []
    for folder, record in entry.edits:
        edited = [image_files.read(folder / file) for file in record["files"]]
        captions = ["target", "inversion", *(page.strength(s, record["unit"]) for s in record["strengths"])]
        rows.append(strip([*base, *edited], captions, f"{entry.name}: {record['label']}"))
    return rows or [strip(base, ["target", "inversion"], entry.name)]


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


def _entry(out: pathlib.Path, name: str) -> Entry:
    folder = out / "images" / name
    series = sorted(path for path in folder.glob("edits/*/edit.json") if not path.parent.name.startswith("."))
    return Entry(name, folder, _json(folder / "metrics.json"), [Edit(path.parent, _json(path)) for path in series])


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultError(
            f"{path}: missing or damaged ({error}); remove its folder and run the command again"
        ) from error


def _count(entries: Sequence[Entry]) -> str:
    edits = sum(len(edit.record["files"]) for entry in entries for edit in entry.edits)
    return f"{edits} edited pictures" if edits else ""


def _cut(text: str, font: Any, width: float) -> str:
    """The text, or its beginning and an ellipsis, at most `width` pixels long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
