"""Configuration files in protobuf's text format: models, batching, monitoring, TLS. Does not import TensorFlow."""

from __future__ import annotations

import itertools
import os
import re
import ssl
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from google.protobuf.message import Message

from serving.errors import StatusError, invalid_argument
from serving.settings.flags import cpus

M = TypeVar("M", bound=Message)
METRICS_PATH = "/monitoring/prometheus/metrics"
PER_MODEL_FILE = "batching_params.pbtxt"

# A separate pool: the message names are TensorFlow Serving's, and another package may register them in the default one.
POOL = descriptor_pool.DescriptorPool()
TOKEN = re.compile(r'//[^\n]*|\s+|("[^"]*"|[\w.]+|[{}=;])')
SCALARS = {name: f"TYPE_{name.upper()}" for name in ("string", "bytes", "bool", "int32", "int64", "uint64")}


def read_file(path: str, message: M, pool: descriptor_pool.DescriptorPool | None = None) -> M:
    """Fill `message` from a file; StatusError with TensorFlow Serving's text if the file is missing or invalid."""
    name = message.DESCRIPTOR.full_name
    try:
        return text_format.Parse(Path(path).read_text("utf-8"), message, descriptor_pool=pool)
    except OSError as error:
        code = "NOT_FOUND" if isinstance(error, FileNotFoundError) else "FAILED_PRECONDITION"
        raise StatusError(code, f"{path}; {error.strerror}") from None
    except UnicodeDecodeError as error:
        print(f"Error parsing text-format {name}: the file is not UTF-8 (byte {error.start})", file=sys.stderr)
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        reason = str(error).removeprefix(f"{line}:{column} : ")
        print(f"Error parsing text-format {name}: {line}:{column}: {reason}", file=sys.stderr)
    raise invalid_argument(f"Invalid protobuf file: '{path}'")


def add_proto(name: str, *dependencies: bytes) -> None:
    """Add NAME.proto of this directory to POOL; `dependencies` are the serialized descriptors of its imports."""
    for dependency in dependencies:
        POOL.AddSerializedFile(dependency)
    text = Path(__file__).with_name(f"{name}.proto").read_text("utf-8")
    POOL.Add(parse_proto(f"serving/settings/{name}.proto", text))


def parse_proto(name: str, text: str) -> descriptor_pb2.FileDescriptorProto:
    """Parse a .proto file, without protoc: messages with plain and repeated fields, and nested messages."""
    file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto3")
    tokens = [match[1] for match in TOKEN.finditer(text) if match[1]]
    scope: list[Any] = [file]
    while tokens:
        if tokens[0] == "}":
            scope.pop()
            tokens.pop(0)
        elif tokens[0] == "message":
            scope.append((scope[-1].message_type if len(scope) == 1 else scope[-1].nested_type).add(name=tokens[1]))
            del tokens[:3]
        else:
            end = tokens.index(";")
            _statement(file, scope[-1], tokens[:end])
            del tokens[: end + 1]
    return file


def _statement(file: descriptor_pb2.FileDescriptorProto, message: Any, words: list[str]) -> None:
    if words[0] == "package":
        file.package = words[1]
    elif words[0] == "import":
        file.dependency.append(words[1].strip('"'))
    elif words[0] != "syntax":
        *repeated, kind, name, _, number = words
        field = message.field.add(name=name, number=int(number))
        field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        field.type = getattr(field, SCALARS.get(kind, "TYPE_MESSAGE"))
        if kind not in SCALARS:
            field.type_name = kind


def new_message(name: str) -> Any:
    """Return an empty message `tensorflow.serving.NAME` of POOL."""
    _add_configuration()
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"tensorflow.serving.{name}"))()


@cache
def _add_configuration() -> None:
    add_proto("configuration", wrappers_pb2.DESCRIPTOR.serialized_pb)


@dataclass(frozen=True)
class Batching:
    """Parameters of batching; sizes are numbers of examples."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = cpus()
    allowed_batch_sizes: tuple[int, ...] = ()  # increasing; empty: no padding to an allowed size
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000  # equals max_batch_size unless large requests are split


def read_batching(path: str) -> Batching:
    """Read a --batching_parameters_file."""
    return batching_of(read_file(path, new_message("BatchingParameters")))


def read_model_batching(directory: str, common: Batching) -> Batching | None:
    """Read the batching parameters in a version's directory; None without a file. Use the threads of `common`."""
    path = os.path.join(directory, PER_MODEL_FILE)
    if not os.path.exists(path):
        return None
    parameters = new_message("BatchingParameters")
    read_file(path, parameters)
    parameters.num_batch_threads.value = common.num_batch_threads
    return batching_of(parameters)


def batching_of(parameters: Any) -> Batching:
    """Convert and check a BatchingParameters message; StatusError with TensorFlow Serving's text."""

    def value(name: str, default: Any) -> Any:
        return getattr(parameters, name).value if parameters.HasField(name) else default

    size = value("max_batch_size", Batching.max_batch_size)
    splitting = value("enable_large_batch_splitting", False)
    batching = Batching(
        max_batch_size=size,
        batch_timeout_micros=value("batch_timeout_micros", Batching.batch_timeout_micros),
        max_enqueued_batches=value("max_enqueued_batches", Batching.max_enqueued_batches),
        num_batch_threads=value("num_batch_threads", Batching.num_batch_threads),
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        enable_large_batch_splitting=splitting,
        max_execution_batch_size=value("max_execution_batch_size", size) if splitting else size,
    )
    _check_batching(batching)
    return batching


def _check_batching(batching: Batching) -> None:
    sizes, largest = batching.allowed_batch_sizes, batching.max_execution_batch_size
    if batching.num_batch_threads < 1:
        raise invalid_argument(f"num_batch_threads must be positive; was {batching.num_batch_threads}")
    if batching.max_batch_size < 1:
        raise invalid_argument(f"input_batch_size_limit must be positive; was {batching.max_batch_size}")
    if batching.batch_timeout_micros < 0:
        raise invalid_argument(f"batch_timeout_micros must be non-negative; was {batching.batch_timeout_micros}")
    if batching.max_enqueued_batches < 1:
        raise invalid_argument(f"max_enqueued_batches must be positive; was {batching.max_enqueued_batches}")
    if not 1 <= largest <= batching.max_batch_size:
        raise invalid_argument(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            f"max_execution_batch_size. Was: {batching.max_batch_size} and {largest}"
        )
    if sizes and (sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes))):
        raise invalid_argument(f"allowed_batch_sizes must be positive and increasing; was {list(sizes)}")
    if sizes and sizes[-1] != largest:
        if batching.enable_large_batch_splitting:
            rule = "be equal to max_execution_batch_size"
        else:
            rule = "match max_batch_size"
        raise invalid_argument(
            f"Last entry in allowed_batch_sizes must {rule}; last entry was {sizes[-1]}; expected {largest}"
        )


@dataclass(frozen=True)
class Monitoring:
    """Whether the REST port serves metrics, and at which path."""

    enabled: bool = False
    path: str = METRICS_PATH


def read_monitoring(path: str) -> Monitoring:
    """Read a --monitoring_config_file."""
    prometheus = read_file(path, new_message("MonitoringConfig")).prometheus_config
    return Monitoring(prometheus.enable, prometheus.path or METRICS_PATH)


@dataclass(frozen=True)
class Certificates:
    """Key and certificates of the server, in PEM, and whether clients must present a certificate."""

    server_key: bytes
    server_cert: bytes
    custom_ca: bytes = b""  # empty: the system's root certificates
    client_verify: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of a server; ssl.SSLError or ValueError if key and certificate do not match."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if self.custom_ca:
            context.load_verify_locations(cadata=self.custom_ca.decode())
        elif self.client_verify:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED if self.client_verify else ssl.CERT_NONE
        with tempfile.NamedTemporaryFile() as pair:  # ssl reads only files; only this user can read this one
            pair.write(self.server_key + b"\n" + self.server_cert)
            pair.flush()
            context.load_cert_chain(pair.name, password=_no_password)
        return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted; it must be unencrypted")


def read_certificates(path: str) -> Certificates:
    """Read a --ssl_config_file and check its key and certificate, so that the server never starts without TLS."""
    config = read_file(path, new_message("SSLConfig"))
    certificates = Certificates(
        config.server_key.encode(), config.server_cert.encode(), config.custom_ca.encode(), config.client_verify
    )
    try:
        certificates.context()
    except (ssl.SSLError, ValueError) as error:
        print(f"The key or certificates in {path} cannot be used: {error}", file=sys.stderr)
        raise invalid_argument("Failed to BuildAndStart gRPC server") from None
    return certificates
