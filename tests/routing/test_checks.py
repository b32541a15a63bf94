"""A policy that reads and cannot be meant is refused with its line; what will go wrong later is warned of."""

from datetime import UTC, date, datetime
from textwrap import indent
from typing import Any

import pytest

from governance.pricing.book import compile_book
from governance.routing.drafts import check_draft
from governance.routing.known import Known
from governance.routing.problems import Problem
from tests.routing.models import PRICES

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KNOWN = Known.of_book(
    compile_book(1, PRICES.rates, PRICES.models), NOW, keys={"Abcdefg1"}, teams={"research", "7"}
)


def checked(source: str) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    found = check_draft(source, KNOWN)
    assert (found.policy is None) is bool(found.problems)
    return _pairs(found.problems), _pairs(found.warnings)


def _pairs(found: tuple[Problem, ...]) -> list[tuple[int, str]]:
    return [(each.line, each.sentence) for each in found]


def problem(body: str) -> str:
    """The sentence about the line that is marked with “# here” in a rule's body."""
    source = f"rules:\n  - name: a\n{indent(body, '    ')}\n"
    problems, _ = checked(source)
    assert problems, "nothing wrong"
    ((line, sentence),) = problems
    assert "# here" in source.splitlines()[line - 1], (line, sentence)
    return sentence


def then(body: str) -> str:
    return problem("then:\n" + indent(body, "  "))


def test_a_policy_that_can_be_meant_has_no_problems_and_no_warnings() -> None:
    assert checked(
        """
        tiers: {opus: claude-opus-5}
        rules:
          - name: a
            when:
              keys: [Abcdefg1]
              teams: [research, "7"]
              models: [claude-haiku-4-5, claude-2.1]
              time: {zone: Europe/Berlin, from: 22:00, to: 06:00}
            then:
              route: {cascade: {first: {tier: haiku}, then: {tier: opus}}}
              fallbacks: [{tier: sonnet}, {model: claude-opus-4-8}]
              max_tokens: {cap: 2000, set: 2000}
              system: {text: "Give {n} points.", captures: {n: "{number} points"}}
              json_output: {schema: {type: object}}
          - {name: b, when: {stream: true}, then: {}, final: true}
          - name: c
            then: {route: {classify: {simple: {tier: haiku}}}, on_exhausted: {tier: haiku}}
            final: true
        """
    ) == ([], [])


@pytest.mark.parametrize(
    ("route", "sentence"),
    [
        (
            "{}",
            "`route` is one of tier, model, heuristic, classify and cascade, of which there is none here.",
        ),
        (
            "{tier: haiku, model: claude-haiku-5-5}",
            "`route` is one of tier, model, heuristic, classify and cascade, not tier and model.",
        ),
        ("{heuristic: false}", "`route` is one of tier, model, heuristic, classify and cascade, of which"),
        ("{tier: haiku, upwards: true}", "`upwards` goes with `heuristic: true` only."),
        ("{model: claude-opus-5-6}", "No model is named “claude-opus-5-6”. Did you mean claude-opus-5-5?"),
        ("{model: gpt}", "No model is named “gpt”. There is claude-fable-5-2, claude-haiku-5-5"),
        ("{model: claude-3-haiku-20240307}", "claude-3-haiku-20240307 is retired"),
        ("{model: claude-mythos-preview}", "It is not known what claude-mythos-preview takes"),
        ("{classify: {timeout_ms: 500}}", "`classify` says where calls go"),
        ("{classify: {by: {}, edge: {tier: opus}}}", "Name either a `tier` or a `model`."),
        ("{classify: {simple: {tier: opus, model: claude-opus-5}}}", "Name either a `tier` or a `model`."),
        (
            "{cascade: {first: {tier: haiku}, then: {model: claude-haiku-5-5}}}",
            "The cascade asks claude-haiku-5-5 twice",
        ),
        (
            "{cascade: {first: {tier: haiku}, then: {tier: opus}, confidence: {at_least: 101}}}",
            "`at_least` is at most 100.",
        ),
        (
            "{cascade: {first: {tier: opus}, then: {tier: haiku}}}",
            "claude-haiku-5-5 is no dearer than claude-opus-5-5",
        ),
    ],
)
def test_a_route_that_cannot_be_is_refused(route: str, sentence: str) -> None:
    assert then(f"route: {route}  # here").startswith(sentence)


def test_fallbacks_that_go_in_a_circle_are_refused() -> None:
    assert then(
        "route: {tier: haiku}\nfallbacks:\n  - {tier: opus}\n  - {model: claude-haiku-5-5}  # here"
    ) == ("claude-haiku-5-5 is what the rule routes to; a fallback is another model.")
    assert then("fallbacks:\n  - {tier: opus}\n  - {tier: sonnet}\n  - {model: claude-opus-5-5}  # here") == (
        "claude-opus-5-5 is in the chain twice; each model is tried once."
    )
    assert then("fallbacks:\n  - {model: claude-haiku-4-5}\n  - {model: claude-haiku-4-5-20251001}  # here")


def test_a_model_for_exhausted_budgets_is_cheaper() -> None:
    assert then("route: {tier: haiku}\non_exhausted: {tier: opus}  # here").startswith(
        "claude-opus-5-5 is no cheaper than claude-haiku-5-5"
    )


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ("max_tokens: {}", "`max_tokens` needs `cap` or `set`."),
        ("max_tokens: {cap: 128001}", "No model writes more than 128,000 tokens, so this caps nothing."),
        ("max_tokens: {set: 128001}", "No model writes more than 128,000 tokens."),
        ("max_tokens: {cap: 10, set: 11}", "`set` is more than the cap of 10 in the same rule."),
        ("history: {above_messages: 10, keep_messages: 10}", "`keep_messages` is less than `above_messages`"),
        ("json_output: {schema: {type: array}}", "The schema is that of an object"),
        (
            "json_output: {schema: {type: object, properties: 5}}",
            "This is no JSON Schema: properties: 5 is not of type 'object'.",
        ),
        ("json_output: {schema: {type: object, properties: {a: {type: strin}}}}", "This is no JSON Schema"),
        ("json_output: {schema: {type: object, required: yes please}}", "This is no JSON Schema: required"),
        ('stop_sequences: ["  "]', "A stop sequence is more than white space."),
        ("{}", "This rule does nothing"),
        ("{deny: No., cache: {ttl_seconds: 5}}", "A call that is denied has no cache"),
        ("{deny: No., answer: {text: Hi}}", "A call that is denied has no answer"),
        ("{answer: {text: Hi}, route: {tier: haiku}}", "A call with a template answer goes nowhere: route"),
        ('system: {text: "{n}", captures: {n: points}}', "“points” has {number} or {word} in it once"),
        ('system: {text: "{n}", captures: {n: "{number} or {word}"}}', "“{number} or {word}” has"),
        ('system: {text: "{n}", captures: {n: "{number} {unit}"}}', "“{number} {unit}” has"),
        ('system: {text: "x", captures: {n: "{number} points"}}', "The text does not use {n}."),
        ('system: {text: "{n} {m}", captures: {n: "{number} points"}}', "{m} is not among `captures`"),
        ('system: {text: "{n}", captures: {n: "{number} x", "a b": "{word} x"}}', "“a b” is no name"),
    ],
)
def test_an_action_that_cannot_be_is_refused(action: str, sentence: str) -> None:
    source = f"then: {action}  # here" if action.startswith("{") else f"then:\n  {action}  # here"
    assert problem(source).startswith(sentence)


def test_a_set_above_the_chosen_models_output_is_refused() -> None:
    said = then("route: {model: claude-haiku-4-5}\nmax_tokens: {set: 64001}  # here")
    assert said == "claude-haiku-4-5-20251001 does not write more than 64,000 tokens."


@pytest.mark.parametrize(
    ("when", "sentence"),
    [
        ("words: {}", "`words` needs `at_least` or `at_most`."),
        ("budget_used: {at_least: 90, at_most: 80}", "No number is at least 90 and at most 80."),
        ("tags: {endpoint: []}", "“endpoint” has no value, so no call matches"),
        ("keywords: {}", "`keywords` needs words under `any` or `all`."),
        ('keywords: {any: ["++"]}', "“++” has neither letters nor digits"),
        ("time: {zone: Europe/Bonn}", "There is no time zone “Europe/Bonn”"),
        ("time: {zone: ../../etc/passwd}", "There is no time zone “../../etc/passwd”"),
        ("time: {from: 10:00, to: 10:00}", "From 10:00 to 10:00 is no time at all"),
        ("models: [claude-opus-55]", "No model is named “claude-opus-55”. Did you mean claude-opus-5-5?"),
        ("keys: [exq_1]", "No key has the public id “exq_1”."),
        ("teams: [reserch]", "No team has the slug or id “reserch”."),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when: str, sentence: str) -> None:
    assert problem(f"when: {{{when}}}  # here\nthen: {{concise: true}}").startswith(sentence)
    assert problem(f"unless: {{{when}}}  # here\nthen: {{concise: true}}").startswith(sentence)


def test_keywords_of_which_many_end_alike_are_refused() -> None:
    """A message full of them would have as many finds at each of its words."""
    texts = ["rate", "of rate", "tax of rate", "the tax of rate", "with the tax of rate"]
    first, others = texts[:1], ", ".join(f'"{text}"' for text in texts[1:])
    rules = (
        f"rules:\n- {{name: a, when: {{keywords: {{all: {first}}}}}, then: {{concise: true}}}}\n"
        f"- name: b\n  unless: {{keywords: {{any: [{others}, crate]}}}}\n  then: {{concise: true}}\n"
    )
    assert checked(rules)[0] == []
    problems, _ = checked(f'{rules}- {{name: c, when: {{keywords: {{any: ["now WITH the tax of rate"]}}}}, '
                          "then: {concise: true}}\n")  # fmt: skip
    assert [(line, sentence[:63]) for line, sentence in problems] == [
        (6, "“now WITH the tax of rate” ends in more than 4 other keywords o")
    ]
    unspaced = ", ".join("天" * size for size in range(2, 8))
    assert len(checked(rules.replace("crate", unspaced))[0]) == 1


def test_a_rule_that_excepts_itself_is_refused() -> None:
    assert problem("unless: {}  # here\nthen: {concise: true}").startswith(
        "An empty `unless:` matches every call"
    )
    same = "when: {stream: true}\nunless: {stream: true}  # here\nthen: {concise: true}"
    assert problem(same) == "`unless:` takes away all that `when:` matches."


def test_two_rules_of_one_name_and_rules_that_are_never_reached_are_refused() -> None:
    problems, _ = checked(
        "rules:\n"
        "  - {name: a, then: {concise: true}, final: true, shadow: true}\n"
        "  - {name: b, then: {concise: true}, final: true}\n"
        "  - {name: c, then: {concise: true}}\n"
        "  - {name: b, then: {concise: true}}\n"
    )
    assert [(line, sentence[:30]) for line, sentence in problems] == [
        (4, "This rule is never reached: “b"),
        (5, "Another rule is named “b” too;"),
        (5, "This rule is never reached: “b"),
    ]


@pytest.mark.parametrize(
    "text", ['"a\\0b"', '"a\\ud800b"', '"a\\r\\nexchequer-call-id: x"', '"a\\x1bb"', '"a\\u0085b"']
)
def test_texts_that_no_row_and_no_header_can_hold_are_refused(text: str) -> None:
    assert "control character" in problem(f"then: {{deny: {text}}} # here")
    assert "control character" in problem(f"when: {{tags: {{a: {text}}}}} # here\nthen: {{concise: true}}")
    problems, _ = checked(f"rules:\n  - name: {text}\n    then: {{concise: true}}\n")
    assert [line for line, _ in problems] == [2]


def test_texts_may_have_several_lines_but_names_not() -> None:
    assert checked('rules:\n  - name: a\n    then: {system: {text: "a\\n\\tb"}}\n') == ([], [])
    problems, _ = checked('rules:\n  - name: "a\\nb"\n    then: {concise: true}\n')
    assert [line for line, _ in problems] == [2]


def test_what_will_go_wrong_is_warned_of_and_can_be_published() -> None:
    problems, warnings = checked(
        "tiers: {sonnet: claude-sonnet-4-5}\n"
        "rules:\n"
        "  - name: a\n"
        "    when: {keywords: {any: [c++]}}\n"
        "    then: {system: {text: 'Use {name}.'}, fallbacks: [{model: claude-sonnet-4-5}]}\n"
        "    unless: {has: [tools, thinking]}\n"
    )
    assert problems == []
    assert warnings == [
        (1, "claude-sonnet-4-5-20250929 retires on 2026-11-30. Choose another one before."),
        (4, "Letters and digits count only: “c++” is looked for as “c”."),
        (5, "claude-sonnet-4-5-20250929 retires on 2026-11-30. Choose another one before."),
        (5, "{name} is not among `captures`, so it stays in the text as it is."),
        (
            6,
            "`has` under `unless:` takes away only calls that have all of these; `has_any` takes away those "
            "that have one.",
        ),
    ]


def warned(rest: str) -> list[str]:
    problems, warnings = checked(f"rules: [{{name: a, {rest}}}]")
    assert problems == []
    return [sentence for _, sentence in warnings]


@pytest.mark.parametrize(
    ("rest", "model"),
    [
        ("then: {max_tokens: {cap: 1023}}", "claude-"),
        ("then: {max_tokens: {set: 1}}", "claude-"),
        ("when: {tiers: [opus]}, then: {max_tokens: {cap: 1}}", "claude-opus-5"),
        ("then: {route: {tier: haiku}, max_tokens: {cap: 600}}", "claude-haiku-5-5"),
        ("when: {models: [claude-sonnet-5-5]}, then: {max_tokens: {cap: 600}}", "claude-sonnet-5-5"),
    ],
)
def test_fewer_tokens_than_a_model_may_think_unasked_are_warned_of(rest: str, model: str) -> None:
    (sentence,) = warned(rest)
    assert sentence.startswith(model)
    assert "thinks unasked" in sentence


@pytest.mark.parametrize(
    "rest",
    [
        "then: {max_tokens: {cap: 1024}}",
        "then: {route: {model: claude-haiku-4-5}, max_tokens: {cap: 600}}",
        "when: {models: [claude-haiku-4-5, claude-opus-4-8]}, then: {max_tokens: {cap: 600}}",
        "then: {route: {classify: {by: {tier: sonnet}, simple: {tier: haiku}}}}",
        "then: {route: {cascade: {first: {tier: opus}, then: {tier: fable}}}}",
    ],
)
def test_models_that_think_only_when_told_to_or_can_be_told_not_to_are_not_warned_of(rest: str) -> None:
    assert warned(rest) == []


@pytest.mark.parametrize(
    "route",
    [
        "classify: {by: {tier: opus}, simple: {tier: haiku}}",
        "cascade: {first: {tier: opus}, then: {tier: fable}, confidence: {at_least: 80}}",
    ],
)
def test_a_word_from_a_model_that_always_thinks_is_warned_of(route: str) -> None:
    (sentence,) = warned(f"then: {{route: {{{route}}}}}")
    assert sentence.startswith("claude-opus-5-5 always thinks")


@pytest.mark.parametrize(
    ("earlier", "later", "why"),
    [
        ("then: {concise: true}", "when: {stream: true}, then: {concise: false}", "Its `concise` never"),
        (
            "when: {tiers: [opus, sonnet], words: {at_most: 80}}, then: {route: {heuristic: true}}",
            "when: {tiers: [opus], words: {at_most: 80}, turn: first}, then: {route: {tier: haiku}}",
            "Its `route` never counts",
        ),
        (
            "when: {tags: {a: b}, has: [tools]}, then: {answer: {text: No}}",
            "when: {tags: {a: b, c: d}, has: [tools, images]}, then: {cache: {ttl_seconds: 5}}",
            "Its `cache` never counts",
        ),
        ("when: {turn: first}, then: {deny: No.}", "when: {turn: first}, then: {concise: true}", "Its calls"),
        ("when: {turn: first}, then: {}, final: true", "when: {turn: first}, then: {deny: No.}", "This rule"),
        ("then: {max_tokens: {set: 5000}}", "then: {max_tokens: {set: 6000}}", "Its `max_tokens.set` never"),
        (
            "unless: {has: [tools]}, then: {concise: true}",
            "when: {stream: true}, unless: {has: [tools]}, then: {concise: true}",
            "Its `concise` never counts",
        ),
    ],
)  # fmt: skip
def test_an_action_that_an_earlier_rule_always_takes_is_warned_of(earlier: str, later: str, why: str) -> None:
    problems, warnings = checked(f"rules:\n  - {{name: a, {earlier}}}\n  - {{name: b, {later}}}\n")
    assert problems == []
    ((line, sentence),) = warnings
    assert (line, sentence[: len(why)]) == (3, why)
    assert sentence.endswith(": “a” stands before and matches whatever this rule matches.")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("then: {concise: true}, shadow: true", "then: {concise: false}"),
        ("then: {concise: true}", "then: {concise: false}, shadow: true"),
        ("when: {tiers: [opus]}, then: {concise: true}", "then: {concise: false}"),
        (
            "when: {tiers: [opus]}, then: {concise: true}",
            "when: {tiers: [haiku, opus]}, then: {concise: false}",
        ),
        (
            "when: {has: [tools, images]}, then: {concise: true}",
            "when: {has: [tools]}, then: {concise: false}",
        ),
        (
            "when: {words: {at_most: 80}}, then: {concise: true}",
            "when: {words: {at_least: 5}}, then: {concise: false}",
        ),
        ("unless: {stream: true}, then: {concise: true}", "then: {concise: false}"),
        ("then: {concise: true}", "then: {cache: {ttl_seconds: 5}}"),
        ("then: {max_tokens: {cap: 5000}}", "then: {max_tokens: {cap: 6000}}"),
        ("then: {concise: true}", "then: {deny: No.}, when: {stream: true}"),
        ("then: {system: {text: '{n}', captures: {n: '{number} points'}}}", "then: {system: {text: More.}}"),
    ],
)  # fmt: skip
def test_an_action_that_may_count_is_not_warned_of(earlier: str, later: str) -> None:
    assert checked(f"rules:\n  - {{name: a, {earlier}}}\n  - {{name: b, {later}}}\n") == ([], [])


def test_a_model_that_is_retired_by_then_is_a_problem() -> None:
    later = Known(date(2026, 11, 30), models=KNOWN.models)
    found = check_draft("rules: [{name: a, then: {route: {model: claude-sonnet-4-5}}}]", later)
    assert [problem.sentence for problem in found.problems] == [
        "claude-sonnet-4-5-20250929 is retired: Claude answers it with 404. Choose another one."
    ]


def test_ten_rules_that_cannot_be_meant_give_ten_sentences() -> None:
    rules = "".join(
        f"  - {{name: r{number}, then: {{route: {{model: claude-x}}}}}}\n" for number in range(10)
    )
    problems, _ = checked("rules:\n" + rules)
    assert [line for line, _ in problems] == list(range(2, 12))


def test_nothing_is_checked_against_what_is_not_known() -> None:
    rule: Any = "rules: [{name: a, when: {keys: [x]}, then: {route: {model: claude-next}}}]"
    assert check_draft(rule).problems == ()
