"""The built-in keyword lists: a rough, cheap hint at what a message asks for.

A score is the number of different words of a list that occur in the message. Only its start and its
end are looked at: that is where people say what they want.
"""

HEAD_BYTES = 160
TAIL_BYTES = 96

_LISTS = {
    "code": """
        api bug bugs class code compile debug def deploy error exception failing function git implement import
        javascript lint method module python refactor regex repo repository rust script sql stack stacktrace
        test tests traceback typescript unittest variable""",
    "math": """
        calculate derivative equation integral matrix percent percentage probability proof prove solve sum
        theorem total""",
    "extract": """
        csv extract extraction field fields fill find identify json list parse schema table values""",
    "translate": """
        chinese dutch english french german italian japanese korean language portuguese russian spanish
        translate translated translation""",
    "classify": """
        category categories choose classification classify decide intent label labels one rate sentiment spam
        tag which""",
    "summarise": """
        brief bullet bullets headline key main points recap shorten summarise summarize summary tldr""",
    "create": """
        article blog caption compose creative draft email essay lyrics name novel poem post slogan story
        tagline tone write""",
    "reason": """
        analyse analyze argue assess compare consider evaluate explain plan reason recommend strategy think
        tradeoffs why""",
}
_LISTS_OF: dict[bytes, list[str]] = {}
for _name, _words in _LISTS.items():
    for _word in _words.encode().split():
        _LISTS_OF.setdefault(_word, []).append(_name)
_WORDS = frozenset(_LISTS_OF)

_LETTERS = bytes(ord(chr(code).lower()) if chr(code).isalpha() and code < 128 else 32 for code in range(256))


def keyword_scores(text: bytes) -> dict[str, int]:
    """{"code": 3, …} for the lists with any hit. `text` is UTF-8, plain or as a JSON string."""
    if len(text) > HEAD_BYTES + TAIL_BYTES:
        text = text[:HEAD_BYTES] + b" " + text[-TAIL_BYTES:]
    words = text.replace(b"\\n", b" ").translate(_LETTERS).split()
    scores: dict[str, int] = {}
    for word in _WORDS.intersection(words):
        for name in _LISTS_OF[word]:
            scores[name] = scores.get(name, 0) + 1
    return scores
