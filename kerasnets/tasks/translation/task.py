"""Translation of sentences into another language."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from kerasnets import decoding
from kerasnets.checks import RequestError
from kerasnets.data.batches import Batch, LengthBuckets, to_dataset, varying_shapes
from kerasnets.data.pair_file import sample
from kerasnets.data.sources import PairSplits, load_pairs
from kerasnets.data.splits import DataSummary, LeftOut, describe
from kerasnets.data.token_lists import TokenLists
from kerasnets.data.word_vectors import WordVectors, read_vectors
from kerasnets.tasks.arrays import ArrayNetwork
from kerasnets.tasks.datasets import check_dataset
from kerasnets.tasks.graphs import cached_per_model
from kerasnets.tasks.losses import cross_entropy, symmetric_divergence
from kerasnets.tasks.protocol import Metrics, Signatures, Task
from kerasnets.tasks.requests import MAX_BYTES, MAX_ROWS
from kerasnets.tasks.samples import Samples
from kerasnets.tasks.share import WHOLE, Share
from kerasnets.tasks.translation import drawings
from kerasnets.tasks.translation.arrays import pair_to_logits
from kerasnets.tasks.translation.facts import FACTS, Translation
from kerasnets.tasks.translation.lengths import score_lengths, worst_translations
from kerasnets.tasks.translation.tokens import Tokenizer
from kerasnets.tasks.translation.translator import MAX_SEARCH_SUBWORDS, Translator, max_bytes
from kerasnets.text.sampling import SubwordSampler
from kerasnets.text.subwords import SubwordVocabulary
from kerasnets.text.units import PUNCTUATION, SPACE, normalize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVALUATION_BATCH = 1000
EXAMPLE_SENTENCES = 10_000  # of a split, in which examples are searched
SAMPLES, SAMPLE_LENGTH = 3, 90  # of `samples`: the number of sentences, and their maximum number of characters


class TranslationTask(Task):
    """Train on pairs of sentences, with one subword vocabulary for both languages; score BLEU and chrF."""

    facts = FACTS
    best_metric = "loss"
    best_is = "lowest"
    weight_unit = "tokens"
    config: Translation

    @functools.cached_property
    def data(self) -> PairSplits:
        check_dataset(FACTS, self.config.dataset)
        return load_pairs(self.config.dataset, self.config.data_dir, self.config.source, self.config.target)

    @functools.cached_property
    def vocabulary(self) -> SubwordVocabulary:
        if self.directory is not None:
            return SubwordVocabulary.load(self.directory / FACTS.vocabulary_file)
        sources, targets = map(sample, self.data.train)
        return SubwordVocabulary.train([*sources, *targets], self.config.vocabulary_size)

    def save(self, directory: Path) -> None:
        self.vocabulary.save(directory / FACTS.vocabulary_file)
        if self.directory is None:  # a new run; an export needs no lengths
            self._tokenizer.save(directory)

    def split_sizes(self) -> dict[str, Any]:
        """As `Task.split_sizes`: train and validation count the used pairs, test all, since pairs that are too long are
        scored as empty translations."""
        sizes = {"train": len(self._training), "validation": len(self._validation), "test": len(self.data.test[0])}
        return describe(self.data, sizes, self.data_summary)

    @property
    def data_summary(self) -> DataSummary:
        """Raises: RequestError if no pair of a split is used."""
        summary = self.data.summary
        left_out = list(summary.left_out)
        for split, buckets in {"train": self._training, "validation": self._validation}.items():
            sources, targets = self._tokens(split)
            empty = int(((sources.lengths == 0) | (targets.lengths == 0)).sum())
            long = len(sources) - len(buckets) - empty
            for count, why in ((long, f"longer than {self.config.max_length} subwords"), (empty, "empty")):
                if count:
                    left_out.append(LeftOut("pairs", f"in {split} {why}", count, total=len(sources)))
        return DataSummary(summary.text, tuple(left_out))

    def model(self) -> keras.Model:
        model = self.config.model.build(**FACTS.sizes(self.config) | {"vocabulary_size": self.vocabulary.size})
        if self.config.embeddings is not None:
            table = model.embedding.embeddings
            table.assign(self._vectors.fill(table.numpy()))
        return model

    @functools.cached_property
    def _vectors(self) -> WordVectors:
        """Vectors of the vocabulary's words, scaled to the standard deviation of the model's initial embeddings."""
        width = self.config.model.width
        vectors = read_vectors(str(self.config.embeddings), whole_words(self.vocabulary), width)
        if not vectors.found.any():
            raise RequestError(f"{vectors.path} has no word of the vocabulary; give vectors of the same languages.")
        deviation = vectors.rows[vectors.found].std()
        if not deviation > 0:
            raise RequestError(f"the vectors of {vectors.path} are all the same number; give trained word vectors.")
        print(vectors.report(), file=sys.stderr)
        scale = width**-0.5 / deviation
        return dataclasses.replace(vectors, rows=vectors.rows * scale)

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self.vocabulary, self.directory)

    def _tokens(self, split: str) -> tuple[TokenLists, TokenLists]:
        """-> the subwords of all sources and targets."""
        if split not in self._tokens_of_splits:
            sources, targets = map(self._tokenizer.lists, getattr(self.data, split))
            self._tokens_of_splits[split] = sources, targets
        return self._tokens_of_splits[split]

    @functools.cached_property
    def _tokens_of_splits(self) -> dict[str, tuple[TokenLists, TokenLists]]:
        return {}

    def _buckets(self, split: str) -> LengthBuckets:
        sources, targets = self._tokens(split)
        start, end = self.vocabulary.START, self.vocabulary.END
        limit = self.config.max_length
        used = np.flatnonzero(
            (sources.lengths > 0) & (sources.lengths <= limit) & (targets.lengths > 0) & (targets.lengths <= limit)
        )
        if not len(used):
            raise RequestError(f"no {split} pair has 1 to {limit} subwords a side; use a higher --max-length.")
        budget = min(self.config.training.batch_size, len(used) * (limit + 2))
        return LengthBuckets(
            sources.select(used, after=[end]),
            targets.select(used, before=[start], after=[end]),
            budget,
            self.config.seed,
        )

    def _tokenize(self, lines: Sequence[str]) -> list[list[int]]:
        return self.vocabulary.tokenize(tf.constant(list(lines))).to_list()

    @functools.cached_property
    def _training(self) -> LengthBuckets:
        return self._buckets("train")

    @functools.cached_property
    def _validation(self) -> LengthBuckets:
        return self._buckets("validation")

    @property
    def steps_per_epoch(self) -> int:
        return self._training.steps_per_epoch

    @property
    def examples_per_step(self) -> float:
        """Sentence pairs, on average."""
        return len(self._training) / self.steps_per_epoch

    def check_split(self, parts: int) -> None:
        """Any number will do: rows of zeros are padding."""

    @property
    def padding(self) -> float:
        """Share of padding among all tokens, of sources and targets."""
        return self._training.padding_waste

    def training_batches(self, start: int, stop: int) -> tf.data.Dataset:
        return to_dataset(self._training_batch if self.config.subword_sampling else self._training.batch, start, stop)

    @varying_shapes
    def _training_batch(self, step: int) -> Batch:
        """-> the batch of a step, its sentences segmented anew as a function of the seed and the step."""
        limit = self.config.max_length
        return {
            side: self._sampler.sample_rows(rows, limit, f"{self.config.seed} {step} {side}")
            for side, rows in self._training.batch(step).items()
        }

    @functools.cached_property
    def _sampler(self) -> SubwordSampler:
        return SubwordSampler(self.vocabulary.model, self.config.subword_sampling)

    def initial_carry(self) -> tuple:
        return ()

    def loss(self, model: keras.Model, batch: Any, carry: Any, training: bool) -> tuple[tf.Tensor, tf.Tensor, Any]:
        smoothing = self.config.training.label_smoothing if training else 0.0
        inputs, targets = batch["target"][:, :-1], batch["target"][:, 1:]
        logits = model({"source": batch["source"], "target": inputs}, training=training)
        valid = tf.cast(targets != self.vocabulary.PAD, tf.float32)
        losses = cross_entropy(logits, targets, smoothing)
        if training and self.config.r_drop:
            # R-Drop (Liang et al. 2021, eq. 4), halved, so that the loss is a mean of both passes.
            others = model({"source": batch["source"], "target": inputs}, training=training)
            losses += cross_entropy(others, targets, smoothing)
            losses = (losses + self.config.r_drop * symmetric_divergence(logits, others)) / 2
        return tf.reduce_sum(losses * valid), tf.reduce_sum(valid), carry

    def validate(self, model: keras.Model, share: Share = WHOLE) -> dict[str, float]:
        """-> loss in nats per subword, the end token counted."""
        own = range(share.index, self._validation.steps_per_epoch, share.count)
        batch = varying_shapes(lambda n: self._validation.batch(own[n]))
        losses = self._losses(model)
        sums = np.zeros(2)
        for each in to_dataset(batch, 0, len(own)) if own else ():
            sums += [float(value) for value in losses(each)]
        loss, weight = share.sum(sums)
        return {"loss": float(loss / weight)}

    def samples(self, model: keras.Model) -> Samples | None:
        """-> greedy translations of a few validation sentences."""
        pairs = self._sample_pairs
        if not pairs:
            return None
        sources = self.vocabulary.tokenize(tf.constant([source for source, _ in pairs]))
        ends = tf.fill([len(pairs), 1], self.vocabulary.END)
        limits = tf.minimum(3 * tf.cast(sources.row_lengths(), tf.int32) + 23, self.config.max_length + 1)
        tokens, _ = self._search(model)(tf.concat([sources, ends], axis=1).to_tensor(), limits)
        translations = self.vocabulary.detokenize(tokens).numpy()
        rows = [
            {"source": source, "translation": translation.decode(), "reference": reference}
            for (source, reference), translation in zip(pairs, translations, strict=True)
        ]
        return Samples("translations of validation sentences", rows)

    @functools.cached_property
    def _sample_pairs(self) -> list[tuple[str, str]]:
        """-> pairs that fit into a line, spread over the validation split."""
        columns = (part[:EXAMPLE_SENTENCES] for part in self.data.validation)
        pairs = [(normalize(source), reference) for source, reference in zip(*columns, strict=True)]
        short = [pair for pair in pairs if max(map(len, pair)) <= SAMPLE_LENGTH] or pairs
        chosen = [short[n * len(short) // SAMPLES] for n in range(SAMPLES)] if len(short) > SAMPLES else short
        lengths = [len(ids) for ids in self._tokenize([source for source, _ in chosen])]
        return [pair for pair, length in zip(chosen, lengths, strict=True) if 0 < length <= self.config.max_length]

    @cached_per_model
    def _search(self, model: keras.Model) -> Callable:
        """-> greedy search as a graph function, which is built faster than that of `serving_default`."""
        start, end = self.vocabulary.START, self.vocabulary.END

        def search(source: tf.Tensor, limits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            memory, cache = model.start(source, 0)
            return decoding.greedy(model, memory, cache, start, end, limits)

        return tf.function(search, reduce_retracing=True)

    @cached_per_model
    def _losses(self, model: keras.Model) -> Callable:
        """-> summed loss and weight of a batch."""
        return tf.function(lambda batch: self.loss(model, batch, (), training=False)[:2], reduce_retracing=True)

    def validation_logits(self, model: keras.Model) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """-> logits [N, V] and target subwords [N] of the validation pairs, batch by batch."""
        for n in range(self._validation.steps_per_epoch):
            batch = self._validation.batch(n)
            inputs, targets = batch["target"][:, :-1], batch["target"][:, 1:]
            valid = targets != self.vocabulary.PAD
            logits = self._logits(model)(tf.constant(batch["source"]), tf.constant(inputs))
            yield logits.numpy()[valid], targets[valid]

    @cached_per_model
    def _logits(self, model: keras.Model) -> Callable:
        """-> the model as a graph function, traced at most once per shape."""
        return tf.function(
            lambda source, target: model({"source": source, "target": target}, training=False), reduce_retracing=True
        )

    def evaluate(
        self, signatures: Signatures, split: str, model: keras.Model | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """-> bleu and chrf (sacreBLEU) of the greedy translations of `serving_default`; beam_bleu and beam_chrf of the
        best hypotheses of `beam_search` with length penalty 1; sacreBLEU's signatures of both scores; `score_lengths`,
        and the `worst_translations` of `serving_default` among the sentences that it does not refuse."""
        from sacrebleu.metrics import BLEU, CHRF

        sources, references = map(list, getattr(self.data.first(limit), split))
        lengths = [len(ids) for ids in self._tokenize(sources)]
        used = [n for n, length in enumerate(lengths) if 0 < length <= self.config.max_length]
        bleu, chrf, scores, rows = BLEU(), CHRF(), {}, self._evaluation_rows
        found: dict[str, list[str]] = {}
        for prefix, translate in (("", self._greedy), ("beam_", self._beams)):
            found[prefix] = translations = [""] * len(sources)
            for start in range(0, len(used), rows):
                batch = used[start : start + rows]
                results = translate(signatures, tf.constant([normalize(sources[n]) for n in batch]))
                for n, translation in zip(batch, results.numpy(), strict=True):
                    translations[n] = translation.decode()
            for name, metric in (("bleu", bleu), ("chrf", chrf)):
                scores[prefix + name] = metric.corpus_score(translations, [references]).score
        return scores | {
            "bleu_signature": str(bleu.get_signature()),
            "chrf_signature": str(chrf.get_signature()),
            "sentences": len(sources),
            "refused": len(sources) - len(used),  # empty or too long for the model: scored as empty translations
            "direction": f"{self.config.source} to {self.config.target}",
            "length_bins": score_lengths(lengths, found, references),
            "worst_examples": worst_translations(
                *([column[n] for n in used] for column in (sources, references, found[""]))
            ),
        }

    def evaluation_figures(self, metrics: Metrics) -> dict[str, Figure]:
        return {"lengths": drawings.draw_lengths(metrics["length_bins"], metrics["direction"])}

    @property
    def _evaluation_rows(self) -> int:
        """-> sentences per request that stay within all limits, whatever their length."""
        limit = self.config.max_length
        rows = min(MAX_SEARCH_SUBWORDS // (limit + 1), MAX_BYTES // max_bytes(self.vocabulary, limit))
        return max(1, min(EVALUATION_BATCH, rows))

    @staticmethod
    def _greedy(signatures: Signatures, text: tf.Tensor) -> tf.Tensor:
        return signatures["serving_default"](text=text)["translation"]

    @staticmethod
    def _beams(signatures: Signatures, text: tf.Tensor) -> tf.Tensor:
        return signatures["beam_search"](text=text, length_penalty=tf.ones(len(text)))["translations"][:, 0]

    def signatures(self, model: keras.Model) -> dict[str, Any]:
        return Translator(model, self.vocabulary, self.config.max_length, self.temperature).signatures()

    def tables(self) -> SubwordVocabulary:
        return self.vocabulary

    def array_network(self, model: keras.Model) -> ArrayNetwork:
        options = self.config.model
        return pair_to_logits(model, options.recurrent, options.sequence_limit(self.config.max_length))

    @property
    def card_values(self) -> dict[str, Any]:
        return {"rows": MAX_ROWS, "bytes": MAX_BYTES, "subwords": MAX_SEARCH_SUBWORDS}

    def examples(self) -> list[dict[str, Any]]:
        """-> test sentences, spread over the split."""
        texts, limit = [normalize(text) for text in self.data.test[0][:EXAMPLE_SENTENCES]], self.config.max_length
        fitting = [s for s, ids in zip(texts, self._tokenize(texts), strict=True) if 0 < len(ids) <= limit]
        sentences = [s for s in fitting if len(s) <= 120] or fitting
        if not sentences:
            raise RequestError(f"no test sentence has at most {limit} subwords; use a higher --max-length.")
        return [{"text": sentences[n * len(sentences) // 5]} for n in range(min(5, len(sentences)))]

    def requests(self, examples: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
        """-> a request for each signature, built from the examples."""
        text = np.array([example["text"] for example in examples], object)
        return {
            "serving_default": {"text": text},
            "beam_search": {"text": text, "length_penalty": np.linspace(0, 1, len(text), dtype=np.float32)},
            "score": {"text": text, "translation": text[::-1].copy()},
            "explain": {"text": text},
        }

    def predict(self, signatures: Signatures, value: str) -> str:
        """A sentence -> its translation."""
        return signatures["serving_default"](text=tf.constant([value.encode()]))["translation"][0].numpy().decode()

    def draw_explanation(self, signatures: Signatures, value: str) -> Figure:
        """A sentence -> the attention of its translation."""
        outputs = signatures["explain"](text=tf.constant([value.encode()]))
        return drawings.draw_explanation({name: output.numpy() for name, output in outputs.items()})


def whole_words(vocabulary: SubwordVocabulary) -> list[str | None]:
    """-> the word of each piece: "dog" for "▁dog", "," for ","; None for parts of words, bytes and symbols."""
    words = []
    for name in vocabulary.model.names:
        starts = name.startswith(SPACE) and len(name) > 1
        words.append(name[1:] if starts else name if re.fullmatch(f"[{PUNCTUATION}]+", name) else None)
    return words
