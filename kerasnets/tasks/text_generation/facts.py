"""The facts of text generation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasnets.checks import check_counts
from kerasnets.config.run import Config
from kerasnets.config.text_networks import CharLSTMOptions, DecoderTransformerOptions
from kerasnets.tasks.facts import Facts
from kerasnets.tasks.protocol import Task

# Vocabulary sizes of the presets' datasets: their characters and the unknown character.
VOCABULARY_SIZES = {"pydocs": 104, "tiny_shakespeare": 66}
OTHER_VOCABULARY_SIZE = 100


@dataclass(frozen=True)
class TextGeneration(Config):
    """Generation of text, character by character."""

    sequence_length: int = 128
    """Characters per training sequence. An LSTM carries its states on from the sequence before, and only truncates
    backpropagation there; a Transformer sees no earlier characters."""
    max_length: int = 1000
    """Maximum number of characters that one call generates."""
    model: CharLSTMOptions | DecoderTransformerOptions = field(default_factory=CharLSTMOptions)
    """The network."""

    def check(self) -> None:
        super().check()
        check_counts(**self.values("sequence_length", "max_length"))


def make(config: TextGeneration, directory: Path | None = None) -> Task:
    from kerasnets.tasks.text_generation.task import TextGenerationTask

    return TextGenerationTask(config, directory)


def sizes(config: TextGeneration) -> dict[str, Any]:
    return {"vocabulary_size": VOCABULARY_SIZES.get(config.dataset, OTHER_VOCABULARY_SIZE)}


FACTS = Facts(
    name="text_generation",
    config=TextGeneration,
    default_preset="small",
    make=make,
    sizes=sizes,
    vocabulary_file="characters.json",
    unit="characters",
    bundled=("pydocs",),
    own_data="file:",
    evaluation_limit=100_000,
    intended_use="Continues a prompt in the style of its training text, for play and for learning. {explanation}",
    limits="The text is made up: nothing in it is a fact. One call generates at most {max_length} characters; prompt "
    "characters that are not in the training text are ignored. A request has at most {rows:,} prompts, {bytes:,} "
    "bytes and {characters:,} characters to generate.",
    conditions={
        "loss": "cross-entropy in nats per character, with the network's states carried through the whole split: an "
        "LSTM's depend on all earlier characters, a Transformer's on the last ones, to which its blocks attend",
        "bits_per_character": "the loss in bits",
        "window_loss": "nats per character in windows of 256 characters, each without earlier text",
    },
)
