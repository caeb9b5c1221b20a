"""The words of a text, and which of them an attack leaves alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\S+")
_POSSESSIVE = re.compile(r"\w['\u2019]s$")
# English function words by kind; whoever changes one of these changes what is said, not how it is put.
_FUNCTION_WORDS = """
a an the this that these those each every either neither both all any some no none such same other another
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
it its itself they them their theirs themselves one ones who whom whose which what whoever whatever whichever
someone somebody something anyone anybody anything everyone everybody everything nobody nothing
about above across after against along amid among around as at before behind below beneath beside besides between
beyond but by despite down during except for from in inside into like near of off on onto out outside over past per
since through throughout to toward towards under underneath until unto up upon via with within without
and or nor so yet if unless because although though while whereas whether than then else once when whenever where
wherever how however why thus hence therefore
am is are was were be been being do does did doing done have has had having can could may might must shall should will
would ought cannot
not never ever only just also too very even still already again almost quite rather more most much many few less least
here there now own
ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn
dont cant wont isnt didnt doesnt wasnt couldnt wouldnt
"""
STOP_WORDS = frozenset(_WORD.findall(_FUNCTION_WORDS))
_CLITICS = ("s", "t", "d", "m", "ll", "re", "ve")


@dataclass(frozen=True)
class Word:
    """A whitespace word of a text. start, end: the characters that an attack may replace: the word without the
    punctuation and a possessive 's at its ends, or the whole of a word that is nothing else; before, after: that."""

    index: int
    start: int
    end: int
    text: str
    before: str = ""
    after: str = ""

    @property
    def replaceable(self) -> bool:
        """Whether it has a letter or digit and is no stop word."""
        return any(map(str.isalnum, self.text)) and not is_stop_word(self.text)


def words_of(text: str) -> list[Word]:
    """The words of a text, in order."""
    found = []
    for index, match in enumerate(_WORD.finditer(text)):
        word = match.group()
        inside = [place for place, char in enumerate(word) if char.isalnum()] or [0, len(word) - 1]
        first, last = inside[0], inside[-1] + 1
        if last - first > 2 and _POSSESSIVE.search(word[first:last]):
            last -= 2
        start = match.start()
        found.append(Word(index, start + first, start + last, word[first:last], word[:first], word[last:]))
    return found


def rewritten(text: str, words: Sequence[Word], changes: Mapping[int, str]) -> str:
    """The text with some words replaced, by index; whitespace and punctuation stay as they are."""
    parts, done = [], 0
    for index in sorted(changes):
        parts += [text[done : words[index].start], changes[index]]
        done = words[index].end
    return "".join([*parts, text[done:]])


def is_stop_word(word: str) -> bool:
    """Whether it is an English function word, in any case, also with a clitic (`it's`, `don't`, `we'll`)."""
    stem, _, clitic = word.lower().replace("\u2019", "'").partition("'")
    return stem in STOP_WORDS and (not clitic or clitic in _CLITICS)


def in_case_of(word: str, substitute: str) -> str:
    """A substitute in lower case takes over the capitals of the word that it stands for."""
    if substitute != substitute.lower():
        return substitute
    if len(word) > 1 and word.isupper():
        return substitute.upper()
    return substitute[0].upper() + substitute[1:] if word[0].isupper() else substitute
