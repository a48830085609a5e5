"""The lessons' drawings: the files are what the script writes, and every arrow has two ends."""

import xml.etree.ElementTree as ET

import pytest

from tools import drawings


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_the_file_is_what_the_script_writes(name):
    text = (drawings.PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert text == drawings.svg(drawings.DRAWINGS[name]), "run `make drawings`"


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_boxes_do_not_overlap_and_lie_inside(name):
    drawing = drawings.DRAWINGS[name]
    root = ET.fromstring(drawings.svg(drawing))
    width, height = float(root.get("width")), float(root.get("height"))
    places = []
    for box in drawing.boxes.values():
        (x, y), (w, h) = drawings._centre(box), drawings._half(box)
        assert 0 < x - w and x + w < width and 0 < y - h and y + h < height
        assert all(abs(x - a) >= w + c or abs(y - b) >= h + d for a, b, c, d in places)
        places.append((x, y, w, h))


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_arrows_join_boxes(name):
    drawing = drawings.DRAWINGS[name]
    ends = {end for arrow in drawing.arrows for end in (arrow.start, arrow.end)}
    assert ends == set(drawing.boxes)
