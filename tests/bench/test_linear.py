"""Products beside torch's: every way computes the same."""

import argparse
import json

import pytest

from minivllm import ops
from minivllm.bench import linear


@pytest.mark.skipif(not ops.has_cpp(), reason="the C++ kernels cannot be built here")
def test_rows():
    parser = argparse.ArgumentParser()
    linear.add_arguments(parser)
    result = linear.run(
        parser.parse_args(["--in-features", "33", "--out-features", "50", "--repetitions", "1"])
    )
    assert json.loads(json.dumps(result)) == result
    assert [row["tokens"] for row in result["rows"]] == list(linear.TOKENS)
    assert all(row["largest_difference"] < 1e-4 for row in result["rows"])
    assert all(row["ratio"] > 0 for row in result["rows"])
