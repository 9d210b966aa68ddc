"""What a run leaves to look at: metrics, pictures, one line of progress.

WORKDIR/metrics.jsonl    {"step": n, "split": "train" or "eval", metric: value, ...} a line
WORKDIR/tensorboard/     the same, if tensorboardX is installed (`pip install 'lsap_jax[tensorboard]'`)
WORKDIR/pictures/        inputs above their reconstructions, by step
"""

import json
import pathlib
import sys
import time
from typing import Any

import numpy as np

from lsap_jax.data import images


class Logs:
    """Writes only on the first host; on the others every method does nothing."""

    def __init__(self, workdir: pathlib.Path, step: int, total: int, active: bool):
        """Go on after `step` of `total`: lines of later steps, of a run that was killed since, are dropped."""
        self.workdir, self.total, self.active = workdir, total, active
        self.began, self.first = time.monotonic(), step
        if not active:
            return
        (workdir / "pictures").mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            path.write_text("".join(f"{line}\n" for line in kept))
        self.file = open(path, "a")  # noqa: SIM115, open as long as the run
        self.board: Any = None
        try:
            import tensorboardX  # type: ignore[missing-import]
        except ImportError:
            return
        self.board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """One line of metrics."""
        if not self.active:
            return
        self.file.write(json.dumps({"step": step, "split": split, **metrics}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in metrics.items():
                self.board.add_scalar(f"{split}/{name}", value, step)

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """One line on the terminal, over the last one."""
        if not self.active:
            return
        seconds = time.monotonic() - self.began
        rate = (step - self.first) / seconds if seconds > 0.01 else 0.0
        left = f"{(self.total - step) / rate / 60:.0f} min left" if rate else "compiled"
        terms = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if not name.endswith("_norm"))
        print(f"\rstep {step}/{self.total}  {rate:.2f} steps/s  {left}  {terms}   ", end="", file=sys.stderr)
        sys.stderr.flush()

    def picture(self, step: int, above: np.ndarray, below: np.ndarray) -> None:
        """Images (n, r, r, 3) in [-1, 1] over their reconstructions (n, r, r, 3)."""
        if self.active:
            grid = np.concatenate([np.concatenate(list(row), 1) for row in (above, below)], 0)
            images.write_png(self.workdir / "pictures" / f"{step:07d}.png", images.to_uint8(grid))

    def close(self) -> None:
        """After the last line."""
        if self.active:
            print(file=sys.stderr)
            self.file.close()
            if self.board is not None:
                self.board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # the torn last line of a killed run
