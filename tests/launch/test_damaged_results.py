"""Small files that a run leaves for the table of its study."""

import pytest

from launch.ablate import _number


@pytest.mark.parametrize("content", ["", "12.", "{}", "[3]", "null", "true", '"3"', "\0\0"])
def test_a_file_that_holds_no_number_leaves_its_cell_empty(tmp_path, content, capsys):
    file = tmp_path / "spikes.json"
    file.write_text(content)
    assert _number(file) == ""
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"{file}: expected a number (") and "remove it and run" in told


def test_a_file_that_cannot_be_read(tmp_path, capsys):
    file = tmp_path / "spikes.json"
    file.symlink_to("/proc/self/mem")
    assert _number(file) == ""
    assert "(Input/output error)" in capsys.readouterr().err


def test_a_number(tmp_path, capsys):
    for content, number in (("12\n", 12), ("12.5", 12.5)):
        (tmp_path / "seconds.json").write_text(content)
        assert _number(tmp_path / "seconds.json") == number
    assert not capsys.readouterr().err
