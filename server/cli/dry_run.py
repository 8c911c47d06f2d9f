"""`upscale --dry-run`: what would be done, without networks."""

import json
from typing import TYPE_CHECKING, Any

from server.cli.base import plain, stdout
from server.cli.here import pages_of
from server.cli.run import Tally, reason_of, report_failure
from server.cli.sources import STANDARD, Task, read
from server.job.job import Params

if TYPE_CHECKING:
    from server.config import Config


def explain(
    config: "Config", params: Params, tasks: list[Task], tally: Tally, *, own_format: bool, as_json: bool
) -> None:
    """Print each picture with its result and both sizes. Pictures that can't be read are failures."""
    from server.images.read.open import read_header
    from server.job.plan import checked_sizes

    for task in tasks:
        facts: dict[str, Any] = {"source": str(task.source), "result": str(task.result)}
        if task.source != STANDARD and pages_of(task.source, params, own_format=own_format) is None:
            try:
                header = read_header(read(task.source, config.max_source_bytes), config.max_source_pixels)
                sizes = checked_sizes(
                    header.size,
                    params,
                    header.frames,
                    max_source_pixels=config.max_source_pixels,
                    max_result_pixels=config.max_result_pixels,
                    hdr=header.hdr,
                )
            except Exception as error:  # each file that would fail is named
                reason = reason_of(error)
                tally.failed.append((task.source, reason))
                report_failure(task.source, reason, as_json=as_json)
                continue
            facts |= {"source_size": list(sizes.source), "result_size": list(sizes.result)}
            facts |= {"hdr": header.hdr} if header.hdr else {}
        tally.done += 1
        if as_json:
            print(json.dumps(facts))
            continue
        line = f"{plain(task.source)} → {plain(task.result)}"
        if "result_size" in facts:
            line += "  {}×{} → {}×{}".format(*facts["source_size"], *facts["result_size"])
            line += f"  HDR ({facts['hdr']})" if "hdr" in facts else ""
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)
