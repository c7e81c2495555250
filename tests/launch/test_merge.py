import pytest

import launch.merge  # Defines its flags before they are looked at.
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_workdir


@pytest.mark.slow
def test_table(tmp_path, capsys):
    config = tiny_config()
    workdir = write_workdir(tmp_path, config, {1: make_state(config, draw_variables(config, 1))})
    assert launch("merge", "--workdir", workdir, "--images=30") == 0
    header, *rows, _ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["top-1", "%", "MB"]
    names = [row[:20].strip() for row in rows]
    assert names == ["4 bits, as trained", "merged, 32 bits", "merged, 8 bits", "merged, 4 bits"]
    top1, megabytes, weights, _, multiplications, _ = zip(*(row[20:].split() for row in rows), strict=True)
    assert top1[0] == top1[1]
    assert float(megabytes[1]) > float(megabytes[2]) > float(megabytes[3])
    assert weights[0] != weights[1] == weights[2]
    assert multiplications[0] != multiplications[1]


def test_workdir_is_needed(capsys):
    assert launch("merge") == 2
    assert capsys.readouterr().err == "error: merge needs --workdir DIR\n"
