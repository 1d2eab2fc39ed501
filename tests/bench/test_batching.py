"""The measurement of batching runs both ways on the same requests."""

import argparse

from minivllm.bench import batching


def test_continuous_takes_fewer_steps_for_the_same_tokens():
    parser = argparse.ArgumentParser()
    batching.add_arguments(parser)
    result = batching.run(
        parser.parse_args(["--num-requests", "5", "--max-num-seqs", "2", "--repetitions", "1"])
    )
    rows = result["rows"]
    assert rows["continuous"]["steps"] < rows["static"]["steps"]
    assert rows["static"]["seats_in_use"] < rows["continuous"]["seats_in_use"] <= 2
    assert result["ratio"] > 0 and result["output_tokens"] > 5
