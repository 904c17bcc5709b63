from pathlib import Path

import pytest

from training.runs.files import written_whole


def write_and_fail(path: Path) -> None:
    with written_whole(path) as file:
        file.write(b"half of it")
        raise OSError("No space left on device")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    table = tmp_path / "results" / "table.md"
    with written_whole(table) as file:
        file.write(b"old")

    with pytest.raises(OSError, match="No space left"):
        write_and_fail(table)

    assert table.read_text() == "old"
    assert list(table.parent.iterdir()) == [table]
