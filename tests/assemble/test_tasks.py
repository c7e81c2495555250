"""From `config.task.name` to a task."""

import sys

import pytest

from qsdt_jax.assemble.tasks import TASKS, build_task, task_factory
from qsdt_jax.errors import UserError
from tests.launch.tiny import tiny_config


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported until the end of the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_a_task_is_named_by_its_place(module):
    module("own", "from qsdt_jax.assemble.tasks import TASKS\nSAME = TASKS['classification']\n")
    assert task_factory("own:SAME") is TASKS["classification"]
    config = tiny_config(**{"task.name": "own:SAME"})
    assert build_task(config, ("a", "b", "c")).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "regresion",
            "config.task.name='regresion' is none of classification, semantic_segmentation, detection, nor "
            "MODULE:NAME",
        ),
        ("os.system", "is none of classification, semantic_segmentation, detection, nor MODULE:NAME"),
        ("..own:TASK", "is none of classification, semantic_segmentation, detection, nor MODULE:NAME"),
        ("not_there_at_all:TASK", "'not_there_at_all:TASK': No module named 'not_there_at_all'"),
        ("broken:TASK", "'broken:TASK': No module named 'missing_library'"),
        ("no_python:TASK", "'no_python:TASK': SyntaxError: invalid syntax (no_python.py, line 1)"),
        ("no_name:TASK", "'no_name:TASK': NameError: name 'undefined' is not defined"),
        ("two_lines:TASK", "'two_lines:TASK': ValueError: one two"),
        ("os:TASK", "'os:TASK': there is no TASK in os"),
        ("os:system", "'os:system': expected a TaskFactory, found builtin_function_or_method"),
    ],
)
def test_names_of_nothing(module, name, told):
    module("broken", "import missing_library\n")
    module("no_python", "else = 1\n")
    module("no_name", "undefined\n")
    module("two_lines", "raise ValueError('one\\ntwo')\n")
    with pytest.raises(UserError) as error:
        build_task(tiny_config(**{"task.name": name}), ("a",))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_classification_needs_classes():
    with pytest.raises(UserError, match="needs data with classes"):
        build_task(tiny_config(), None)
