"""What a request uses beyond plain text, told in two ways.

features_of     the "feature" of a model-and-feature pair. When a call costs more than its worst case, its
                model and its features are written down, and calls that use the same model and (at least) the
                same features are refused until an operator clears the pair
rule_features   the few that rules of policies may ask for
"""

from collections.abc import Iterable

from governance.gateway.betas import KNOWN_BETAS
from governance.gateway.request import ABSENT, Body, Request, block_type, is_given, value_of
from governance.gateway.text_bound import unbounded_features

FEATURES_MAX = 24
"""Of one request, in the order of their names. With fewer named, a pair covers more calls, never fewer."""
NAME_CHARACTERS_MAX = 80


def features_of(request: Request, betas: Iterable[str]) -> tuple[str, ...]:
    """The features in order, () for plain text. `betas`: the values of the anthropic-beta header.

    unicode                       characters that normalisation may make longer
    images, documents, …          media, by the kind of their block
    tools                         tools that the client runs
    web_search, web_fetch, …      tools that Anthropic runs
    cache_5m, cache_1h            the longest cache lifetime asked for
    thinking, structured_output, stop_sequences, inference_geo
    mcp, compaction, fallbacks, … whatever makes a worst case unbounded
    field:NAME, beta:NAME         what we do not know
    """
    fields = request.fields
    found = set(unbounded_features(request))
    if not request.is_ascii or request.has_unicode_escapes:
        found.add("unicode")
    for media in request.media:
        found.add(f"{media.kind or 'unknown'}s")
    for tool in request.tools:
        kind = block_type(tool)
        found.add("tools" if kind in ("", "custom") else kind.rstrip("0123456789").rstrip("_"))
    if request.cache_ttl is not None:
        found.add(f"cache_{request.cache_ttl}")
    if _thinks(fields):
        found.add("thinking")
    if _has_a_format(fields):
        found.add("structured_output")
    if fields.stop_sequences:
        found.add("stop_sequences")
    if fields.inference_geo is not None:
        found.add("inference_geo")
    found.update(f"field:{name}" for name in request.unknown_fields)
    found.update(f"beta:{beta}" for beta in betas if beta not in KNOWN_BETAS)
    return tuple(sorted(name[:NAME_CHARACTERS_MAX] for name in found)[:FEATURES_MAX])


def rule_features(request: Request) -> frozenset[str]:
    """Those of routing.document.Feature that the request has."""
    fields = request.fields
    found = {f"{media.kind}s" for media in request.media if media.kind in ("image", "document")}
    if request.tools:
        found.add("tools")
    if _thinks(fields):
        found.add("thinking")
    if fields.system:
        found.add("system")
    if _has_a_format(fields):
        found.add("structured_output")
    if request.cache_ttl is not None:
        found.add("cache_control")
    return frozenset(found)


def _thinks(fields: Body) -> bool:
    if not fields.thinking:
        return False
    return value_of(fields.thinking.get("type", ABSENT), str) != "disabled"


def _has_a_format(fields: Body) -> bool:
    return is_given((fields.output_config or {}).get("format", ABSENT))
