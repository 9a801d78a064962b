"""The chart is XML that every browser reads, and its lines are where the numbers are."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.line_chart import HEIGHT, WIDTH, Panel, Series, svg

SVG = "{http://www.w3.org/2000/svg}"


def lines(text: str) -> dict[str, list[tuple[float, float]]]:
    """The points of the lines of all panels, by their class."""
    found = {}
    for path in ElementTree.fromstring(text).iterfind(f"{SVG}g/{SVG}path"):
        kind = path.get("class", "")
        if kind.startswith("line"):
            points = path.get("d", "")[1:].split("L")
            found[kind] = [tuple(map(float, point.split())) for point in points]
    return found


def test_lines_are_drawn_to_scale_and_named_once() -> None:
    one = Series("a < b", ((0.0, 0.0), (2.0, 1.0)))
    other = Series("c", ((1.0, 0.5), (2.0, 0.0)))
    text = svg([Panel("p & q", (one, other)), Panel("second", (one,), (1.0, "limit"))], "x")
    assert text.count("a &lt; b") == 1
    assert "p &amp; q" in text
    drawn = lines(svg([Panel("p", (one, other))], "x"))
    assert drawn["line s0"] == [(0.0, HEIGHT), (WIDTH, 0.0)]
    assert drawn["line s1"] == [(WIDTH / 2, HEIGHT / 2), (WIDTH, HEIGHT)]


@pytest.mark.parametrize("largest", [0.003, 0.97, 1.0, 7, 99.9, 250.0, 12345.0])
def test_no_line_leaves_its_panel(largest: float) -> None:
    text = svg([Panel("p", (Series("a", ((0.0, 0.0), (3.0, largest))),), (largest * 1.1, "limit"))], "x")
    assert all(0 <= y <= HEIGHT for points in lines(text).values() for _, y in points)
    rule = next(path for path in ElementTree.fromstring(text).iter(f"{SVG}path") if path.get("class") == "rule")
    assert 0 <= float(rule.get("d", "").split()[1].split("H")[0]) <= HEIGHT
