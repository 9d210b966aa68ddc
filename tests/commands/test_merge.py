"""The merge command as a program."""

import subprocess
import sys

import pytest

from lsap_jax.commands import merge as command
from lsap_jax.data import results


def test_the_program_says_what_is_missing_in_one_line_each(tmp_path):
    results.open_folder(tmp_path, {"store": {"entries": 4, "list": "x", "shard_size": 2}}, inside="shards")
    (tmp_path / "shards" / "part-00000-of-00002").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "lsap_jax", "merge", tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "part 0 of 2 lacks 1 of 1 shards (shard-00000.npz)" in done.stderr
    assert "--shard 1/2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fast
def test_it_wants_one_folder_and_shows_help(tmp_path, capsys):
    with pytest.raises(SystemExit, match="one results folder"):
        command.main(["merge"])
    with pytest.raises(SystemExit, match="no results folder"):
        command.main(["merge", str(tmp_path)])
    with pytest.raises(SystemExit, match="no results folder"):
        command.main(["merge", str(tmp_path), "--noverify"])
    with pytest.raises(SystemExit) as end:
        command.main(["merge", "--help"])
    assert not end.value.code
    assert "--[no]verify" in capsys.readouterr().out
