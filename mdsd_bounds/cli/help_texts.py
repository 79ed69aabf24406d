"""What ``mdsd --help`` says of each command in a line that fits 80 columns, and the examples of its own help."""

from __future__ import annotations

#: Command -> (one line of at most 57 characters, examples).
HELP: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("Try it on the real dump that ships with mdsd.", ("mdsd demo",)),
    "bounds": (
        "The best acceptance rate of any lossless verifier.",
        ("mdsd bounds pair.npz --drafts 1,2,4", "mdsd bounds pair.npz --sampler all --out rows.parquet"),
    ),
    "compare": (
        "Verifiers against their bound, best first; also your own.",
        (
            "mdsd compare pair.npz --drafts 2,4",
            "mdsd compare pair.npz --verifier rrs,my_rule.py:step --sampler with_replacement",
            "mdsd compare one.npz other.npz --paired --drafts 2",
        ),
    ),
    "acceptance": (
        "Acceptance rates that a server already counted.",
        ("mdsd acceptance before.txt after.txt", "mdsd acceptance server.log --dump pair.npz"),
    ),
    "advise": (
        "The sampler, verifier and tree that are fastest.",
        ("mdsd advise pair.npz --draft-cost 0.1 --target-cost 1:1,8:1.1,32:1.6",),
    ),
    "tree": (
        "Decode with draft trees on a real pair; summarise a log.",
        ("mdsd tree log.jsonl", "mdsd tree --target T --draft D --prompts prompts.txt --out log.jsonl"),
    ),
    "audit": (
        "Is this verifier lossless? From its code or from a log.",
        (
            "mdsd audit requests.jsonl",
            "mdsd audit --verifier my_rule.py:step --sampler with_replacement --dump pair.npz",
        ),
    ),
    "draft-temperature": (
        "The best draft temperature, chosen and judged apart.",
        ("mdsd draft-temperature pair.npz --drafts 4",),
    ),
    "log": (
        "Run a model pair over prompts and store the logits.",
        ("mdsd log --target T --draft D --prompts prompts.txt --out dump",),
    ),
    "train-draft": ("Train a Chimera draft head for a target.", ("mdsd train-draft --help",)),
    "convert": ("Write a dump in another format, or join two.", ("mdsd convert pair.npz dump",)),
    "inspect": ("What a dump holds, and what to look out for.", ("mdsd inspect pair.npz",)),
    "plot": ("Figures of results, for the screen or a paper.", ("mdsd plot rows.parquet --out figure.svg",)),
    "report": ("One HTML page about a dump, led by what to use.", ("mdsd report pair.npz --out report.html",)),
    "list": (
        "List samplers, verifiers, formats, trees or figures.",
        ("mdsd list verifiers", "mdsd list samplers --format json"),
    ),
}


def texts(command: str) -> dict[str, str]:
    """Arguments of the framework's command: its short help, and its examples below the options."""
    short, examples = HELP[command]
    word = "Example" if len(examples) == 1 else "Examples"
    # The mark keeps the lines as they are.
    return {"short_help": short, "epilog": "\b\n" + "\n".join([f"{word}:", *(f"  {line}" for line in examples)])}
