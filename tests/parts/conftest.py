"""Parts from tests/parts/other_parts.py, loaded as a learner's are: by file and name."""

from pathlib import Path

import pytest

from minivllm.parts import Parts, load_from_file

OTHER = Path(__file__).with_name("other_parts.py")


@pytest.fixture(scope="session")
def other():
    """other(part="name in other_parts.py", ...) -> Parts."""

    def load(**names):
        return Parts(**{part: load_from_file(OTHER, name) for part, name in names.items()})

    return load
