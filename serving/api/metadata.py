"""GetModelMetadata and GetModelStatus: messages for gRPC, JSON for REST."""

from __future__ import annotations

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.api.predict import use_version, version_choice
from serving.errors import StatusError, invalid_argument
from serving.models.manager import ModelManager
from serving.protocol import CODES

SIGNATURES = "signature_def"  # the only supported metadata field
MAX_FIELDS = 100  # the protocol allows duplicates, and the event loop checks each
STATES = get_model_status_pb2.ModelVersionStatus.State


def get_metadata(
    manager: ModelManager, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Return all signatures of one version, packed as SignatureDefMap."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    if len(request.metadata_field) > MAX_FIELDS:
        raise invalid_argument(
            f"GetModelMetadataRequest has {len(request.metadata_field)} metadata_fields; at most {MAX_FIELDS} are valid"
        )
    for name in request.metadata_field:
        if name != SIGNATURES:
            raise invalid_argument(f"Metadata field {name} is not supported")
    with use_version(manager, request) as version:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in version.servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(definition)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = version.model
        response.model_spec.version.value = version.number
        response.metadata[SIGNATURES].Pack(signatures)
        return response


def get_status(
    manager: ModelManager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Return the states of one version or of all, highest first. Like TensorFlow Serving, ignore a label."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    name, number, _ = version_choice(request.model_spec)
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state, error in manager.versions(name):
        if number in (None, version):
            status = response.model_version_status.add(version=version, state=STATES.Value(state)).status
            status.error_code = CODES[error.code] if error else CODES["OK"]
            status.error_message = error.message if error else ""
    if not response.model_version_status:
        missing = "any versions" if number is None else f"version {number}"
        raise StatusError("NOT_FOUND", f"Could not find {missing} of model {name}")
    return response


def metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> str:
    """Return {"model_spec": ..., "metadata": {"signature_def": ...}}; proto3 JSON prints an Any differently."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURES].Unpack(signatures)
    spec, signature_map = message_json(response.model_spec), message_json(signatures)
    return f'{{\n"model_spec":{spec},\n"metadata": {{"{SIGNATURES}": {signature_map}}}\n}}\n'


def message_json(message: Message) -> str:
    """Return proto JSON with snake_case names, default values and one space of indentation."""
    text = json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
    return text + "\n"
