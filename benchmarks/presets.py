"""`python -m benchmarks.presets TASK/PRESET ...`: train and evaluate presets, and store their results.

Each is trained by its command in a separate process, with seed 0 and the data of the preset; the time is that of the
whole process. `results.json` stores the numbers. The printed sentence belongs in the preset, after "# Measured: ".
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")
STORED_METRICS = ("parameters", "steps", "examples_per_second", "data_wait", "packages")
# Tables, and values that are stored elsewhere.
OMITTED_SCORES = ("task", "dataset", "split", "seconds", "classes", "class_accuracy", "confusion_matrix")


def main(names: list[str]) -> None:
    for name in names:
        results = json.loads(RESULTS.read_text("utf-8")) | {name: measure(name)}
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"{name}: {statement(name, results[name])}", flush=True)


def measure(name: str) -> dict:
    task_name, _, preset = name.partition("/")
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        start = time.monotonic()
        run_program("train", task_name, f"--preset={preset}", f"--run-dir={run}")
        seconds = round(time.monotonic() - start)
        metrics = json.loads((run / "metrics.json").read_text("utf-8"))
        result = {"dataset": metrics["dataset"], "seconds": seconds, "training_seconds": metrics["seconds"]}
        result |= {key: metrics[key] for key in STORED_METRICS}
        for split in ("validation", "test"):
            run_program("evaluate", str(run), f"--split={split}")
            scores = json.loads((run / f"evaluation-{split}.json").read_text("utf-8"))
            result[split] = {key: value for key, value in scores.items() if key not in OMITTED_SCORES}
    return result


def run_program(name: str, *arguments: str) -> None:
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
