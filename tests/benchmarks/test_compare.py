"""What two checkouts' samples come to."""

from __future__ import annotations

from benchmarks.compare import table


def test_a_line_says_both_medians_and_how_many_times_faster_this_one_is() -> None:
    starts = [{"16 rows, p50_us": ([100.0, 90.0, 110.0], [200.0, 190.0, 210.0])} for _ in range(4)]
    starts.append({"16 rows, p50_us": ([100.0], [50.0])})
    head, line = table(starts)
    assert "ratio" in head
    assert line.split("   ")[-1] == "2.000 to 2.000"
    assert line.split()[3:6] == ["100.0", "200.0", "2.000"]
