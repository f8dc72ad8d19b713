"""`guided-grpo data annotate`: verified traces from a teacher behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_grpo.commands.data_stream import add_data_options, rows_of
from guided_grpo.commands.options import OneLineParser
from guided_grpo.data.annotating.teacher_settings import ChoiceSettings, EndpointSettings, RequestSettings
from guided_grpo.errors import InputError
from guided_grpo.grading.worth import GradingSettings
from guided_grpo.settings import add_options, read_options

if TYPE_CHECKING:
    from guided_grpo.data.annotating.annotate import Totals

COUNTS = ("rows", "annotated", "unverified", "not_solved", "incomplete", "skipped", "answers")
SPENT = ("requests", "retries", "failed", "refused", "tokens_in", "tokens_out", "uncounted", "cost", "seconds")


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Annotate a data set. 0 = all was asked, or the cost that was set is reached; 1 = some questions got no answer."""
    options = _parser().parse_args(arguments)
    _check(options)
    if options.no_seed:
        options.seed = None
    request = read_options(options, RequestSettings, model=options.model, extra=_extra(options.extra))
    endpoint = read_options(options, EndpointSettings, key=_key(options))
    choice = read_options(options, ChoiceSettings)
    grading = GradingSettings(
        infra_limit=1.0,  # what cannot be graded is graded again by the next run
        maths_workers=options.workers,
        code_workers=options.workers,
        code_cpu_seconds=options.code_seconds,
    )
    try:
        from guided_grpo.data.annotating.annotate import annotate
    except ModuleNotFoundError as error:
        if error.name not in ("openai", "httpx2"):
            raise
        raise InputError(f"needs the package {error.name}", fix="pip install 'guided-grpo[annotate]'") from None
    totals = annotate(
        list(rows_of(options)),
        options.output,
        source=options.data,
        request=request,
        endpoint=endpoint,
        choice=choice,
        grading=grading,
        concurrency=options.concurrency,
        quiet=options.quiet,
    )
    print(json.dumps(asdict(totals), indent=2, ensure_ascii=False) if as_json else _table(totals, options.output))
    if totals.complete:
        return 0
    print(
        f"guided-grpo data annotate: {totals.failed + totals.refused} questions got no answer (the last: "
        f"{totals.reason}); the same command asks them again",
        file=sys.stderr,
    )
    return 1


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="guided-grpo data annotate",
        description="Ask a teacher for solutions, keep the best verified one. The same command goes on after a kill.",
    )
    add = parser.add_argument
    add("--data", required=True, help="JSONL, Parquet, a hub id: problems, with answers or tests")
    add("--output", type=Path, required=True, help="JSONL: the rows, with guidance and teacher")
    add_data_options(parser)
    add("--model", required=True, help="as the endpoint names it")
    add("--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="environment variable with the key")
    add_options(parser, RequestSettings)
    add("--no-seed", action="store_true", help="send none, for endpoints that refuse the field")
    add("--extra", metavar="JSON", help="""further fields of each request, such as '{"top_k": 20}'""")
    add_options(parser, ChoiceSettings)
    add_options(parser, EndpointSettings)
    add("--concurrency", type=int, default=16, help="requests at once")
    add("--workers", type=int, default=1, help="processes that grade")
    add("--code-seconds", type=float, default=5.0, help="CPU time of one program in the sandbox")
    add("--quiet", action="store_true")
    return parser


def _check(options: Namespace) -> None:
    for name in ("limit", "concurrency", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError("is below 1", field=name, value=value, fix="give at least 1")
    if options.tokens_per_minute and not options.max_tokens:
        raise InputError("needs the largest answer", field="tokens_per_minute", fix="give --max-tokens")
    output = str(options.output)
    if Path(options.data).resolve() == options.output.resolve():
        raise InputError("is the data itself", field="output", value=output, fix="choose another file")
    if not options.output.parent.is_dir():
        raise InputError("is in a folder that does not exist", field="output", value=output, fix="make the folder")


def _extra(text: str | None) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", field="extra", value=text, fix="write an object") from None
    if not isinstance(extra, dict) or {"stream", "n", "messages", "model"} & extra.keys():
        fix = "leave out model, messages, n and stream"
        raise InputError("is no object of further fields", field="extra", value=text, fix=fix)
    return extra


def _key(options: Namespace) -> str:
    name = options.api_key_env
    key = os.environ.get(name, "").strip()
    if not key and not options.base_url:
        raise InputError("is not set", field="api_key_env", value=name, fix="export it, or give --base-url")
    if not key.isascii() or any(char.isspace() or not char.isprintable() for char in key):
        raise InputError("holds no key", field="api_key_env", value=name, fix="look at its characters")
    return key or "none"  # a server of one's own often needs no key, the client does


def _table(totals: Totals, output: Path) -> str:
    figures = {**asdict(totals), "seconds": round(totals.seconds, 1)}
    lines = [
        f"{figures[name]:>12}  {name.replace('_', ' ')}" for name in (*COUNTS, *SPENT) if figures[name] is not None
    ]
    lines += [f"{count:>12}  {status}" for status, count in sorted(totals.statuses.items())]
    return "\n".join([*lines, *([f"stopped: {totals.stopped}"] if totals.stopped else []), str(output)])
