"""The fingerprint of a run's data, `data.json` in its directory, which detects later changes of the data.

    dataset       the option `--dataset`
    classes       names of the classes of images, in the order of the labels
    splits        {split: {"examples": images, characters or pairs, "sha256": of the examples}}
    files         {path: {"bytes", "sha256"}} of the user's own data (`folder:`, `file:`), relative to the data
    files_sha256  hash of `files`; an export keeps only the hash, since file names can be private

Data are equal if their files are equal, even if they decode differently (JPEG decoders differ slightly between
machines), or if the examples are equal (unused files may appear and disappear).
"""

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from kerasnets.checks import RequestError
from kerasnets.data.splits import SPLITS, DataError
from kerasnets.run.files import DATA, read_json, write_json
from kerasnets.tasks import Task

VERBS = {
    "added": ("was added", "were added"),
    "changed": ("changed", "changed"),
    "removed": ("was removed", "were removed"),
}
MAX_NAMES = 3  # of changed files in a message
BLOCK = 10_000  # files waiting for a thread, which take a kilobyte each
Fingerprint = dict[str, Any]


def compute(task: Task, before: Fingerprint | None = None) -> Fingerprint:
    """Read the data of a task; -> their fingerprint.

    Args: before: an earlier fingerprint. If its files are the same, its hashes of the examples are used, since to
        compute them reads all data once more.
    Raises: DataError if the data cannot be read.
    """
    data = task.data
    files = list_files(task.config.dataset)
    classes = {"classes": list(data.classes)} if data.classes else {}
    known = before["splits"] if before and "splits" in before and same_files(before, summary(files)) else {}
    splits = {}
    for name in SPLITS:
        part = getattr(data, name)
        # The pixels of a prepared dataset depend on the machine's decoder; its labels suffice to identify it.
        content = part[1] if classes and files is None else part
        sha256 = known[name]["sha256"] if known else digest(content)
        splits[name] = {"examples": data.count(name), "sha256": sha256}
    return {"dataset": task.config.dataset, **classes, "splits": splits} | summary(files)


def summary(files: Mapping[str, Any] | None) -> Fingerprint:
    if files is None:
        return {}
    return {"files": dict(files), "files_sha256": digest(json.dumps(files, sort_keys=True))}


def digest(content: Any) -> str:
    """-> SHA-256 of a text, lists of texts, an array or a tuple of arrays; of the bytes of examples that
    are read from files when they are needed."""
    columns = content if isinstance(content, tuple) else (content,)
    sha = hashlib.sha256()
    if isinstance(content, str) or all(isinstance(column, list) for column in columns):
        columns = ()
        sha.update(json.dumps(content).encode())
    for column in columns:
        if isinstance(column, np.ndarray):
            sha.update(f"{column.dtype}{column.shape}".encode())
            sha.update(np.ascontiguousarray(column).data)
        else:
            for part in column.contents():
                sha.update(part)
    return sha.hexdigest()


def list_files(dataset: str) -> dict[str, dict[str, Any]] | None:
    """-> size and SHA-256 of each file of the user's own data, except hidden files; None for other datasets, and if the
    path does not exist."""
    prefix, colon, path = dataset.partition(":")
    root = Path(path)
    if not colon or prefix not in ("folder", "file") or not root.exists():
        return None
    if root.is_file():
        return {root.name: describe_file(root)}
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            paths += [Path(folder, name) for name in names if not name.startswith(".")]
        seen.add(real)
    paths = sorted(path for path in paths if path.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing and reading release the GIL
        blocks = (paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK))
        descriptions = itertools.chain.from_iterable(pool.map(describe_file, block) for block in blocks)
        return {
            path.relative_to(root).as_posix(): description
            for path, description in zip(paths, descriptions, strict=True)
        }


def describe_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def same_files(before: Fingerprint, now: Fingerprint) -> bool:
    return "files_sha256" in before and before["files_sha256"] == now.get("files_sha256")


def changed_splits(before: Fingerprint, now: Fingerprint) -> list[str]:
    """-> the splits whose examples or classes have changed."""
    key = "examples" if same_files(before, now) else "sha256"
    if before.get("classes") != now.get("classes"):
        return list(SPLITS)
    if "splits" not in before:  # no data.json: only the classes are known
        return []
    return [name for name in SPLITS if before["splits"][name][key] != now["splits"][name][key]]


def difference(before: Fingerprint, now: Fingerprint, unit: str) -> str | None:
    """-> the changes, to be inserted into a sentence, or None.

    Args: unit of the examples: images, characters, pairs.
    """
    changed = changed_splits(before, now)
    if not changed:
        return None
    if classes := class_difference(before.get("classes", []), now.get("classes", [])):
        return classes
    parts = file_difference(before, now)
    for name in SPLITS:
        old, new = before["splits"][name]["examples"], now["splits"][name]["examples"]
        if old != new:
            parts.append(f"{name} has {new:,} {unit[:-1] if new == 1 else unit} and had {old:,}")
    return ", ".join(parts) or f"the {unit} of {' and '.join(changed)} have changed, but not their number"


def class_difference(before: list[str], now: list[str]) -> str:
    added, removed = [name for name in now if name not in before], [name for name in before if name not in now]
    if len(removed) == len(added) == 1:
        return f"class {removed[0]!r} is now {added[0]!r}"
    parts = [
        f"{'class' if len(names) == 1 else 'classes'} {', '.join(map(repr, names))} {VERBS[kind][len(names) > 1]}"
        for kind, names in (("added", added), ("removed", removed))
        if names
    ]
    return ", ".join(parts) or ("the classes have another order" if before != now else "")


def file_difference(before: Fingerprint, now: Fingerprint) -> list[str]:
    """-> "3 files were added (...)", "1 changed (...)" and so on."""
    if "files" not in before or "files" not in now:
        differ = "files_sha256" in before and not same_files(before, now)
        return ["files were changed, added or removed"] if differ else []
    old, new = before["files"], now["files"]
    kinds = {
        "added": [name for name in new if name not in old],
        "changed": [name for name in new if name in old and new[name] != old[name]],
        "removed": [name for name in old if name not in new],
    }
    parts: list[str] = []
    for kind, names in kinds.items():
        if names:
            noun = "" if parts else " file" if len(names) == 1 else " files"
            examples = ", ".join([*names[:MAX_NAMES], *["..."][: len(names) > MAX_NAMES]])
            parts.append(f"{len(names)}{noun} {VERBS[kind][len(names) > 1]} ({examples})")
    return parts


def write(directory: Path, fingerprint: Fingerprint) -> None:
    write_json(directory / DATA, fingerprint)


def copy_without_names(run_dir: Path, extra: Path) -> None:
    """Copy data.json of a run into an export, without the names of files."""
    if (run_dir / DATA).exists():
        write(extra, {name: value for name, value in read_json(run_dir / DATA).items() if name != "files"})


def load(directory: Path, task: Task) -> Fingerprint:
    """-> the fingerprint from a run directory or `assets.extra`, with the model's own classes; without the file the
    classes alone, and a warning on standard error."""
    fingerprint = {}
    if (directory / DATA).exists():
        fingerprint = read_json(directory / DATA)
    else:
        print(
            f"{directory / DATA} is missing: a change of the data since the training cannot be detected.",
            file=sys.stderr,
        )
    return fingerprint | ({"classes": list(task.classes)} if task.classes else {})


def check_unchanged(directory: Path, task: Task) -> None:
    """Raises: RequestError if the data have changed since the run began."""
    before = load(directory, task)
    if changes := difference(before, compute(task, before), task.facts.unit):
        raise RequestError(
            f"{task.config.dataset} has changed since {directory} was created: {changes}; restore the data, or give "
            "another --run-dir."
        )


def check_scored(directory: Path, task: Task, split: str) -> str | None:
    """Compare the current data with those of the training, before `split` is scored.

    The scored split alone may change: a user who adds examples to it wants them scored. If the training split has
    changed too, the data may have been split again, and scored examples may have been trained on.

    Returns: the changes that do not prevent scoring, or None.
    Raises: RequestError if the classes have changed, or both the training split and the scored one.
    """
    before = load(directory, task)
    now = compute(task, before)
    changes, changed = difference(before, now, task.facts.unit), changed_splits(before, now)
    if changes is None or split not in changed:
        return None
    if "train" in changed:
        raise RequestError(
            f"{task.config.dataset} has changed since the training: {changes}; restore the data or train again, since "
            "examples of the split may have been trained on, or have other classes."
        )
    return changes


def check_exported(directory: Path, task: Task, always_read: bool) -> str | None:
    """-> the changes of a run's data, or None; None also if the data are missing, as on another machine.

    Args: always_read: read the data in any case. Otherwise they are read, which takes time, only if files of the
        user's own data have changed.
    """
    before = load(directory, task)
    files = None if always_read else list_files(task.config.dataset)
    if not always_read and (files is None or same_files(before, summary(files))):
        return None
    try:
        return difference(before, compute(task, before), task.facts.unit)
    except DataError as error:
        return None if always_read else str(error)
