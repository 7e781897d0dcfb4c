"""A batch job for Apache Beam: each line of text files through a SavedModel, on this machine or on a cluster.

python examples/beam_predict.py --model models/translation/1 --input 'sentences*.txt' --output answers

needs the packages apache-beam and tensorflow alone (requirements-beam.txt; a cluster's workers need them too), for the
model has the rest inside: any signature with one string input will do. Options that are not listed here are Beam's,
such as --runner=FlinkRunner.

OUTPUT-00000-of-0000N.jsonl hold a JSON object for each line, the input and the outputs by their names, in the order in
which workers finish. Lines that the model refuses do not end the job: OUTPUT-refused-*.jsonl hold them and the reason.
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
    """Runs lines of text through one signature of a SavedModel, which has one string input [batch].

    Beam's own handlers for TensorFlow load Keras models, stack tensors of numbers, and lose a batch to one bad row.
    """

    def __init__(self, path: str, signature: str, batch_size: int) -> None:
        super().__init__(min_batch_size=1, max_batch_size=batch_size)
        self.path, self.signature = path, signature

    def load_model(self) -> Any:
        """Called once in each process of a worker.

        Raises: ValueError without such a signature.
        """
        import tensorflow as tf

        model = tf.saved_model.load(self.path)
        fitting = [
            name
            for name, function in model.signatures.items()
            if [spec.dtype for spec in function.structured_input_signature[1].values()] == [tf.string]
        ]
        if self.signature not in fitting:
            choice = ", ".join(fitting) or "none"
            raise ValueError(
                f"{self.path} has no signature {self.signature!r} with one string input; choose of: {choice}"
            )
        return model

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        """A result for each line: `example` is {input: line}, `inference` {output: value} or why it is refused."""
        function = model.signatures[self.signature]
        (name,) = function.structured_input_signature[1]
        for line, answer in answers(function, name, list(batch)):
            yield PredictionResult({name: line}, answer, self.path)


def answers(function: Any, name: str, lines: list[bytes]) -> Iterator[tuple[bytes, dict[str, Any] | str]]:
    """Each line with its outputs, or with the reason why it is refused.

    A model refuses a batch for one wrong row. It is halved until that row is alone, in about 2 log2(batch) calls.
    Other errors, such as lack of memory, are not the line's fault: they rise, and Beam tries the work again.
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
        yield from answers(function, name, lines[:middle])
        yield from answers(function, name, lines[middle:])
    else:
        for n, line in enumerate(lines):
            yield line, {key: values[n] for key, values in outputs.items()}


def is_refused(result: PredictionResult, _: int) -> int:
    return int(isinstance(result.inference, str))


def to_json(result: PredictionResult) -> str:
    answer = {"error": result.inference} if isinstance(result.inference, str) else result.inference
    return json.dumps(result.example | answer, ensure_ascii=False, default=to_text)


def to_text(value: bytes) -> str:
    """JSON holds no bytes: what is not UTF-8 is written as \\xff."""
    return value.decode("utf-8", "backslashreplace")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True, metavar="PATH", help="a version's directory, local or in a bucket")
    options.add_argument("--input", required=True, metavar="PATTERN", help="text files, an input a line")
    options.add_argument("--output", required=True, metavar="PREFIX", help="what the names of the results begin with")
    options.add_argument("--signature", default="serving_default", metavar="NAME", help="default: serving_default")
    options.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="lines a call at the most; default: 64"
    )
    given, for_beam = options.parse_known_args()

    handler = SignatureHandler(given.model, given.signature, given.batch_size)
    with beam.Pipeline(options=PipelineOptions(for_beam)) as pipeline:
        lines = pipeline | "read" >> beam.io.ReadFromText(given.input, coder=BytesCoder())
        results = lines | "predict" >> RunInference(handler)
        answered, refused = results | "part" >> beam.Partition(is_refused, 2)
        for what, prefix, part in (("answers", "", answered), ("refusals", "-refused", refused)):
            rows = part | f"{what} as JSON" >> beam.Map(to_json)
            rows | f"write {what}" >> beam.io.WriteToText(given.output + prefix, ".jsonl")


if __name__ == "__main__":
    main()
