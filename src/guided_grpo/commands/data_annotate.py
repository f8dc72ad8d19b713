"""`guided-grpo data annotate`: verified traces from a teacher behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_grpo.commands.options import OneLineParser, add_map, mapping_of
from guided_grpo.errors import InputError

if TYPE_CHECKING:
    from guided_grpo.data.annotating.annotate import Totals

COUNTS = ("rows", "annotated", "unverified", "not_solved", "incomplete", "skipped", "answers")
SPENT = ("requests", "retries", "failed", "refused", "tokens_in", "tokens_out", "uncounted", "cost", "seconds")


def main(arguments: list[str], *, as_json: bool = False) -> int:
    """Annotate a data set. 0 = all was asked, or the cost that was set is reached; 1 = some questions got no answer."""
    options = _parser().parse_args(arguments)
    _check(options)
    try:
        from guided_grpo.data.annotating.annotate import Choosing, annotate
        from guided_grpo.data.annotating.teacher import Asking
    except ModuleNotFoundError as error:
        if error.name not in ("openai", "httpx2"):
            raise
        raise InputError(f"needs the package {error.name}", fix="pip install 'guided-grpo[annotate]'") from None
    from guided_grpo.data.sources import load_rows

    mapping = mapping_of(options.map) or None
    asking = Asking(
        model=options.model,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=options.max_tokens,
        system=options.system,
        extra=_extra(options.extra),
        seed=None if options.no_seed else options.seed,
    )
    endpoint = {
        "base_url": options.base_url,
        "key": _key(options),
        "requests_per_minute": options.requests_per_minute,
        "tokens_per_minute": options.tokens_per_minute,
        "retries": options.retries,
        "timeout": options.timeout,
    }
    choosing = Choosing(
        samples=options.samples,
        choose=options.choose,
        keep_unverified=options.keep_unverified,
        again=options.again,
        price_in=options.price_in,
        price_out=options.price_out,
        max_cost=options.max_cost,
    )
    rows: Any = load_rows(options.data, mapping=mapping, limit=options.limit)
    totals = annotate(
        list(rows),
        options.output,
        source=options.data,
        asking=asking,
        endpoint=endpoint,
        choosing=choosing,
        concurrency=options.concurrency,
        workers=options.workers,
        code_seconds=options.code_seconds,
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
    add("--data", required=True, help="JSONL, Parquet, a hub id: prompt, and answer or tests")
    add("--output", type=Path, required=True, help="JSONL: the rows, with guidance and teacher")
    add_map(parser)
    add("--limit", type=int, help="the first so many rows")
    add("--again", action="store_true", help="ask for rows that have guidance too")

    add("--model", required=True, help="as the endpoint names it")
    add("--base-url", help="such as http://localhost:8000/v1; default: the client's (OPENAI_BASE_URL, or OpenAI)")
    add("--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="environment variable with the key")
    add("--samples", type=int, default=1, metavar="N", help="answers to each problem")
    add("--temperature", type=float, help="default: the endpoint's")
    add("--top-p", type=float, help="default: the endpoint's")
    add("--max-tokens", type=int, help="of one answer, thinking included; default: the endpoint's")
    add("--system", help="system message")
    add("--extra", metavar="JSON", help="""further fields of each request, such as '{"top_k": 20}'""")
    add("--seed", type=int, default=0, help="from which each sample's seed is made")
    add("--no-seed", action="store_true", help="send none, for endpoints that refuse the field")
    add("--choose", choices=("shortest", "longest", "first"), default="shortest", help="which of the correct ones")
    add("--keep-unverified", action="store_true", help="where none is correct, keep one that is not")

    add("--concurrency", type=int, default=16, help="requests at once")
    add("--requests-per-minute", type=float, help="evenly, retries included")
    add("--tokens-per-minute", type=float, help="prompts and answers; needs --max-tokens")
    add("--retries", type=int, default=10, help="of one request, with back-off")
    add("--timeout", type=float, default=1800.0, help="seconds for one answer")
    add("--price-in", type=float, help="of a million tokens of prompts")
    add("--price-out", type=float, help="of a million tokens of answers")
    add("--max-cost", type=float, help="stop asking there; what is in flight still comes in")
    add("--workers", type=int, default=1, help="processes that grade")
    add("--code-seconds", type=float, default=5.0, help="CPU time of one program in the sandbox")
    add("--quiet", action="store_true")
    return parser


def _check(options: Namespace) -> None:
    least = {
        "samples": 1, "limit": 1, "concurrency": 1, "workers": 1, "max_tokens": 1, "retries": 0, "temperature": 0,
        "price_in": 0, "price_out": 0, "max_cost": 0,
    }  # fmt: skip
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not value >= bound:
            raise InputError(f"is below {bound}", field=name, value=value, fix=f"give at least {bound}")
    for name in ("requests_per_minute", "tokens_per_minute", "timeout", "code_seconds", "top_p"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError("is not above 0", field=name, value=value, fix="give more, or leave it out")
    if options.base_url and not options.base_url.startswith(("http://", "https://")):
        raise InputError(
            "is no address", field="base_url", value=options.base_url, fix="begin with http:// or https://"
        )
    if options.max_cost is not None and options.price_in is None and options.price_out is None:
        raise InputError("needs prices", field="max_cost", fix="give --price-in and --price-out")
    if options.tokens_per_minute and not options.max_tokens:
        raise InputError("needs the largest answer", field="tokens_per_minute", fix="give --max-tokens")
    if Path(options.data).resolve() == options.output.resolve():
        raise InputError("is the data itself", field="output", value=str(options.output), fix="choose another file")
    if not options.output.parent.is_dir():
        raise InputError(
            "is in a folder that does not exist", field="output", value=str(options.output), fix="make the folder"
        )


def _extra(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", field="extra", value=text, fix="write an object") from None
    if not isinstance(found, dict) or {"stream", "n", "messages", "model"} & found.keys():
        raise InputError(
            "is no object of further fields", field="extra", value=text, fix="leave out model, messages, n and stream"
        )
    return found


def _key(options: Namespace) -> str:
    key = os.environ.get(options.api_key_env, "").strip()
    if not key and not options.base_url:
        raise InputError(
            "is not set", field="api_key_env", value=options.api_key_env, fix="export it, or give --base-url"
        )
    if not key.isascii() or any(char.isspace() or not char.isprintable() for char in key):
        raise InputError("holds no key", field="api_key_env", value=options.api_key_env, fix="look at its characters")
    return key or "none"  # a server of one's own often needs no key, the client does


def _table(totals: Totals, output: Path) -> str:
    found = asdict(totals)
    found["seconds"] = round(totals.seconds, 1)
    lines = [f"{found[name]:>12}  {name.replace('_', ' ')}" for name in (*COUNTS, *SPENT) if found[name] is not None]
    lines += [f"{count:>12}  {status}" for status, count in sorted(totals.statuses.items())]
    return "\n".join([*lines, *([f"stopped: {totals.stopped}"] if totals.stopped else []), str(output)])
