"""``mdsd convert``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mdsd_bounds._backend.printable import printable
from mdsd_bounds.cli.notes import opened
from mdsd_bounds.cli.options import Head, Limit, Quiet, Tokenizer, progress_bar
from mdsd_bounds.cli.outputs import Force, check_out


def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC [DRAFT_SRC] DST",
            help="A dump, or the files of target and draft; then where to write: a folder (native), .safetensors, .npz "
            "or .pt, or two files joined by a comma: .npy, .kld, .json or .parquet.",
            show_default=False,
        ),
    ],
    top_k: Annotated[
        int | None,
        typer.Option("--top-k", help="Store each row's k most probable tokens and the mass of the rest."),
    ] = None,
    shard_rows: Annotated[int, typer.Option("--shard-rows", min=1, help="Rows of a shard of a native dump.")] = 64,
    head: Head = None,
    tokenizer: Tokenizer = None,
    limit: Limit = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a dump in another format, or join two one-model files into a pair; prints what was written."""
    from mdsd_bounds.dumps.convert import convert as write
    from mdsd_bounds.dumps.how_to_read import named

    if len(paths) not in (2, 3):
        raise typer.BadParameter(f"{len(paths)} paths; give SRC DST, or TARGET_SRC DRAFT_SRC DST")
    source = named(",".join(paths[:-1]), head=head, tokenizer=tokenizer)

    def report(line: str) -> None:
        print(f"note: {printable(line)}", file=sys.stderr)

    dst = paths[-1]
    for part in dst.split(","):
        if not Path(part).is_dir():
            check_out(part, paths[:-1], force, "DST")
    opened(source, limit)
    with progress_bar(dst, quiet) as progress:
        options = {"top_k": top_k, "shard_rows": shard_rows, "limit": limit, "force": force}
        print(write(source, dst, progress=progress, report=report, **options))  # type: ignore[arg-type]
