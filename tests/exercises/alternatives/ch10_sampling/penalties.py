"""One token after the other, with a Counter."""

from collections import Counter


def apply_penalties(logits, penalties):
    result = logits.clone()
    for i, row in enumerate(penalties.rows.tolist()):
        triples = zip(
            penalties.token_ids[i].tolist(), penalties.is_prompt[i], penalties.is_output[i], strict=True
        )
        known = [(token, bool(output)) for token, prompt, output in triples if prompt or output]
        for token in {token for token, _ in known}:
            factor = float(penalties.repetition[i])
            result[row, token] *= 1 / factor if result[row, token] > 0 else factor
        for token, count in Counter(token for token, output in known if output).items():
            result[row, token] -= float(penalties.frequency[i]) * count + float(penalties.presence[i])
    return result
