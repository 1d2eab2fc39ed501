"""Exercise 2.4 as one stream: what is to be read next stands in a list."""


def chunks(num_tokens, chunk_size):
    pieces, start = [], 0
    while start < num_tokens:
        stop = start + chunk_size if start + chunk_size < num_tokens else num_tokens
        pieces.append((start, stop))
        start = stop
    return pieces


def prefill(forward, prompt, chunk_size):
    last = None
    for start, stop in chunks(len(prompt), chunk_size):
        last = forward(list(prompt)[start:stop])
    return last[len(last) - 1]


def decode(forward, prompt, num_tokens, chunk_size):
    logits, output = prefill(forward, prompt, chunk_size), []
    while True:
        output.append(max(range(len(logits)), key=lambda token: float(logits[token])))
        if len(output) == num_tokens:
            return output
        logits = forward([output[-1]])[0]
