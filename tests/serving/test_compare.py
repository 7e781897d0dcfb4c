"""Compare two versions on a real server; errors for invalid requests."""

import json
import subprocess
import sys

import numpy as np
import pytest
from serving_helpers import ROOT, START_SECONDS, free_port, wait_until

from serving.compare.__main__ import main
from serving.compare.outputs import bootstrap_interval, compare_outputs, values_to_compare
from serving.compare.report import shorten

SENTENCES = ["red", "green", "blue", "grey", "zwölf"]


def build_answers(path, upper_from: int, bonus: float) -> None:
    """Save a model that writes texts of at least `upper_from` bytes in capitals and adds `bonus` to some scores."""
    import tensorflow as tf

    def answer(text):
        length = tf.strings.length(text)
        valid = tf.reduce_all(text != "bad")
        with tf.control_dependencies([tf.debugging.Assert(valid, ["text 0 is bad; give a better one"])]):
            text = tf.identity(text)
        return {
            "answer": tf.where(length >= upper_from, tf.strings.upper(text), text),
            "score": tf.cast(length, tf.float32) + bonus * tf.cast(length % 2, tf.float32),
            "grid": tf.zeros([tf.size(text), 2, 2]),
        }

    def label(image):
        best = tf.where(tf.strings.length(image) >= upper_from, "long", "short")
        return {
            "label": tf.stack([best, tf.fill(tf.shape(best), "other")], 1),
            "score": tf.fill([tf.size(best), 2], bonus),
        }

    def probabilities(x):
        return {"probabilities": tf.stack([x, tf.fill(tf.shape(x), bonus)], 1)}

    def spec(dtype, name):
        return [tf.TensorSpec([None], dtype, name)]

    signatures = {
        "serving_default": tf.function(answer, spec(tf.string, "text")),
        "classify": tf.function(label, spec(tf.string, "image_bytes")),
        "pixels": tf.function(probabilities, spec(tf.float32, "x")),
        "changed": tf.function(answer, spec(tf.string, "text" if upper_from == 4 else "sentence")),
        "pair": tf.function(lambda a, b: {"sum": a + b}, spec(tf.float32, "a") + spec(tf.float32, "b")),
    }
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)


CONFIG = """
model_config_list {{ config {{
  name: "colours" base_path: "{base}" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
  version_labels {{ key: "stable" value: 1 }}
  version_labels {{ key: "canary" value: 2 }}
}} }}
"""


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Return the gRPC and REST addresses of a server with two versions of `colours`, labelled stable and canary."""
    directory = tmp_path_factory.mktemp("compare")
    build_answers(directory / "colours" / "1", upper_from=4, bonus=0.0)
    build_answers(directory / "colours" / "2", upper_from=5, bonus=0.5)
    (directory / "models.config").write_text(CONFIG.format(base=directory / "colours"))
    grpc, rest, log = free_port(), free_port(), directory / "server.log"
    command = [sys.executable, "-m", "serving", f"--model_config_file={directory / 'models.config'}"]
    command += [f"--port={grpc}", f"--rest_api_port={rest}", "--allow_version_labels_for_unavailable_models"]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "Exporting HTTP/REST API" in log.read_text() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        yield f"localhost:{grpc}", f"http://localhost:{rest}"
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture
def run(addresses, capsys, tmp_path):
    """Return run(a, b, {file name: content}, *options) -> exit status, standard output, standard error."""

    def run(a, b, files, *options, server=addresses[0]):
        for name, content in files.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        status = main([a, b, *(str(tmp_path / name) for name in files), f"--server={server}", *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


LINES = {"inputs.txt": "\n".join(SENTENCES) + "\n\n"}


@pytest.mark.parametrize("transport", [0, 1], ids=["grpc", "rest"])
def test_text_agreement_score_difference_and_latency(run, addresses, transport):
    status, out, err = run("colours:1", "colours:2", LINES, "--json", server=addresses[transport])
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["inputs"], report["calls"], report["differing"]) == (5, 5, 2)
    assert report["outputs"]["answer"] == {"compared": "text", "equal": 3, "agreement": 0.6}
    assert report["outputs"]["grid"]["compared"] == "no"
    score = report["outputs"]["score"]
    assert score["compared"] == "score"
    assert score["mean_difference"] == pytest.approx(0.2)  # "red" and "green" have an odd number of bytes
    assert score["interval_95"] == pytest.approx([0.0, 0.4])
    assert report["examples"] == [
        {"input": "blue", "a": {"answer": "BLUE", "score": 4.0}, "b": {"answer": "blue", "score": 4.0}},
        {"input": "grey", "a": {"answer": "GREY", "score": 4.0}, "b": {"answer": "grey", "score": 4.0}},
    ]
    for times in report["latency_ms"].values():
        assert 0 < times["p50"] <= times["p99"]


def test_text_report_of_labels_in_batches(run):
    status, out, _ = run("colours:stable", "colours:canary", LINES, "--batch-size=2", "--examples=1")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("A colours:stable   B colours:canary   signature serving_default")
    assert lines[1] == "5 inputs in 3 calls to each"
    assert "answer   the same for 3 of 5 (60.0%)" in lines
    assert "score    B - A on average +0.2, 95 % interval +0 to +0.4" in lines
    assert any(line.startswith("latency  A p50 ") for line in lines)
    assert lines[-4:] == ["2 outputs differ; the first 1:", "blue", "    A  BLUE   4", "    B  blue   4"]


def test_the_same_version_agrees_completely(run):
    report = json.loads(run("colours", "colours:2", LINES, "--json")[1])
    assert report["outputs"]["answer"]["agreement"] == 1
    assert report["outputs"]["score"]["interval_95"] == [0, 0]
    assert report["differing"] == 0 and report["examples"] == []


def test_images_are_compared_by_the_best_label_and_its_score(addresses, capsys, tmp_path):
    for name, size in {"a.png": 3, "b.jpg": 4, "c.PNG": 9, "notes.txt": 4}.items():
        (tmp_path / name).write_bytes(b"\xff" * size)
    options = [str(tmp_path), "--signature=classify", f"--server={addresses[0]}", "--json"]
    assert main(["colours:1", "colours:2", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"] == 3  # notes.txt is not an image
    assert report["outputs"]["label"] == {"compared": "text", "equal": 2, "agreement": pytest.approx(2 / 3)}
    assert report["outputs"]["score"]["mean_difference"] == 0.5
    assert [example["input"] for example in report["examples"]] == ["b.jpg"]


def test_numbers_without_texts_are_compared_by_the_index_of_the_maximum(run):
    rows = {"inputs.jsonl": '0.1\n{"x": 0.2}\n-1\n'}
    report = json.loads(run("colours:1", "colours:2", rows, "--signature=pixels", "--json")[1])
    assert report["outputs"]["probabilities"] == {"compared": "largest", "equal": 1, "agreement": pytest.approx(1 / 3)}
    body = {"inputs.json": '{"instances": [0.7, 0.8]}'}
    report = json.loads(run("colours:1", "colours:2", body, "--signature=pixels", "--json")[1])
    assert report["outputs"]["probabilities"]["agreement"] == 1


def test_base64_in_a_body_is_decoded(run):
    body = {"inputs.json": '{"instances": [{"text": {"b64": "Z3JleQ=="}}, "red"]}'}
    report = json.loads(run("colours:1", "colours:2", body, "--json")[1])
    assert [example["a"]["answer"] for example in report["examples"]] == ["GREY"]


INVALID = {
    "an unknown model": ("colours:1", "nothing", LINES, (), "does not serve nothing"),
    "an unknown version": ("colours:1", "colours:7", LINES, (), "does not serve colours:7"),
    "an unknown label": ("colours:blue", "colours:1", LINES, (), "does not serve colours:blue"),
    "no model": (":1", "colours:1", LINES, (), "':1' is not a model; it must be MODEL, MODEL:VERSION or MODEL:LABEL"),
    "an unknown signature": ("colours:1", "colours:2", LINES, ["--signature=no"], "has no signature 'no'; it has"),
    "other inputs": (
        "colours:1",
        "colours:2",
        LINES,
        ["--signature=changed"],
        "compare signatures with the same inputs",
    ),
    "numbers from lines": ("colours:1", "colours:2", LINES, ["--signature=pixels"], "the signature takes x (float32)"),
    "no input": (
        "colours:1",
        "colours:2",
        {"inputs.txt": "\n \n"},
        (),
        "contains no input; there must be at least one",
    ),
    "not JSON": ("colours:1", "colours:2", {"inputs.jsonl": '"red"\nred'}, (), "line 2, is not JSON"),
    "no instances": ("colours:1", "colours:2", {"inputs.json": "[1]"}, (), "is not the body of a predict request"),
    "another name": ("colours:1", "colours:2", {"inputs.jsonl": '{"x": "red"}'}, (), "has x; the signature takes text"),
    "not base64": ("colours:1", "colours:2", {"inputs.jsonl": '{"b64": "?"}'}, (), 'has a "b64" that is not base64'),
    "uneven rows": (
        "colours:1",
        "colours:2",
        {"inputs.jsonl": '{"a": 1, "b": 2}\n{"a": 1}'},
        ["--signature=pair"],
        "input 1 (from 0) has a, but the first has a, b",
    ),
    "no name": ("colours:1", "colours:2", {"inputs.jsonl": "1"}, ["--signature=pair"], "a value without a name"),
    "a batch of none": ("colours:1", "colours:2", LINES, ["--batch-size=0"], "'0' is not a batch size"),
    "an unknown option": ("colours:1", "colours:2", LINES, ["--no"], "unrecognized arguments: --no"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_request_is_one_line_and_status_2(run, case):
    a, b, files, options, message = INVALID[case]
    status, out, err = run(a, b, files, *options)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_a_missing_file_is_status_2(addresses, capsys, tmp_path):
    assert main(["colours:1", "colours:2", str(tmp_path / "no.txt"), f"--server={addresses[0]}"]) == 2
    assert "no.txt cannot be read (No such file or directory)" in capsys.readouterr().err


def test_a_rejected_input_is_status_1(run):
    status, _, err = run("colours:1", "colours:2", {"inputs.txt": "red\nbad\n"})
    assert status == 1 and err.count("\n") == 1
    assert "INVALID_ARGUMENT: colours:2 rejects 'bad': text 0 is bad; give a better one" in err


@pytest.mark.parametrize("server", ["localhost:1", "http://localhost:1"])
def test_no_server_is_status_1(run, server):
    status, _, err = run("colours:1", "colours:2", LINES, server=server)
    assert status == 1 and err.count("\n") == 1
    assert "UNAVAILABLE: no model server answers at" in err


def test_coverage_of_the_bootstrap_interval():
    generator = np.random.default_rng(3)
    intervals = [bootstrap_interval(generator.normal(1.0, 2.0, 40)) for _ in range(40)]
    covered = sum(low < 1.0 < high for low, high in intervals)
    assert 33 <= covered <= 40
    widths = [high - low for low, high in intervals]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 2.0 / 40**0.5, rel=0.1)
    assert bootstrap_interval(np.array([1.0])) == bootstrap_interval(np.array([1.0, np.nan])) == (None, None)


def test_without_texts_rows_differ_if_their_scores_differ():
    outputs, differs = compare_outputs(
        {"log_probability": [-1.0, -2.0, -3.0]}, {"log_probability": [-1.0, -2.5, -3.0]}, 3
    )
    assert differs.tolist() == [False, True, False]
    assert outputs["log_probability"]["mean_difference"] == pytest.approx(-0.5 / 3)


def test_outputs_without_a_value_for_each_input_are_not_compared():
    outputs, differs = compare_outputs({"y": [1.0, 2.0], "total": [3.0]}, {"y": [1.0, 2.0], "total": [3.0]}, 2)
    assert outputs["total"] == {"compared": "no", "reason": "it does not have one value for each input"}
    assert not differs.any()


def test_outputs_of_only_one_side_are_reported():
    outputs, _ = compare_outputs({"y": [1.0], "old": [1.0]}, {"y": [1.0], "new": [1.0]}, 1)
    assert outputs["old"]["reason"] == "only A has it" and outputs["new"]["reason"] == "only B has it"


def test_lists_of_texts_are_compared_by_their_first_text():
    tokens = [np.array([b"a", b"b"], object), np.array([], object)]
    assert values_to_compare("tokens", {"tokens": tokens}) == ("text", [b"a", None])


def test_control_characters_do_not_break_lines():
    assert shorten("zwölf\n\t\x1b") == r"zwölf\n\t\x1b"
    assert shorten("a" * 300) == "a" * 200 + "..."


def test_compare_needs_no_tensorflow():
    code = "import sys, serving.compare.__main__; assert not {'tensorflow', 'kerasnets', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-m", "serving.compare", "--help"],
        cwd=ROOT,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "MODEL:LABEL" in done.stdout and "--batch-size" in done.stdout
