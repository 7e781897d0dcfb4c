"""Options for loading a version: session, tags, batching, warm-up. They come from flags or a platform file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow_serving.config import platform_config_pb2

from serving.errors import StatusError
from serving.settings.configuration import POOL, Batching, add_proto, batching_of, new_message, read_batching, read_file
from serving.settings.flags import Flags, cpus

log = logging.getLogger("serving")
PLATFORM = "tensorflow"


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading a version of a model."""

    session: config_pb2.ConfigProto
    tags: tuple[str, ...] = ("serve",)
    batching: Batching | None = None  # None: no batching
    batching_per_model: bool = False  # see configuration.read_model_batching
    warm_up: bool = False
    warm_up_iterations: int = 1
    prefer_tflite: bool = False
    tflite_pools: int = 1
    tflite_interpreters_per_pool: int = 1


def load_options_of(flags: Flags) -> LoadOptions:
    """Read the options from the flags and their files; StatusError for invalid or contradictory files."""
    if flags.platform_config_file:
        return _from_platform(flags.platform_config_file)
    batching = None
    if flags.enable_batching:
        batching = read_batching(flags.batching_parameters_file) if flags.batching_parameters_file else Batching()
    return LoadOptions(
        session=_session(flags),
        tags=tuple(flags.saved_model_tags.split(",")),
        batching=batching,
        batching_per_model=flags.enable_per_model_batching_parameters,
        warm_up=flags.enable_model_warmup,
        warm_up_iterations=max(flags.num_request_iterations_for_warmup, 1),
        prefer_tflite=flags.prefer_tflite_model,
        tflite_pools=flags.num_tflite_pools,
        tflite_interpreters_per_pool=flags.num_tflite_interpreters_per_pool,
    )


def _session(flags: Flags) -> config_pb2.ConfigProto:
    session = config_pb2.ConfigProto(allow_soft_placement=True)
    if flags.tensorflow_session_config_file:
        read_file(flags.tensorflow_session_config_file, session)
    if flags.per_process_gpu_memory_fraction:
        session.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if intra <= 0 and inter <= 0:
        intra = inter = flags.tensorflow_session_parallelism
    if intra > 0:
        session.intra_op_parallelism_threads = intra
    if inter > 0:
        session.inter_op_parallelism_threads = inter
    if flags.mixed_precision == "bfloat16":
        rewrites = session.graph_options.rewrite_options
        rewrites.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    elif flags.mixed_precision:
        log.warning("--mixed_precision is %s; it must be bfloat16", flags.mixed_precision)
    return session


def _from_platform(path: str) -> LoadOptions:
    _add_bundle()
    platforms: Any = new_message("PlatformConfigMap")
    read_file(path, platforms, POOL)
    if PLATFORM not in platforms.platform_configs:
        raise StatusError("FAILED_PRECONDITION", f"PlatformConfigMap has no entry for platform {PLATFORM}")
    adapter = new_message("SavedModelBundleSourceAdapterConfig")
    packed = platforms.platform_configs[PLATFORM].source_adapter_config
    if not packed.Unpack(adapter):
        raise StatusError(
            "FAILED_PRECONDITION",
            f"source_adapter_config of platform {PLATFORM} is {packed.type_url or 'empty'}: "
            f"only {adapter.DESCRIPTOR.full_name} is supported",
        )
    config = adapter.legacy_config
    return LoadOptions(
        session=config_pb2.ConfigProto.FromString(config.session_config.SerializeToString()),
        tags=tuple(config.saved_model_tags) or ("serve",),
        batching=batching_of(config.batching_parameters) if config.HasField("batching_parameters") else None,
        batching_per_model=config.enable_per_model_batching_params,
        warm_up=config.enable_model_warmup,
        warm_up_iterations=max(config.model_warmup_options.num_request_iterations.value, 1),
        prefer_tflite=config.prefer_tflite_model,
        tflite_pools=config.num_tflite_pools or cpus(),
        tflite_interpreters_per_pool=config.num_tflite_interpreters_per_pool or 1,
    )


@cache
def _add_bundle() -> None:
    """Add bundle.proto and the TensorFlow messages that it uses to POOL."""
    new_message("BatchingParameters")
    files: dict[str, bytes] = {}

    def collect(file: Any) -> None:
        for dependency in file.dependencies:
            collect(dependency)
        files.setdefault(file.name, file.serialized_pb)

    collect(config_pb2.DESCRIPTOR)
    collect(platform_config_pb2.DESCRIPTOR)
    files.pop("google/protobuf/wrappers.proto", None)  # configuration.proto has added it
    add_proto("bundle", *files.values())
