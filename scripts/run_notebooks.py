"""Execute the notebooks in place, so that their outputs are those of the present code (``make notebooks``).

python scripts/run_notebooks.py [NAME ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; raises at the first cell that fails."""
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:
        # Times of execution would make every run a change.
        cell.metadata.pop("execution", None)
    return notebook


def main() -> None:
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
    for name in names:
        path = FOLDER / f"{name}.ipynb"
        print(path.name, file=sys.stderr)
        nbformat.write(execute(path), path)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
