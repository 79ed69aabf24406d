"""
Evidence that a rule is lossy, as its log grows
===============================================

Wealth bet against "the output has distribution p": where it passes the line, the null is rejected, whenever one
looks.  The logs are simulated: one rule outputs a token of p, the other one in ten times its draft.
"""

import json
import tempfile
from pathlib import Path

import torch

from mdsd_bounds.audit import audit_log
from mdsd_bounds.plots.audit_evidence import audit_evidence

generator = torch.Generator().manual_seed(0)
reports = {}
for name, share in (("lossless", 0.0), ("draft one time in ten", 0.1)):
    lines = []
    for _ in range(2000):
        p, q = torch.softmax(2 * torch.randn(2, 6, generator=generator, dtype=torch.float64), -1)
        draft = int(torch.multinomial(q, 1, generator=generator))
        copied = bool(torch.rand(1, generator=generator) < share)
        output = draft if copied else int(torch.multinomial(p, 1, generator=generator))
        lines.append(json.dumps({"p": p.tolist(), "q": q.tolist(), "drafts": [draft], "token": output}))
    path = Path(tempfile.mkdtemp()) / "log.jsonl"
    path.write_text("\n".join(lines))
    reports[name] = audit_log(str(path), sampler="with_replacement"), share > 0
audit_evidence(reports)
