"""Data sets of benchmark tasks in a local folder.

A set `owner/name` with a configuration and a split is searched where its own repository has it, so a plain copy of the repository works:
FOLDER/owner/name/CONFIGURATION/SPLIT.jsonl and the other paths of `places`.
"""

import csv
import gzip
import io
import json
import pathlib
from typing import Any

import pyarrow.parquet

from teleflm_jax.errors import UserError

FORMATS = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
WRAPPED = "json"
"""Column that holds the text of an item which is not a JSON object."""


def places(path: str, name: str | None, split: str) -> list[str]:
    """Return the possible paths of a split's files without suffix, relative to the folder; errors name the first."""
    inside = (f"{name}/{split}", f"{split}/{name}", f"{name}/data/{split}") if name else (split, f"data/{split}", f"default/{split}")
    return [f"{path}/{place}" for place in inside]


def find(folder: pathlib.Path, path: str, name: str | None, split: str) -> list[pathlib.Path]:
    """Return the files of a split: `SPLIT.*`, or several, `SPLIT-*.*` or `*-SPLIT.*`, in order.

    Raises:
        UserError: there are none.
    """
    for place in places(path, name, split):
        parent, stem = (folder / place).parent, (folder / place).name
        beside = sorted(parent.iterdir()) if parent.is_dir() else []
        known = {file: file.name.removesuffix(ending) for file in beside for ending in FORMATS if file.name.endswith(ending)}
        for fits in (stem.__eq__, lambda found, stem=stem: found.startswith(f"{stem}-") or found.endswith(f"-{stem}")):
            if files := [file for file, found in known.items() if fits(found)]:
                return files
    shown = f"{folder / places(path, name, split)[0]}.jsonl"
    raise UserError(
        f"got no {split} items of the data set {path}{f' ({name})' if name else ''} in {folder}; allowed: {', '.join(FORMATS)} files as in "
        f"the set's repository; put them at {shown}, or change suite.data or suite.tasks"
    )


def read(files: list[pathlib.Path]) -> list[dict[str, Any]]:
    """Return all items of some files.

    Raises:
        UserError: a file is not in the format of its name, or empty.
    """
    items = []
    for file in files:
        try:
            found = list(_items(file))
        except (ValueError, OSError, pyarrow.ArrowException, EOFError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"got {file}, which cannot be read ({reason}); allowed: a whole file; put it there again") from error
        if not found:
            raise UserError(f"got {file} without items; allowed: one or more; put the data set there again")
        items += found
    return items


def _items(file: pathlib.Path):
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    text = content.decode("utf-8-sig")
    if file.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [item if isinstance(item, dict) else {WRAPPED: json.dumps(item, ensure_ascii=False)} for item in _json(text)]


def _json(text: str) -> list:
    """Parse a list or one value per line: benchmark files use both under both suffixes."""
    try:
        whole = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return whole if isinstance(whole, list) else [whole]
