"""The notebook runs from its first cell to its last, with a network that trains in seconds."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "notebooks" / "digits.ipynb"
KEYS = (
    "--config.model.channels=(4,4,8,8)", "--config.model.depth=2", "--config.model.num_heads=2",
    "--config.model.mlp_ratio=1", "--config.optimizer.warmup_epochs=1.0",
    "--config.data.image_size=(16,16)",
)  # fmt: skip
MISSING = "pip install nbclient ipykernel"


def test_it_is_committed_without_outputs():
    cells = json.loads(FILE.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 8
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """As Jupyter runs it, which starts in the folder of the notebook."""
    pytest.importorskip("ipykernel", reason=MISSING)
    nbclient = pytest.importorskip("nbclient", reason=MISSING)
    nbformat = pytest.importorskip("nbformat", reason=MISSING)
    for name, value in {"EPOCHS": "2", "KEYS": " ".join(KEYS), "FOLDER": str(tmp_path)}.items():
        monkeypatch.setenv(f"NOTEBOOK_{name}", value)
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(FILE.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "pip" not in said  # All that the first cell looks for is here.
    assert "% of 360 test images" in said and "bit for bit" in said
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4
    made = {"run/curves.png", "explained/digit.png", "model.qsdt", "energy/energy.html"}
    assert {name for name in made if not (tmp_path / name).is_file()} == set()
