"""A batch job for Apache Beam: run a SavedModel on each line of text files, on this machine or on a cluster.

python examples/beam_predict.py --model models/translation/1 --input 'sentences*.txt' --output answers

needs only the packages apache-beam and tensorflow (requirements-beam.txt; the workers of a cluster need them too),
because the SavedModel contains the preprocessing. It supports any signature with one string input. Other options are
Beam's, such as --runner=FlinkRunner.

OUTPUT-00000-of-0000N.jsonl contain a JSON object for each line: the input and the outputs by name, in the order in
which workers finish. Lines that the model rejects do not stop the job: OUTPUT-refused-*.jsonl contain them and the
reason.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions


class SignatureHandler(ModelHandler[bytes, PredictionResult, Any]):
    """Runs one signature of a SavedModel, with one string input [batch], on lines of text.

    Beam's handlers for TensorFlow load Keras models, stack numeric tensors, and fail a whole batch for one invalid row.
    """

    def __init__(self, path: str, signature: str, batch_size: int) -> None:
        super().__init__(min_batch_size=1, max_batch_size=batch_size)
        self.path, self.signature = path, signature

    def load_model(self) -> Any:
        """Load the model; Beam calls this once in each process of a worker.

        Raises: ValueError if the model has no such signature with one string input.
        """
        import tensorflow as tf

        model = tf.saved_model.load(self.path)
        valid = [
            name
            for name, function in model.signatures.items()
            if [spec.dtype for spec in function.structured_input_signature[1].values()] == [tf.string]
        ]
        if self.signature not in valid:
            names = ", ".join(valid) or "none"
            raise ValueError(f"{self.path} has no signature {self.signature!r} with one string input; it has: {names}")
        return model

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """Yield a result for each line: `example` is {input: line}, `inference` {output: value} or the error."""
        function = model.signatures[self.signature]
        (name,) = function.structured_input_signature[1]
        for line, outputs in predict(function, name, list(batch)):
            yield PredictionResult({name: line}, outputs, self.path)


def predict(function: Any, name: str, lines: list[bytes]) -> Iterator[tuple[bytes, dict[str, Any] | str]]:
    """Yield each line with its outputs, or with the error message if the model rejects it.

    A model rejects a batch for one invalid row. The batch is halved until that row is alone, in about 2 log2(batch)
    calls. Other errors, such as lack of memory, do not depend on the line: they propagate, and Beam retries the work.
    """
    import tensorflow as tf

    try:
        outputs = {key: value.numpy().tolist() for key, value in function(**{name: tf.constant(lines)}).items()}
    except tf.errors.InvalidArgumentError as error:
        if len(lines) == 1:
            asserted = re.search(r"assertion failed: \[(.*)\]", error.message)
            yield lines[0], asserted[1] if asserted else error.message
            return
        middle = len(lines) // 2
        yield from predict(function, name, lines[:middle])
        yield from predict(function, name, lines[middle:])
    else:
        for n, line in enumerate(lines):
            yield line, {key: values[n] for key, values in outputs.items()}


def is_error(result: PredictionResult, _: int) -> int:
    return int(isinstance(result.inference, str))


def to_json(result: PredictionResult) -> str:
    outputs = {"error": result.inference} if isinstance(result.inference, str) else result.inference
    return json.dumps(result.example | outputs, ensure_ascii=False, default=to_text)


def to_text(value: bytes) -> str:
    """Decode bytes for JSON; bytes that are not UTF-8 become escapes such as \\xff."""
    return value.decode("utf-8", "backslashreplace")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--model", required=True, metavar="PATH", help="directory of a model version, local or in a bucket"
    )
    options.add_argument("--input", required=True, metavar="PATTERN", help="text files, one input per line")
    options.add_argument("--output", required=True, metavar="PREFIX", help="prefix of the output files")
    options.add_argument("--signature", default="serving_default", metavar="NAME", help="default: serving_default")
    options.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="maximum number of lines per call; default: 64"
    )
    arguments, beam_arguments = options.parse_known_args()

    handler = SignatureHandler(arguments.model, arguments.signature, arguments.batch_size)
    with beam.Pipeline(options=PipelineOptions(beam_arguments)) as pipeline:
        lines = pipeline | "read" >> beam.io.ReadFromText(arguments.input, coder=BytesCoder())
        results = lines | "predict" >> RunInference(handler)
        predictions, errors = results | "partition" >> beam.Partition(is_error, 2)
        for name, prefix, part in (("predictions", "", predictions), ("errors", "-refused", errors)):
            rows = part | f"{name} to JSON" >> beam.Map(to_json)
            rows | f"write {name}" >> beam.io.WriteToText(arguments.output + prefix, ".jsonl")


if __name__ == "__main__":
    main()
