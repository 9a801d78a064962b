"""What type checkers get of a page: its lines where they are in the page, its files as modules."""

from __future__ import annotations

from pathlib import Path

from tests.typechecks.checkers import Finding, compare, expected_of
from tests.typechecks.pages import modules_of, write_pages

FIRST = """# First

```python title="shop.py"
SIZE = 3
```

```python
from shop import SIZE
```

<!-- not run: it cannot be -->
```python
nothing
```

```python title="shop.py"
SIZE = 4
```

```python
  import shop
import shopping
```
"""
SECOND = "<!-- continues: first.md -->\n\n```python\nimport shop\n```\n"


def test_a_page_is_a_package_of_modules(tmp_path: Path) -> None:
    page, next_page = tmp_path / "first.md", tmp_path / "second-one.md"
    page.write_text(FIRST)
    next_page.write_text(SECOND)
    made = modules_of(page, tmp_path)
    assert made.keys() == {"shop", "page", "shop_2"}
    assert made["shop"].splitlines()[3] == "SIZE = 3"
    lines = FIRST.splitlines()
    for number, line in enumerate(made["page"].splitlines()):
        expected = {
            "from shop import SIZE": "from first.shop import SIZE",
            "  import shop": "  import first.shop_2 as shop",
        }
        assert line in ("", expected.get(lines[number], lines[number]))
    assert "nothing" not in "".join(made.values()) and "import shopping" in made["page"]
    assert modules_of(next_page, tmp_path)["page"].splitlines()[3] == "import first.shop_2 as shop"
    write_pages([page, next_page], tmp_path, tmp_path / "made")
    assert {path.name for path in (tmp_path / "made").glob("*/*.py")} == {
        "__init__.py",
        "shop.py",
        "shop_2.py",
        "page.py",
    }


def test_what_a_line_expects_is_missed_and_what_it_does_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("f()  # mypy: arg-type call-arg, pyright: reportCallIssue\n")
    assert [each.place for each in expected_of([path], 1)] == [(path, 1, "arg-type"), (path, 1, "call-arg")]
    expected = expected_of([path], 2)
    assert [each.code for each in expected] == ["reportCallIssue"]
    assert compare([Finding(path, 1, "reportCallIssue", "no")], expected, "pyright") == []
    assert compare([], expected, "pyright") == [f"{path}:1: pyright is silent [reportCallIssue]"]
    found = Finding(path, 2, "reportCallIssue", "no")
    assert compare([found], expected, "pyright")[0] == f"{path}:2: pyright: no [reportCallIssue]"
