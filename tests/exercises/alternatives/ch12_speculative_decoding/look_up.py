"""Every place against every end of the text, in plain lists."""


def look_up(token_ids, shortest, longest, num_drafts):
    text = [int(token) for token in token_ids]
    for length in range(min(longest, len(text) - 1), shortest - 1, -1):
        end = text[-length:]
        behind = [start for start in range(length, len(text)) if text[start - length : start] == end]
        for start in reversed(behind):
            if len(text) - start >= num_drafts:
                return text[start : start + num_drafts]
        if behind:
            return text[behind[0] :]
    return []
