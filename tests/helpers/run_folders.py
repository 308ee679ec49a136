"""What a finished run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def assert_run_folder(folder: Path, history: list[dict[str, Any]]) -> None:
    """The folder holds this history, the resume file, and sheets that can be opened."""
    found = {p.name for p in folder.iterdir() if p.is_file()}
    sheets = {name for name in found if name.startswith("sheet_")}
    assert found - sheets == {"history.jsonl", "resume.pt"}
    assert sheets
    for name in sheets:
        with Image.open(folder / name) as sheet:
            assert min(sheet.size) > 96
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
