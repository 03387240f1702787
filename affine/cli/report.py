"""`report`: write the run in this folder as one HTML file, or what it changes against another commit as Markdown."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from affine.files import write_text
from affine.params import load_params
from affine.report.changes import Changes, changes
from affine.report.comment import headline
from affine.report.comment import render as render_comment
from affine.report.gather import gather
from affine.report.page import render


def run(arguments: list[str]) -> int:
    """Write the page, or with --base the comment. Raises ReportError, ChangesError, StaleError, FileError,
    GraphError, ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine report",
        description="The run in this folder as one HTML file; with --base, what it changes against another commit, as"
        " Markdown for a pull request (from git alone: no data, model or GPU).",
    )
    parser.add_argument("--base", metavar="COMMIT", help="compare with where HEAD left this, such as origin/main")
    parser.add_argument("--out", type=Path, help="where to write it (default: report.html; with --base, report.md)")
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="with --base: draw scores and curves as PNG here"
    )
    parser.add_argument("--run-url", metavar="URL", default="", help="with --figures: where they can be fetched")
    parser.add_argument("--stale-is-error", action="store_true", help="with --base: exit 1 where a stage is stale")
    chosen = parser.parse_args(arguments)
    root = Path.cwd()
    level = load_params(root / "params.yaml").pareto.confidence
    if chosen.base:
        found = compare(
            root, chosen.base, chosen.out or Path("report.md"), chosen.figures, level, run_url=chosen.run_url
        )
        return int(chosen.stale_is_error and bool(found.fit.stale))
    if chosen.figures or chosen.run_url or chosen.stale_is_error:
        parser.error("--figures, --run-url and --stale-is-error go with --base")
    out = chosen.out or Path("report.html")
    results = gather(root, level)
    write_text(out, render(results, commit_of(root)))
    episodes = (
        f"{results.packed.episodes:,} episodes" if results.packed else "no episodes (`dvc pull evaluate` gets them)"
    )
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {episodes}; open it in a browser")
    return 0


def compare(root: Path, base: str, out: Path, figures: Path | None, level: float, *, run_url: str) -> Changes:
    """Write the comment to `out` and its pictures to the folder `figures`."""
    found = changes(root, base)
    drawn: dict[str, bytes] = {}
    if figures is not None:
        from affine.report.change_figures import draw  # matplotlib takes a second

        drawn = draw(found)
        figures.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            (figures / name).write_bytes(picture)
    text = render_comment(found, level, list(drawn), run_url)
    write_text(out, text)
    print(f"{out}: {headline(found)}")
    for stage, causes in found.fit.stale.items():
        print(f"stale: {stage} ({', '.join(causes)})")
    return found


def commit_of(root: Path) -> str:
    """The short commit of `root`, with a + where tracked files differ from it; "" outside git."""
    git = shutil.which("git")
    if git is None:
        return ""

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([git, *arguments], cwd=root, capture_output=True, text=True, check=False)

    head = ask("rev-parse", "--short=10", "HEAD")
    if head.returncode != 0:
        return ""
    return head.stdout.strip() + ("+" if ask("diff", "--quiet", "HEAD").returncode else "")
