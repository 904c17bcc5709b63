from pathlib import Path

import pytest

from training.files import write_whole


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    table = tmp_path / "results" / "table.md"
    write_whole(table, "old")

    with pytest.raises(UnicodeEncodeError):
        write_whole(table, "new, up to here: \udcff")

    assert table.read_text() == "old"
    assert list(table.parent.iterdir()) == [table]
