"""`python -m benchmarks.presets TASK/PRESET ...`: trains presets, scores them, and keeps what they reached.

Each is trained by its command in a process of its own, which is timed whole, with seed 0 and the data of the preset;
`results.json` keeps the numbers. The sentence that is printed belongs into the preset, behind "# Measured: ".
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
KEPT = ("parameters", "steps", "examples_per_second", "data_wait", "packages")
# Tables and what is the same everywhere.
LEFT_OUT = ("task", "dataset", "split", "seconds", "classes", "class_accuracy", "confusion_matrix")


def main(names: list[str]) -> None:
    for name in names:
        results = json.loads(RESULTS.read_text("utf-8")) | {name: measure(name)}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"{name}: {statement(name, results[name])}", flush=True)


def measure(name: str) -> dict:
    task, _, preset = name.partition("/")
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        began = time.monotonic()
        program("train", task, f"--preset={preset}", f"--run-dir={run}")
        seconds = round(time.monotonic() - began)
        metrics = json.loads((run / "metrics.json").read_text("utf-8"))
        result = {"dataset": metrics["dataset"], "seconds": seconds, "training_seconds": metrics["seconds"]}
        result |= {key: metrics[key] for key in KEPT}
        for split in ("validation", "test"):
            program("evaluate", str(run), f"--split={split}")
            scores = json.loads((run / f"evaluation-{split}.json").read_text("utf-8"))
            result[split] = {key: value for key, value in scores.items() if key not in LEFT_OUT}
    return result


def program(name: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"kerasnets.{name}", *arguments], check=True, stdout=subprocess.DEVNULL)


def statement(name: str, result: dict) -> str:
    minutes, test, validation = result["seconds"] / 60, result["test"], result["validation"]
    scores = {
        "image_classification": lambda: f"test accuracy {test['accuracy']:.4f}",
        "text_generation": lambda: f"validation loss {validation['loss']:.3f}, test loss {test['loss']:.3f} nats",
        "translation": lambda: f"test BLEU {test['bleu']:.1f}, chrF {test['chrf']:.1f}, greedy",
    }
    return f"{result['dataset']}, two cores, {minutes:.1f} min: {scores[name.partition('/')[0]]()}"


if __name__ == "__main__":
    main(sys.argv[1:])
