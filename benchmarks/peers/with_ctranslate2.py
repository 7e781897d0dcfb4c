"""CTranslate2 with the weights of a kerasnets Transformer (pre-norm, sinusoidal positions, ReLU).

    python benchmarks/peers/with_ctranslate2.py WEIGHTS.npz SOURCES.json

CTranslate2 stores matrices as [out, in].
"""

import json
import sys
import tempfile

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec
from worker import serve

START, END = "1", "2"  # tokens are ids as text
BATCH = 64


def make_spec(weights: dict[str, np.ndarray]) -> TransformerSpec:
    blocks, heads = int(weights["num_blocks"]), int(weights["num_heads"])
    spec = TransformerSpec.from_config((blocks, blocks), heads, pre_norm=True)
    embedding = weights["embedding"]
    positions = sinusoids(1024, embedding.shape[1])
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        embeddings = stack.embeddings[0] if side == "encoder" else stack.embeddings
        embeddings.weight = embedding
        stack.scale_embeddings = True
        stack.position_encodings.encodings = positions
        normalization(stack.layer_norm, weights, f"{side}_norm")
        for n, layer in enumerate(stack.layer):
            block = f"{side}_{n}"
            own, own_residual = (
                ("attention", "attention_residual") if side == "encoder" else ("self_attention", "self_residual")
            )
            attention(layer.self_attention, weights, f"{block}/{own}", f"{block}/{own_residual}", fused=3)
            if side == "decoder":
                attention(layer.attention, weights, f"{block}/cross_attention", f"{block}/cross_residual", fused=2)
            linear(layer.ffn.linear_0, weights, f"{block}/feed_forward/hidden")
            linear(layer.ffn.linear_1, weights, f"{block}/feed_forward/out")
            normalization(layer.ffn.layer_norm, weights, f"{block}/feed_forward_residual/normalization")
    spec.decoder.projection.weight = embedding
    spec.decoder.projection.bias = np.zeros(len(embedding), np.float32)
    tokens = [str(n) for n in range(len(embedding))]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = START, END, "0"
    spec.config.decoder_start_token = START
    spec.config.layer_norm_epsilon = 1e-6
    return spec


def attention(spec, weights, name, residual, fused):
    parts = [["query"], ["key", "value"]] if fused == 2 else [["query", "key", "value"]]
    for target, names in zip(spec.linear, [*parts, ["out"]], strict=True):
        target.weight = np.concatenate([weights[f"{name}/{part}/kernel"].T for part in names])
        target.bias = np.concatenate([weights[f"{name}/{part}/bias"] for part in names])
    normalization(spec.layer_norm, weights, f"{residual}/normalization")


def linear(spec, weights, name):
    spec.weight, spec.bias = np.ascontiguousarray(weights[f"{name}/kernel"].T), weights[f"{name}/bias"]


def normalization(spec, weights, name):
    spec.gamma, spec.beta = weights[f"{name}/gamma"], weights[f"{name}/beta"]


def sinusoids(length: int, width: int) -> np.ndarray:
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)


def main(weights_path: str, sources_path: str) -> None:
    with open(sources_path, encoding="utf-8") as file:
        sources = [[str(n) for n in ids] for ids in json.load(file)]
    directory = tempfile.mkdtemp()
    spec = make_spec(dict(np.load(weights_path)))
    spec.validate()
    spec.optimize()
    spec.save(directory)
    settings = {}
    for inter, intra in ((1, 2), (2, 1)):
        translator = ctranslate2.Translator(directory, inter_threads=inter, intra_threads=intra, compute_type="float32")
        for beams in (1, 5):

            def translate(translator=translator, beams=beams):
                outputs = []
                for start in range(0, len(sources), BATCH):
                    batch = sources[start : start + BATCH]
                    results = translator.translate_batch(
                        batch,
                        beam_size=beams,
                        max_decoding_length=101,
                        return_scores=True,
                        max_batch_size=BATCH // 2 if translator.num_translators > 1 else 0,
                    )
                    outputs += [[[int(t) for t in r.hypotheses[0]], r.scores[0]] for r in results]
                return outputs

            settings[f"beams {beams}, {inter} × {intra} threads"] = translate
    serve(settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
