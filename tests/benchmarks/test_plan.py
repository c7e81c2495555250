"""What is planned beforehand, without the compiler."""

import json

import pytest

from benchmarks import plan
from benchmarks.sizes import SETTINGS
from qsdt_jax.errors import UserError
from qsdt_jax.inspect import gpu_compiler


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--settings=S,XL"], f"unknown setting 'XL'; there are {', '.join(SETTINGS)}"),
        (["--settings="], "unknown setting ''; there are "),
        ([], "XLA's compiler for GPUs is not installed here; 1 GB: pip install '.[gpu-compile]'"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_compiler, "PLUGINS", ("no_such_plugin",))
    out = tmp_path / "plan.json"
    with pytest.raises(SystemExit) as left:
        plan.main([*words, f"--out={out}"])
    assert left.value.code == 2 and not out.exists()
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in line


def test_what_the_compiler_refuses_stops_no_other(tmp_path, monkeypatch):
    """As for want of memory."""

    def refused(target, name, lowered):
        raise UserError(f"no memory for the {name}")

    monkeypatch.setattr(plan, "compiled_for", refused)
    monkeypatch.setattr(plan, "devices_of", lambda target, count: ())
    monkeypatch.setattr(
        plan, "promises", lambda setting, target: {setting: plan.promised(setting, str, target, 1)}
    )
    out = tmp_path / "plan.json"
    plan.main(["--settings=S,M", f"--out={out}"])
    assert json.loads(out.read_text()) == {
        "S": {"failed": "no memory for the S"},
        "M": {"failed": "no memory for the M"},
    }
