"""What a file is that no reader knows, in words, with what to do about it."""

from __future__ import annotations

from pathlib import Path

from mdsd_bounds.dumps.containers.files import beginning

_PICKLE = (
    "a pickle (torch.save before torch 1.6, or pickle.dump), which is never loaded, as it may run code; write it again "
    "where you trust it: torch.save(torch.load(FILE, weights_only=True), NEW) with torch 1.6 or later"
)
#: First bytes -> what they begin, and the remedy.
_KNOWN = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; save its arrays as .safetensors or .npz"),
    (b"GGUF", "a GGUF model; log a dump with mdsd log --target MODEL.gguf"),
    (b"ARROW1", "an Arrow file; save it as parquet"),
    (b"\xff\xff\xff\xff", "an Arrow stream; save it as parquet"),
    (b"PAR1", "a parquet file whose columns no reader knows; see the table of formats in docs/dumps.md"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first (unzstd)"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it first (unxz)"),
    (b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"PK\x05\x06", "an empty zip archive; write it again"),
    (b"\x93NUMPY", "a NumPy array; give target and draft: TARGET.npy,DRAFT.npy"),
    (b"\x80", _PICKLE),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it (git lfs pull)"),
    (b"<", "HTML or XML, perhaps the page of an error; fetch the file again"),
    (b"{", "JSON whose fields no reader knows; see the table of formats in docs/dumps.md"),
    (b"[", "a JSON array whose entries no reader knows; see the table of formats in docs/dumps.md"),
)


def described(path: Path) -> str:
    """The second half of an error message about ``path``.

    Cost: one read of 64 bytes.
    """
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        inside = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0] if names else "nothing"
        return f"it is a folder that holds {inside}; a native dump has manifest.json, a capture rows.safetensors"
    if not path.is_file():
        return "it is no regular file; save its content to a file first"
    head = beginning(path, 64)
    if not head:
        return "it is empty; write it again"
    plain = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, words in _KNOWN:
        if head.startswith(magic) or (magic.isascii() and plain.startswith(magic)):
            return f"it is {words}"
    if not head.strip(b"\0"):
        return "it begins with zeros, as an unfinished copy does; fetch it again"
    if path.stat().st_size >= 262 and beginning(path, 262)[257:] == b"ustar":
        return "it is a tar archive; unpack it first (tar xf)"
    return "wrong magic bytes or an incomplete file"
