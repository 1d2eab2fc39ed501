"""The parts of a decoder: linear, norm, rotary, activation, embedding, attention. Each can be one rank's
share."""
