"""Hugging Face's MarianMT of the size of the preset `tiny`, with random weights: `generate` on a CPU.

    python benchmarks/peers/with_transformers.py SOURCES.json LENGTHS.json

With random weights no sentence ends: each batch is generated up to its longest translation in LENGTHS, as with real
weights, where finished rows are padded. The outputs are the lengths.
"""

import json
import sys

import torch
from transformers import MarianConfig, MarianMTModel
from worker import serve

BATCH, VOCABULARY = 64, 4000


def main(sources_path: str, lengths_path: str) -> None:
    torch.set_num_threads(2)
    with open(sources_path, encoding="utf-8") as file:
        sources = json.load(file)
    with open(lengths_path, encoding="utf-8") as file:
        lengths = json.load(file)
    config = MarianConfig(
        vocab_size=VOCABULARY,
        d_model=128,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        pad_token_id=0,
        eos_token_id=2,
        forced_eos_token_id=None,
        decoder_start_token_id=1,
        max_position_embeddings=256,
    )
    model = MarianMTModel(config).eval()

    def generate(beams):
        outputs = []
        for start in range(0, len(sources), BATCH):
            batch = sources[start : start + BATCH]
            max_length = max(map(len, batch))
            steps = max(lengths[start : start + BATCH])
            ids = torch.tensor([row + [0] * (max_length - len(row)) for row in batch])
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=(ids != 0).long(),
                    num_beams=beams,
                    do_sample=False,
                    min_new_tokens=steps,
                    max_new_tokens=steps,
                )
            outputs += lengths[start : start + BATCH]
        return outputs

    serve({"greedy": lambda: generate(1), "beam 5": lambda: generate(5)})


if __name__ == "__main__":
    main(*sys.argv[1:])
