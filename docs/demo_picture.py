"""Draw the table of a build as docs/demo.svg: `python docs/demo_picture.py engines/minilm/report.json`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from trtbuild.core.report import BuildReport
from trtbuild.reports.console import build_table


def main() -> None:
    """Draw the report that is named."""
    report = BuildReport.model_validate_json(Path(sys.argv[1]).read_text())
    console = Console(record=True, width=128, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(build_table(report))
    console.save_svg(str(Path(__file__).with_name("demo.svg")), title="make demo")


if __name__ == "__main__":
    main()
