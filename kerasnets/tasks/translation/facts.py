"""The facts of translation."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kerasnets.checks import check, check_counts
from kerasnets.config.run import Config
from kerasnets.config.text_networks import Seq2SeqLSTMOptions, TransformerOptions
from kerasnets.tasks.facts import Facts
from kerasnets.tasks.protocol import Task


@dataclass(frozen=True)
class Translation(Config):
    """Translation of sentences."""

    source: str = "en"
    """Source language."""
    target: str = "de"
    """Target language."""
    vocabulary_size: int = 4000
    """Number of subwords in the vocabulary that both languages share."""
    max_length: int = 100
    """Maximum number of subwords in a sentence; longer training pairs are left out, longer requests are rejected."""
    embeddings: str | None = None
    """File of word vectors (text format of word2vec or GloVe), which initialize the embeddings of whole words."""
    subword_sampling: float = 0.0
    """Exponent α of subword sampling: training segments each sentence anew in every epoch (Kudo 2018); 0.1 to 0.5 are
    usual, smaller values vary more; 0: always the most probable segmentation."""
    r_drop: float = 0.0
    """Weight α of the divergence between two passes with different dropout, such as 5 (R-Drop: Liang et al. 2021); two
    passes take twice the time; 0: one pass."""
    model: TransformerOptions | Seq2SeqLSTMOptions = field(default_factory=TransformerOptions)
    """The network."""

    def check(self) -> None:
        super().check()
        check_counts(**self.values("vocabulary_size", "max_length"))
        for name, value in self.values("subword_sampling", "r_drop").items():
            check(0 <= value < math.inf, name, value, "0 or more")
        rates = [rate for name, rate in vars(self.model).items() if name.endswith("dropout")]
        allowed = "0, since the network has no dropout: both passes would be equal"
        check(not self.r_drop or any(rates), "r_drop", self.r_drop, allowed)


def make(config: Translation, directory: Path | None = None) -> Task:
    from kerasnets.tasks.translation.task import TranslationTask

    return TranslationTask(config, directory)


def sizes(config: Translation) -> dict[str, Any]:
    return {"vocabulary_size": config.vocabulary_size, "max_length": config.max_length}


FACTS = Facts(
    name="translation",
    config=Translation,
    default_preset="tiny",
    make=make,
    sizes=sizes,
    vocabulary_file="subwords.json",
    unit="pairs",
    bundled=("cldr",),
    own_data="file:",
    evaluation_limit=5_000,
    intended_use="Translates single sentences from {source} to {target}, of the kind that it was trained on.",
    limits="A sentence has at most {max_length} subwords; longer ones are rejected. Text unlike the training pairs is "
    "translated badly, with no warning but a low score. A request has at most {rows:,} sentences, {bytes:,} bytes and "
    "{subwords:,} subwords.",
    conditions={
        "loss": "cross-entropy in nats per subword, with teacher forcing",
        "bleu": "sacreBLEU, 0 to 100, of whole translations; see bleu_signature",
        "chrf": "sacreBLEU's chrF2, 0 to 100; see chrf_signature",
        "beam_bleu": "as bleu, of the first of 5 beams with length penalty 1; bleu is of greedy search",
        "beam_chrf": "as chrf, of the first of 5 beams with length penalty 1; chrf is of greedy search",
    },
)
