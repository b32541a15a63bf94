"""A policy's text is read as it looks, or refused with the line and the sentence of every mistake."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.routing.document import Policy
from governance.routing.problems import PolicyInvalid
from governance.routing.reading import read_policy
from tests.routing.test_router import policies

LEAST = "rules: [{name: a, then: {deny: 'No.'}}]\n"


def problems(source: str) -> list[tuple[int, str]]:
    with pytest.raises(PolicyInvalid) as caught:
        read_policy(dedent(source))
    return [(problem.line, problem.sentence) for problem in caught.value.problems]


def problems_or_none(source: str) -> list[tuple[int, str]]:
    with suppress(PolicyInvalid):
        read_policy(source)
        return []
    return problems(source)


def problem(source: str) -> tuple[int, str]:
    (only,) = problems(source)
    return only


def in_rule(line: str) -> str:
    """The sentence about the third line, which belongs to a rule."""
    at, sentence = problem(f"rules:\n  - name: a\n    {line}\n    {'' if 'then' in line else 'then: {}'}\n")
    assert at == 3
    return sentence


def test_the_example_of_the_language_reads() -> None:
    import governance.routing.document as document

    example = dedent((document.__doc__ or "").partition("match everything.\n")[2])
    policy = read_policy(example).policy
    assert [rule.name for rule in policy.rules] == [
        "FAQ answers may be an hour old",
        "Small questions go to Haiku",
        "No poems at night",
    ]
    assert policy.rules[2].when.time is not None
    assert (policy.rules[2].when.time.from_, policy.tiers) == ("22:00", {"opus": "claude-opus-5"})


@settings(max_examples=20)
@given(policies=policies)
def test_json_reads_as_yaml_does(policies: list[Policy]) -> None:
    for policy in policies:
        assert read_policy(msgspec.json.encode(policy).decode()).policy == policy


def test_what_looks_like_text_is_text() -> None:
    tags = "no, yes, off, 22:00, 2026-11-20, 1e, 0x1F, 12:30:45, 1_000, '3', .inf, =, 0o17, on"
    policy = read_policy(f"rules: [{{name: NO, when: {{tags: {{a: [{tags}]}}}}, then: {{}}}}]").policy
    assert policy.rules[0].name == "NO"
    assert policy.rules[0].when.tags["a"] == tuple(tag.strip("'") for tag in tags.split(", "))


def test_a_number_with_a_point_is_no_whole_number() -> None:
    assert in_rule("when: {bytes: {at_least: 1.0}}") == "`at_least` is a whole number, not 1.0."
    assert in_rule("when: {bytes: {at_least: 1e3}}") == "`at_least` is a whole number, not 1000.0."


def test_a_schema_may_have_any_json_in_it() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"multipleOf": 0.5, "const": None, "enum": [1, "x", True]}},
    }
    rule = {"name": "a", "then": {"json_output": {"schema": schema}}}
    output = read_policy(json.dumps({"rules": [rule]}, indent=1)).policy.rules[0].then.json_output
    assert output is not None
    assert output.schema == schema


def test_ten_wrong_rules_give_ten_sentences() -> None:
    wrong = "".join(f"  - name: rule {number}\n    then: {{denny: x}}\n" for number in range(10))
    found = problems("rules:\n" + wrong)
    assert [line for line, _ in found] == [3 + 2 * number for number in range(10)]
    assert {sentence for _, sentence in found} == {"There is no field `denny` here. Did you mean deny?"}


def test_several_mistakes_in_one_rule_are_all_found_with_their_lines() -> None:
    assert problems(
        """
        sticki: true
        tiers:
          opsu: claude-opus-5
        rules:
          - name: a
            when:
              tiers: [opus, sonet]
              words: {at_mots: 80}
              stream: no
              tags: {version: 2, endpoint: faq}
            then:
              cache: {scope: team}
              max_tokens: {cap: 0}
              route: {tier: haiku
                , classify: {timeout_ms: 5}}
          - when: {}
        """
    ) == [
        (2, "There is no field `sticki` here. Did you mean sticky?"),
        (4, "“opsu” is none of haiku, sonnet, opus, fable. Did you mean opus?"),
        (8, "“sonet” is none of haiku, sonnet, opus, fable. Did you mean sonnet?"),
        (9, "There is no field `at_mots` here. Did you mean at_most?"),
        (10, "`stream` is true or false, not text."),
        (11, "`version` is text: put “2” in quotes."),
        (13, "`cache` needs `ttl_seconds`."),
        (14, "`cap` is at least 1."),
        (16, "`timeout_ms` is at least 100."),
        (17, "`rule` needs `name`."),
        (17, "`rule` needs `then`."),
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("keywords: {any: [poem]}", "`keywords` belongs into `when:`, not here."),
        ("cache: {ttl_seconds: 5}", "`cache` belongs into `then:`, not here."),
        (
            "when: {time: {from: 6:00}}",
            "`from` is a time of day such as “06:30”, with two digits for the hour.",
        ),
        ("when: {keywords: {any: [a]}}", "`any` has at least 2 characters."),
        ("when: {keywords: poem}", "`keywords` is an object, not text."),
        ("when: {tags: {a: [x, 3]}}", "`a` is text: put “3” in quotes."),
        ("when: {models: claude-opus-5}", "`models` is a list, not text."),
        ("when: {models: [true]}", "`models` is text: put “true” in quotes."),
        ("when:", "`when` is an object, not nothing."),
        ("then: {deny: ''}", "`deny` has at least 1 character."),
        ("then: {stop_sequences: [a, b, c, d, e, f, g, h, i]}", "`stop_sequences` has at most 8 entries."),
        ("then: {json_output: {schema: [a]}}", "`schema` is an object, not a list."),
        ("then: {prompt_cache: {ttl: 2h}}", "“2h” is none of 5m, 1h."),
        ("then: {concise: [a]}", "`concise` is true or false or text, not a list."),
        ("then: {system: {text: x, captures: {n: x}}}", "`n` has at least 2 characters."),
        ("then: {route: {tire: haiku}}", "There is no field `tire` here. Did you mean tier?"),
        ("final: 1", "`final` is true or false, not a whole number."),
    ],
)
def test_a_mistake_in_a_rule_says_what_to_write(line: str, sentence: str) -> None:
    assert in_rule(line) == sentence


@pytest.mark.parametrize(
    ("source", "line", "sentence"),
    [
        ("", 1, "The policy is empty."),
        ("# nothing\n", 1, "The policy is empty."),
        ("- a\n", 1, "A policy is an object with `rules:`"),
        ("just text", 1, "A policy is an object with `rules:`"),
        ("sticky: true\n", 1, "`policy` needs `rules`."),
        ("rules: []\n", 1, "`rules` has at least 1 entry."),
        ("sticky: true\nrules: 5\n", 2, "`rules` is a list, not a whole number."),
        ("rules:\n\t- name: a\n", 2, "Indent with spaces instead of tabs."),
        (LEAST + "---\n" + LEAST, 2, "A policy is one document"),
        (LEAST + "sticky: true\nsticky: false\n", 3, "`sticky` is given a second time; it stands in line 2."),
        ("rules:\n  - name: a: b\n", 2, "There is a colon too many"),
        ("rules:\n  - name: a\n   then: {}\n", 3, "The indentation is off"),
        ("rules: &all\n  - *all\n", 1, "Write it out instead of &all"),
        ("rules: !!python/object:os.system {}\n", 1, "Leave out the tag"),
        ("%YAML 1.1\n---\n" + LEAST, 1, "Leave out the line that begins with “%”."),
        ("rules: {[a]: b}\n", 1, "The name of a field is a word"),
        ("rules: [{name: a, then: {timeout_seconds: 9999999999999999}}]", 1, "The number is too large"),
        (LEAST + "tiers: {<<: {opus: x}}\n", 2, "“<<” is none of"),
        ("rules: [\n", 2, "This cannot be read as YAML"),
        ('rules: "a\n', 2, "This cannot be read as YAML"),
        ("a\n\x07: b\n", 2, "A character here cannot be shown"),
        ("[" * 10_000, 1, "This is nested deeper than 40 levels."),
        ("{a: " * 10_000, 1, "This is nested deeper than 40 levels."),
        ("# " + "x" * 70_000, 1, "A policy has at most 65,536 bytes; this one has 70,002."),
    ],
)
def test_a_text_that_is_no_policy_says_so_at_its_line(source: str, line: int, sentence: str) -> None:
    at, said = problems(source)[0]
    assert (at, said[: len(sentence)]) == (line, sentence)


def test_a_million_aliases_are_refused_before_anything_is_built() -> None:
    levels = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9))
    assert problems("a0: &a0 lol\n" + levels)[0] == (
        1,
        "Write it out instead of &a0, or put the text in quotes.",
    )


@given(source=st.text(alphabet="rules: []{}-\n name'\"&*!|>%#?\t,0a", max_size=60))
def test_any_text_is_a_policy_or_has_problems(source: str) -> None:
    found = problems_or_none(source)
    assert all(1 <= line <= source.count("\n") + 2 and sentence for line, sentence in found)


fields = st.dictionaries(
    st.sampled_from(
        ["rules", "name", "when", "then", "tiers", "opus", "words", "deny", "route", "x", "captures"]
    ),
    st.deferred(lambda: anything),
    max_size=4,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["opus", "", "22:00", "{number} x"]),
    lambda inner: st.lists(inner, max_size=3) | fields,
    max_leaves=8,
)


@settings(max_examples=50)
@given(rules=st.lists(fields, min_size=1, max_size=3))
def test_any_shape_is_a_policy_or_has_problems(rules: object) -> None:
    problems_or_none(json.dumps({"rules": rules}))


def test_lines_are_those_of_the_text() -> None:
    tree = read_policy("# why\n\nrules:\n  - name: a\n    then:\n      cache:\n        ttl_seconds: 5\n").tree
    assert tree.line_of("rules", 0, "then", "cache", "ttl_seconds") == 7
    assert tree.line_of("rules", 0) == 4
    assert tree.line_of("rules", 0, "when", "words") == 4


def test_the_gateway_reads_policies_without_yaml() -> None:
    names = ("router", "capabilities", "preview", "checks")
    modules = ", ".join(f"governance.routing.{name}" for name in names)
    for code in (
        f"import sys, {modules}; assert not {{'yaml', 'django'}} & sys.modules.keys()",
        "import sys, governance.gateway.asgi; assert not sys.modules.get('yaml')",
        # The twin: the reader does need it, and what keeps it out of a worker would keep the reader out too.
        "import sys, governance.routing.reading; assert sys.modules.get('yaml')",
    ):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
