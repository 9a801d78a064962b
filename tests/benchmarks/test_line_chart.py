"""The chart is XML that every browser reads, says what its lines are, and is the same file each time."""

from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.line_chart import Panel, Series, svg

SVG = "{http://www.w3.org/2000/svg}"
RISING = Series("a < b", ((0.0, 0.0), (1.0, 0.2), (2.0, 1.0)))
FALLING = Series("c", ((1.0, 0.5), (2.0, 0.0)))


def heights(text: str) -> dict[str, list[float]]:
    """How far down the points of each line are, by the line's name."""
    found = {}
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        kind, _, name = group.get("id", "").partition(" 0 ")
        if kind == "line":
            (path,) = group.findall(f"{SVG}path")
            numbers = path.get("d", "").replace("M", "").replace("L", "").split()
            found[name] = [float(y) for y in numbers[1::2]]
    return found


def test_lines_are_named_once_and_go_where_their_numbers_go() -> None:
    text = svg([Panel("p & q", (RISING, FALLING)), Panel("second", (RISING, FALLING), (1.0, "limit"))], "x")
    said = [element.text for element in ElementTree.fromstring(text).iter(f"{SVG}text")]
    assert said.count("a < b") == said.count("c") == said.count("p & q") == said.count("limit") == 1
    drawn = heights(svg([Panel("p", (RISING, FALLING))], "x"))
    assert drawn["a < b"] == sorted(drawn["a < b"], reverse=True), "SVG counts downwards"
    assert drawn["c"] == sorted(drawn["c"])


def test_the_same_chart_is_the_same_file() -> None:
    panels = [Panel("p", (RISING,), (0.5, "limit"))]
    assert svg(panels, "x") == svg(panels, "x")
