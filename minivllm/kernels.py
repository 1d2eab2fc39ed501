"""The top-level folder ``kernels/`` under the name ``minivllm.kernels``: an alias, no kernel stands here.

``kernels`` is also the name of a Hugging Face library that transformers looks for, so our folder has no
``__init__.py`` and is never imported by its bare name. Setting ``__path__`` makes this module a package whose
submodules come from that folder: from inside the package in an installed wheel, from beside it in a checkout.
Always write ``from minivllm.kernels.<module> import ...``.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# The wheel's place comes first: site-packages/kernels, beside an installed minivllm, is the other library.
_PLACES = (_PACKAGE / "kernels", _PACKAGE.parent / "kernels")
__path__ = [str(next(folder for folder in _PLACES if folder.is_dir()))]
