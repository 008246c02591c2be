"""The notebook of the docs: it runs as it stands, and is committed without outputs."""

import json
import sys
from pathlib import Path

import pytest
from packages import run

NOTEBOOK = Path(__file__).parent.parent / "docs" / "first-steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_committed_without_outputs():
    """Outputs would be large, differ from machine to machine, and hide a change of the text."""
    kept = [cell["id"] for cell in CELLS if cell.get("outputs") or cell.get("execution_count") is not None]
    assert kept == [] and len(CODE) > 5


def test_its_cells_are_python():
    for source in CODE:
        compile(source, NOTEBOOK.name, "exec")


@pytest.mark.long
def test_it_runs_from_top_to_bottom(tmp_path):
    """In a kernel where nbclient and ipykernel are installed (extra `notebook`), else in a process of Python."""
    try:
        import ipykernel  # noqa: F401
        import nbclient
        import nbformat
    except ImportError:
        script = tmp_path / "notebook.py"
        script.write_text("\n\n".join(CODE), encoding="utf-8")
        run(sys.executable, str(script), cwd=tmp_path)
        return
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/svg+xml", "text/html"} <= kinds, "curves and tables stand inline"
