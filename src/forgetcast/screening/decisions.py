"""What a record keeps of a pre-screened queue: one entry per request, with everything that the decision rests on."""

from __future__ import annotations

from typing import Any

from forgetcast._arguments import checked
from forgetcast.files.canonical_json import json_value
from forgetcast.screening.columns import COLUMNS
from forgetcast.screening.triage import Triage

__all__ = ["decisions"]

NOT_DECIDED = ("row", "id", "index", "reasons")


@checked()
def decisions(triage: Triage) -> list[dict[str, Any]]:
    """What is to be kept of a screened queue, for ``record.append``.

    Args:
        triage: the queue.

    Returns:
        One entry per request, of JSON values only.

    Every entry names the software, the fingerprint of the predictor, the hashes of model and data, the policy with its
    fingerprint, the time and the settings; then the request as it came, and what was decided. A request that could not
    be served has its problem in place of a decision.
    """
    common = {
        "forgetcast": triage.provenance["forgetcast"],
        "predictor": triage.provenance["predictor"],
        "model": triage.provenance["model"],
        "data": triage.provenance["data"],
        "policy": triage.policy.to_dict() | {"fingerprint": triage.policy.fingerprint},
        "objective": triage.objective,
        "person_column": triage.provenance["person_column"],
        "settings": triage.provenance["settings"],
        "screened": triage.provenance["time"],
        "requests": triage.provenance["requests"],
    }
    decided = [name for name in COLUMNS if name not in NOT_DECIDED]
    entries = []
    for row in triage.table.to_dict("records"):
        request = {str(name): value for name, value in row.items() if name not in decided and name != "reasons"}
        entries.append(common | {"request": request, "decision": {name: row[name] for name in decided}})
    for row in triage.problems.to_dict("records"):
        entries.append(common | {"request": {"row": row["row"], "id": row["id"]}, "problem": row["problem"]})
    return [json_value(entry) for entry in sorted(entries, key=lambda entry: entry["request"]["row"])]
