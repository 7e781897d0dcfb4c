"""The builder of Multi30k, with a server on loopback in place of the public repository."""

import functools
import gzip
import hashlib
import http.server
import threading
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from small_runs import ROOT

from kerasnets.data import prepared
from kerasnets.data.multi30k import FILES, SOURCE, Multi30k
from kerasnets.data.sources import DataError, load_pairs

RAW = ROOT.parent / "shared" / "datasets" / "raw" / "multi30k"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(monkeypatch):
    """`serve(directory)`: the files of a directory are those of the repository."""
    servers = []

    def start(directory: Path) -> None:
        handler = functools.partial(QuietHandler, directory=str(directory))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        infos = {}
        for path in sorted(directory.glob("*.gz")):
            size, checksum = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
            info = tfds.download.checksums.UrlInfo(tfds.core.units.Size(size), checksum, path.name)
            infos[f"http://127.0.0.1:{server.server_port}/{path.name}"] = info
        monkeypatch.setattr(Multi30k, "url_infos", infos)
        monkeypatch.setattr(prepared, "_reachable", lambda host: host == "127.0.0.1")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def small_files(tmp_path):
    """-> a directory with a few sentences in each file."""
    directory = tmp_path / "raw"
    directory.mkdir()
    for name in FILES:
        split, language, _ = name.split(".")
        lines = [f" {split} {language} {n}\u2028{n} " for n in range(3)]  # a line separator within the sentence
        (directory / name).write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return directory


def test_download_and_preparation(serve, small_files, tmp_path):
    serve(small_files)
    splits = load_pairs("multi30k", str(tmp_path / "data"), "en", "de")
    for pairs, name in ((splits.train, "train"), (splits.validation, "val"), (splits.test, "test_2016_flickr")):
        expected = {(f"{name} en {n}\u2028{n}", f"{name} de {n}\u2028{n}") for n in range(3)}
        assert set(zip(*pairs, strict=True)) == expected
    Multi30k.url_infos.clear()  # nothing is downloaded again
    assert load_pairs("multi30k", str(tmp_path / "data"), "de", "en").test[0] == splits.test[1]


def test_a_changed_file_is_rejected(serve, small_files, tmp_path):
    serve(small_files)
    path = small_files / "val.de.gz"
    path.write_bytes(gzip.compress(b"changed\n" * 3))
    with pytest.raises(DataError, match=r"'multi30k' could not be downloaded to .*val\.de\.gz"):
        load_pairs("multi30k", str(tmp_path / "data"))
    assert prepared.prepared_datasets(str(tmp_path / "data")) == []


def test_the_files_of_the_repository_give_the_prepared_dataset(serve, data_dir, tmp_path):
    if not RAW.is_dir():
        pytest.skip("the raw files of Multi30k are not here")
    sizes = {path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in RAW.iterdir()}
    assert sizes == FILES
    assert list(Multi30k.url_infos) == [f"{SOURCE}{name}" for name in FILES]
    serve(RAW)
    ours, theirs = load_pairs("multi30k", str(tmp_path)), load_pairs("multi30k", data_dir)
    assert (ours.train, ours.validation, ours.test) == (theirs.train, theirs.validation, theirs.test)
    assert len(ours.train[0]) == 29_000
