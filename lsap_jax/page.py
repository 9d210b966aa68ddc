"""The parts of a static page: one look, no script, nothing from the network."""

import html
import json
import math
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any


def document(title: str, body: Sequence[str]) -> str:
    """A whole page."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def figure(parts: Sequence[str], alt: str, caption: Sequence[str], lazy: bool) -> str:
    """A picture that opens in full; `parts` is its path from the folder of the page."""
    url = escape("/".join(urllib.parse.quote(part) for part in parts))
    first, *others = caption
    loading = " loading='lazy'" if lazy else ""
    lines = f"<b>{escape(first)}</b>" + "".join(f"<span>{escape(line)}</span>" for line in others)
    return (
        f"<figure><a href='{url}'><img src='{url}' alt='{escape(alt)}'{loading}></a>"
        f"<figcaption>{lines}</figcaption></figure>"
    )


def chart(svg: str, text: str) -> str:
    """A drawing above what it shows, in words."""
    return f"<figure class='chart'>{svg}<figcaption><span>{escape(text)}</span></figcaption></figure>"


def table(rows: Mapping[str, str]) -> str:
    """Two columns; nothing without rows."""
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th scope='row'>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items()
    )
    return f"<div class='wide'><table>{cells}</table></div>"


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings -> {"method.stages.0.steps": "100"}."""
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        pairs = enumerate(value)
    else:
        return {prefix: plain(value)}
    return {
        key: text
        for name, item in pairs
        for key, text in flat(item, f"{prefix}.{name}" if prefix else f"{name}").items()
    }


def strength(value: float, unit: str) -> str:
    """A strength with its unit."""
    return f"{value:+g} {unit}" if value else "0"


def number(value: Any, digits: int, unit: str = "") -> str:
    """A number with its unit; words for what is none."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "not finite" if isinstance(value, float) else "–"
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


def plain(value: Any) -> str:
    """Any value of a settings file, on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def escape(text: Any) -> str:
    """Text as HTML shows it."""
    return html.escape(str(text), quote=True)


_STYLE = """
:root{color-scheme:light dark;--page:#f6f6f4;--card:#fff;--ink:#1d1d22;--muted:#62626b;--grid:#dcdce0;--bar:#2a6fbb;
--alert:#b3401d;--edge:#e4e4e6;--shade:#efeff1}
@media (prefers-color-scheme:dark){:root{--page:#141417;--card:#1d1d21;--ink:#ececf0;--muted:#a0a0ab;--grid:#3a3a42;
--bar:#6ea8e6;--alert:#ef8a62;--edge:#2e2e35;--shade:#29292f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.15rem;margin:0 0 12px;overflow-wrap:anywhere}
h3{font-size:1rem;margin:20px 0 0;overflow-wrap:anywhere}
p{margin:4px 0 12px}
a{color:var(--bar)}
.muted,footer{color:var(--muted);font-size:.9rem}
article,section{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:18px;margin:18px 0}
.failures{border-left:4px solid var(--alert)}
.failures li{overflow-wrap:anywhere}
.notes{list-style:none;display:flex;flex-wrap:wrap;gap:6px;padding:0;margin:0 0 12px}
.notes li{background:var(--shade);border-radius:6px;padding:2px 10px;font-size:.88rem}
.top{display:grid;grid-template-columns:minmax(0,1.9fr) minmax(0,1fr);gap:18px;align-items:start}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:10px}
figure{margin:0;min-width:0}
img{display:block;width:100%;aspect-ratio:1;object-fit:cover;border-radius:6px;background:var(--shade)}
figcaption{font-size:.84rem;padding-top:4px;line-height:1.35}
figcaption b{display:block;font-weight:600}
figcaption span{display:block;color:var(--muted);font-variant-numeric:tabular-nums}
.series{display:flex;gap:10px;overflow-x:auto;padding-bottom:8px}
.series figure{flex:1 0 132px;max-width:260px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:18px;margin-top:18px}
details{grid-column:1/-1}
summary{cursor:pointer;color:var(--muted);font-size:.9rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:4px 12px 4px 0;border-bottom:1px solid var(--edge);vertical-align:top}
th,td{overflow-wrap:anywhere}
th[scope=row]{font-weight:500;color:var(--muted)}
tr:last-child>*{border-bottom:0}
svg{display:block;width:100%;height:auto;font:11px system-ui,sans-serif}
svg text{fill:var(--muted)}
.bar{fill:var(--bar)}.alert{fill:var(--alert)}
.line{fill:none;stroke:var(--bar);stroke-width:2;stroke-linejoin:round}
.rule{stroke:var(--grid)}.rule.zero{stroke:var(--muted)}.rule.limit{stroke:var(--alert);stroke-dasharray:4 3}
@media (max-width:720px){.top{grid-template-columns:1fr}main{padding:14px 10px 32px}article,section{padding:14px}}
"""
