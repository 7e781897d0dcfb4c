"""Multi30k as a dataset of TensorFlow Datasets, which has no builder of its own for it.

English captions of images and their German translations (Elliott et al. 2016, "Multi30K: Multilingual English-German
Image Descriptions"): task 1 of the public repository multi30k/dataset, raw text. Importing this module registers it.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

LANGUAGES = ("de", "en")
SPLIT_FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
SOURCE = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/"
FILES = {  # bytes and SHA-256 of each
    "train.en.gz": (568_929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "train.de.gz": (637_044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
    "val.en.gz": (21_650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    "val.de.gz": (24_681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
    "test_2016_flickr.en.gz": (21_077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
    "test_2016_flickr.de.gz": (22_890, "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
}


class Multi30k(tfds.core.GeneratorBasedBuilder):
    """Multi30k: 29,000 sentence pairs for training, 1,014 for validation, 1,000 for tests (test_2016_flickr)."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS downloads only files whose size and checksum it knows.
    url_infos: ClassVar[dict[str, Any]] = {
        f"{SOURCE}{name}": tfds.download.checksums.UrlInfo(tfds.core.units.Size(size), checksum, name)
        for name, (size, checksum) in FILES.items()
    }

    def _info(self) -> Any:
        return self.dataset_info_from_configs(
            features=tfds.features.Translation(LANGUAGES),
            supervised_keys=("en", "de"),
            homepage="https://github.com/multi30k/dataset",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, str]]]]:
        urls = {url.rpartition("/")[2]: tfds.download.Resource(url=url) for url in self.url_infos}
        paths = dl_manager.download(urls)
        return {
            split: self._generate_examples({language: paths[f"{name}.{language}.gz"] for language in LANGUAGES})
            for split, name in SPLIT_FILES.items()
        }

    def _generate_examples(self, paths: dict[str, Path]) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield each line's number and its sentence in both languages."""
        # Lines end with \n alone: some sentences contain other characters that Python takes for line ends.
        columns = [gzip.decompress(Path(paths[lang]).read_bytes()).decode("utf-8") for lang in LANGUAGES]
        lines = [column.removesuffix("\n").split("\n") for column in columns]
        for number, sentences in enumerate(zip(*lines, strict=True)):
            yield number, dict(zip(LANGUAGES, (sentence.strip() for sentence in sentences), strict=True))
