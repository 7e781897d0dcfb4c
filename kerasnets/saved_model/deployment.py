"""Configuration for servers: `models.config` in the models directory, and batching parameters in each version.

MODELS_DIR/models.config                          --model_config_file of `python -m serving` and TensorFlow Serving
MODELS_DIR/NAME/VERSION/batching_params.pbtxt     read by TensorFlow Serving with --enable_batching and
                                                  --enable_per_model_batching_parameters
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

LABELS = ("stable", "canary")
CONFIG, BATCHING = "models.config", "batching_params.pbtxt"
GENERATED = "# Written by `python -m kerasnets.export`, which keeps it up to date as long as this line is the first."
HEADER = f"""{GENERATED}
# An export adds new models and removes deleted ones; it keeps the other fields of an entry, but no comments.
# Labels need --allow_version_labels_for_unavailable_models, because a server checks them before it loads the versions.
"""
MAX_REQUEST_ROWS = 1000  # the server's own default
MIN_THROUGHPUT = 0.9  # fraction of the maximum rows per second that a batch has to reach
MAX_WAIT = 0.5  # for other requests of a batch, as a fraction of the latency of a single request


def update_config(models_dir: Path, name: str, version: int, label: str | None = None) -> None:
    """Update `models.config` from the models directory, after a new version has been written.

    Every directory with a version becomes an entry. `label` moves to the new version; the other label stays on its
    version while that exists. A model with labels has the policy `specific`: servers load the versions with labels and
    the newest one (a policy `all` stays, as it includes them). A model without labels keeps its policy; without one,
    servers load the newest version.

    A file without the generated first line, or one that cannot be parsed, belongs to the user: it stays unchanged, and
    a message says so. The new file is written under a temporary name and renamed.
    """
    path = models_dir / CONFIG
    config = model_server_config_pb2.ModelServerConfig()
    text = path.read_text("utf-8") if path.exists() else GENERATED
    try:
        text_format.Parse(text, config)
        reason = "" if text.partition("\n")[0] == GENERATED else "its first line does not say that it is generated"
    except text_format.ParseError as error:
        reason = f"it cannot be read ({error})"
    if reason:
        hint = f' To label it, add version_labels {{ key: "{label}" value: {version} }} to {name}.' if label else ""
        print(f"{path} is unchanged, because {reason}.{hint}", file=sys.stderr)
        return
    entries = {entry.name: entry for entry in config.model_config_list.config}
    exported = {base.name: versions(base) for base in models_dir.iterdir() if base.is_dir() and versions(base)}
    config.model_config_list.ClearField("config")
    for model in sorted(exported.keys() | {entry for entry in entries if is_outside(entries[entry], models_dir)}):
        entry = config.model_config_list.config.add()
        if model in entries:
            entry.CopyFrom(entries[model])
        if model in exported:
            entry.name, entry.base_path = model, str((models_dir / model).resolve())
            entry.model_platform = entry.model_platform or "tensorflow"
            set_labels(entry, exported[model], {label: version} if model == name and label else {})
    partial = path.with_name(f".{CONFIG}.{os.getpid()}")
    partial.write_text(HEADER + text_format.MessageToString(config), "utf-8")
    os.replace(partial, path)


def versions(base: Path) -> list[int]:
    """-> the versions in a model's directory, in ascending order."""
    numbers = [path.name for path in base.iterdir() if (path / "saved_model.pb").exists()]
    return sorted(int(number) for number in numbers if re.fullmatch("[0-9]+", number))


def is_outside(entry: Any, models_dir: Path) -> bool:
    """Whether a model is outside the models directory; its entry stays unchanged."""
    return Path(entry.base_path).parent != models_dir.resolve()


def set_labels(entry: Any, numbers: list[int], new_labels: Mapping[str, int]) -> None:
    """Set labels and policy of a model with these versions, in ascending order."""
    had_labels = bool(entry.version_labels)
    old_labels = {label: number for label, number in entry.version_labels.items() if number in numbers}
    labels = {**old_labels, **new_labels}
    entry.version_labels.clear()
    entry.version_labels.update(labels)
    policy = entry.model_version_policy
    if labels and not policy.HasField("all"):
        policy.specific.versions[:] = sorted({*labels.values(), numbers[-1]})
    elif had_labels and policy.HasField("specific"):
        entry.ClearField("model_version_policy")


def batching(batches: Sequence[Mapping[str, float]], cpus: int) -> str:
    """-> BatchingParameters in text format, chosen from the latencies of requests of several sizes.

    Args:
        batches: [{"rows", "p50"}], from 1 row up, p50 in milliseconds: `batches` of the report of `verify`.
        cpus: number of CPUs of the machine that measured them.

    A comment in the file states the rule.
    """
    # A request that took longer than a larger one was slowed down by other work on the machine.
    times = {int(batch["rows"]): min(later["p50"] for later in batches[n:]) for n, batch in enumerate(batches)}
    speed = {rows: rows / milliseconds for rows, milliseconds in times.items()}
    max_speed = max(speed.values())
    size = min(rows for rows, value in speed.items() if value >= MIN_THROUGHPUT * max_speed)
    wait = round(1000 * MAX_WAIT * times[1]) if size > 1 else 0
    measured = ", ".join(f"{batch['rows']}: {batch['p50']:.2f} ms" for batch in batches)
    allowed = "\n".join(f"allowed_batch_sizes: {rows}" for rows in speed if rows <= size)
    return f"""\
# BatchingParameters for TensorFlow Serving: --enable_batching --enable_per_model_batching_parameters
# Latency of `serving_default` by rows per request, on {cpus} CPUs: {measured}.
# The batch size is the smallest that reaches {MIN_THROUGHPUT:.0%} of the maximum rows per second: {size}.
# Larger requests are split; a batch is padded to the next allowed size.
# A request waits for others at most {MAX_WAIT:.0%} of its own latency. One batch per CPU runs at a time.
# A request that the model rejects fails the other requests of its batch too.
max_execution_batch_size {{ value: {size} }}
{allowed}
enable_large_batch_splitting {{ value: true }}
max_batch_size {{ value: {MAX_REQUEST_ROWS} }}
batch_timeout_micros {{ value: {wait} }}
num_batch_threads {{ value: {cpus} }}
"""
