"""The picture strip and the page of a results folder."""

import html.parser
import io
import json
import re
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from lsap_jax import charts, report
from lsap_jax.data import images, results
from lsap_jax.errors import ImageError, ResultError

pytestmark = pytest.mark.fast

SETTINGS = {
    "generator": "ffhq-mobile",
    "preset": "lsap",
    "method": {"space": "w+", "stages": [{"steps": 100, "terms": [["lpips_vgg", 1.0]]}]},
}
HOSTILE = "<script>alert('\"&')</script>"


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with attributes, visible text, and that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def png(value, size=32):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def add_image(out, name, psnr=20.0, **metrics):
    metrics = {"lpips_vgg": 0.3, "psnr": psnr, "sncd": [0.1, 0.2], "sncd_z": [0.5, -4.0], "history": {}, **metrics}
    pictures = {"target.png": png(50), "inversion.png": png(100)}
    results.write(out, name, {"ws": np.zeros((2, 2))}, {"kind": "inversion"}, metrics, pictures)


def add_edit(out, name, label="pca0"):
    folder = out / "images" / name / "edits" / label
    folder.mkdir(parents=True)
    for value, file in ((10, "-2.png"), (200, "2.png")):
        (folder / file).write_bytes(png(value))
    record = {
        "label": label,
        "directions": [{"name": "pca0", "origin": "principal axis 0"}],
        "unit": "sigma",
        "strengths": [-2.0, 2.0],
        "files": ["-2.png", "2.png"],
        "metrics": {"id": [0.81, 0.72], "lpips_alex": [0.11, 0.12], "sncd_z_max": [1.5, 2.5]},
    }
    (folder / "edit.json").write_text(json.dumps(record))


@pytest.fixture
def out(tmp_path):
    return results.open_folder(tmp_path / "out", SETTINGS)


def written(out):
    return Page(report.write_index(out).read_text())


def test_strip_puts_pictures_side_by_side():
    pictures = [np.full((32, 32, 3), 10, np.uint8), np.full((512, 512, 3), 0.5, np.float32)]
    sheet = report.strip(pictures, ["target", "+2 sigma"], "me")
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] > 2 * 256
    middle = sheet.shape[0] - 128
    assert (sheet[middle, 128] == 10).all()
    assert (sheet[middle, 256 + 140] == images.to_uint8(np.float32(0.5))).all()
    assert (sheet[:50] < 100).any()  # letters
    untitled = report.strip(pictures, ["", ""])
    assert (untitled[: untitled.shape[0] - 256 - 8] == 255).all()


def test_strip_cuts_long_captions():
    short = report.strip([np.zeros((8, 8, 3), np.uint8)], ["x" * 300])
    assert short.shape[1] == 256 + 16
    assert (short[:20, -8:] == 255).all()


def test_strip_needs_a_caption_for_each_picture():
    with pytest.raises(ImageError, match="1 and 2 were given"):
        report.strip([np.zeros((8, 8, 3), np.uint8)], ["a", "b"])
    with pytest.raises(ImageError, match="0 and 0"):
        report.strip([], [])


def test_page_of_one_image(out):
    history = {"loss": [1.0, 0.5, float("nan")], "l2": [0.2, 0.1, 0.1]}
    add_image(out, "me.jpg", notes=["2 faces: the largest was taken"], source="photos/me.jpg", history=history)
    page = written(out)
    assert [i["src"] for i in page.all("img")] == ["images/me.jpg/target.png", "images/me.jpg/inversion.png"]
    assert "20.00 dB" in page.text
    assert "2 faces: the largest was taken" in page.text
    assert "1 of 2 layers are beyond 3; the largest is 0.5" in page.text
    assert "method.stages.0.steps" in page.text
    assert "non-commercial research" in page.text  # licence of the weights
    assert len(page.all("svg")) == 4  # alignment, SNCD, loss and one term
    assert images.read(out / "strip.png").shape[1] > 2 * 256


def test_page_shows_edits_with_their_strengths(out):
    add_image(out, "me.jpg")
    add_edit(out, "me.jpg")
    (out / "images/me.jpg/edits/.partial-x~1").mkdir()  # of a killed command
    (out / "images/me.jpg/edits/.partial-x~1/edit.json").write_text("{")
    page = written(out)
    assert [i["src"] for i in page.all("img")][2:] == [f"images/me.jpg/edits/pca0/{s}.png" for s in ("-2", "2")]
    for text in ("-2 sigma", "+2 sigma", "ID 0.81", "LPIPS-Alex 0.12", "largest z 2.50", "principal axis 0"):
        assert text in page.text
    assert images.read(out / "strip.png").shape[1] > 4 * 256


def test_everything_the_page_needs_lies_in_the_folder(out):
    for name in ("a b#?&'<>.jpg", "é%41.png"):
        add_image(out, name)
        add_edit(out, name, "x+y %")
    page = written(out)
    assert len(page.all("img")) == 8
    for url in [i["src"] for i in page.all("img")] + [a["href"] for a in page.all("a")]:
        parts = urllib.parse.urlsplit(url)
        assert not parts.scheme
        assert not parts.netloc
        if parts.path:
            assert (out / urllib.parse.unquote(parts.path)).is_file()
        else:
            assert parts.fragment in {a.get("id") for a in page.all("article")}
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?:", (out / "index.html").read_text())


def test_all_text_is_escaped(tmp_path):
    out = results.open_folder(tmp_path / "out", {**SETTINGS, "generator": HOSTILE, "x": {HOSTILE: HOSTILE}})
    add_image(out, "me", notes=[HOSTILE], source=HOSTILE, **{HOSTILE: HOSTILE, "history": {HOSTILE: [1.0, 0.5]}})
    add_edit(out, "me")
    path = out / "images/me/edits/pca0/edit.json"
    record = json.loads(path.read_text())
    record |= {"label": HOSTILE, "unit": HOSTILE, "directions": [{"name": HOSTILE, "origin": HOSTILE}]}
    path.write_text(json.dumps(record))
    (out / "failures.json").write_text(json.dumps([{"file": HOSTILE, "reason": HOSTILE}]))
    page = written(out)
    assert page.all("script") == []
    assert page.text.count(HOSTILE) > 10


def test_several_images_are_summed_up_and_failures_listed(out):
    for name, psnr in (("a", 20.0), ("b", 10.0), ("c", 30.0), ("d", float("nan"))):
        add_image(out, name, psnr)
    (out / "failures.json").write_text(json.dumps([{"file": "cat.jpg", "reason": "no face was found"}]))
    page = written(out)
    text = (out / "index.html").read_text()
    row = re.search(r"PSNR ↑</th>(.*?)</tr>", text).group(1)
    assert re.findall(r"[\d.]+ dB", row) == ["20.00 dB", "30.00 dB", "10.00 dB"]  # mean, best, worst
    assert "<a href='#image-1'>b</a>" in row
    assert "Not inverted: 1" in page.text
    assert "no face was found" in page.text
    assert "not finite" in page.text


def test_an_empty_folder_has_a_page(out):
    assert "0 images" in written(out).text
    assert not (out / "strip.png").exists()


def test_light_and_dark_and_phone(out):
    add_image(out, "me")
    report.write_index(out)
    text = (out / "index.html").read_text()
    assert "prefers-color-scheme:dark" in text
    assert "width=device-width" in text


def test_same_files_give_the_same_page(out):
    add_image(out, "me")
    first = report.write_index(out).read_bytes(), (out / "strip.png").read_bytes()
    assert (report.write_index(out).read_bytes(), (out / "strip.png").read_bytes()) == first


def test_damaged_or_foreign_folders_are_errors(out, tmp_path):
    with pytest.raises(ResultError, match="no results folder"):
        report.write_index(tmp_path)
    add_image(out, "me")
    (out / "images/me/metrics.json").write_text("{")
    with pytest.raises(ResultError, match=r"metrics\.json: missing or damaged"):
        report.write_index(out)


def test_bars():
    svg = Page(charts.bars([1.0, -4.0, float("nan"), 0.0], "t <", axis="layer", lines=(-1, 1, 3), limit=3))
    assert [bar["class"] for bar in svg.all("rect")] == ["bar", "alert", "bar"]
    heights = [float(bar["height"]) for bar in svg.all("rect")]
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.02)
    assert len(svg.all("line")) == 4
    assert svg.all("svg")[0]["aria-label"] == "t <"
    everything = [float(rect["y"]) + float(rect["height"]) for rect in svg.all("rect")]
    assert max(everything) <= 190
    assert Page(charts.bars([], "none", axis="layer")).all("rect") == []


def test_curve():
    svg = Page(charts.curve(np.geomspace(1, 0.01, 1000), "loss"))
    points = [tuple(map(float, p.split(","))) for p in svg.all("polyline")[0]["points"].split()]
    assert len(points) <= 240
    slope = np.diff([y for _, y in points]) / np.diff([x for x, _ in points])
    assert np.ptp(slope) < 0.2  # a straight line on the logarithmic scale
    assert "log scale" in svg.text
    assert "log scale" not in Page(charts.curve([1.0, -1.0], "term")).text
    assert charts.curve([float("nan")], "nothing") == ""
    assert Page(charts.curve([2.0, 2.0], "flat")).all("polyline")
