"""Reference searches: one sentence at a time, without a cache."""

import numpy as np

START, END = 1, 2


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def plain_greedy(next_logits, limit):
    """Greedy search that runs the model on all tokens so far for every new one."""
    tokens, log_probability = [], 0.0
    while len(tokens) < limit and (not tokens or tokens[-1] != END):
        scores = log_softmax(next_logits([START, *tokens]))
        tokens.append(int(scores.argmax()))
        log_probability += scores.max()
    return tokens, log_probability


def plain_beams(next_logits, limit, alpha, beams, end=END, stops=True):
    """Beam search without caches or batches, in Python lists -> [(tokens, score), ...]"""
    live, finished = [((), 0.0)], []
    for length in range(1, limit + 1):
        candidates = [
            (total + scores[token], (*tokens, token))
            for tokens, total in live
            for scores in [log_softmax(next_logits([START, *tokens]))]
            for token in range(len(scores))
        ]
        candidates = sorted(candidates, reverse=True, key=lambda pair: pair[0])[: 2 * beams]
        finished += [(t, total / length**alpha) for total, t in candidates if t[-1] == end or length == limit]
        finished = sorted(finished, key=lambda pair: -pair[1])[:beams]
        live = [(t, total) for total, t in candidates if t[-1] != end][:beams]
        longest = limit if alpha >= 0 else length + 1
        if stops and len(finished) == beams and finished[0][1] >= live[0][1] / longest**alpha:
            break
    return finished
