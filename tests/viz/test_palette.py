"""The palette: contrast against published values, and text that can be read on every colour."""

import pytest

from minivllm.viz import palette
from minivllm.viz.palette import MEMORY_STYLES, OKABE_ITO, REQUEST_STYLES, contrast, ink_on


def test_contrast_of_black_and_white_is_21():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert contrast("#123456", "#123456") == 1


def test_contrast_of_a_grey_that_everybody_quotes():
    """#767676 is the lightest grey that passes on white."""
    assert contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)


def test_labels_can_be_read_on_every_colour():
    for style in (*MEMORY_STYLES.values(), *REQUEST_STYLES.values()):
        assert contrast(style.color, ink_on(style.color)) >= 4.5


def test_the_colours_are_okabe_and_itos():
    assert len(set(OKABE_ITO)) == 8
    drawn = {style.color for style in (*MEMORY_STYLES.values(), *REQUEST_STYLES.values())}
    assert drawn <= {*OKABE_ITO, palette.GREY}


@pytest.mark.parametrize("styles", [MEMORY_STYLES, REQUEST_STYLES])
def test_no_two_states_share_a_colour_or_a_letter(styles):
    assert len({style.color for style in styles.values()}) == len(styles)
    assert len({style.letter for style in styles.values()}) == len(styles)
