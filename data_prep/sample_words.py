"""The words of the sample benchmark: everyday nouns, verbs and names, and a second set for the shifted part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Words of one field of life, for the similarity task: who, did what, to what, where."""

    agents: tuple[str, ...]
    verbs: tuple[tuple[str, str], ...]  # (base, past)
    objects: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Words:
    """One domain's words; about half of the shifted ones are those of home."""

    kinds: dict[str, tuple[str, ...]]  # general noun -> singular nouns of that kind
    topics: tuple[Topic, ...]
    verbs: tuple[tuple[str, str, str], ...]  # (base, present third person, past)
    places: tuple[str, ...]
    adjectives: tuple[str, ...]
    reviewed: tuple[str, ...]  # what reviews are about
    good: tuple[str, ...]
    bad: tuple[str, ...]
    people: tuple[str, ...]
    cities: tuple[str, ...]
    jobs: tuple[str, ...]
    foods: tuple[str, ...]
    colours: tuple[str, ...]


HOME = Words(
    kinds={
        "animal": ("dog", "cat", "horse", "cow", "bird", "rabbit"),
        "person": ("doctor", "teacher", "farmer", "singer", "lawyer", "baker"),
    },
    topics=(
        Topic(
            ("cook", "chef", "waiter"),
            (("fry", "fried"), ("taste", "tasted"), ("cut", "cut"), ("bake", "baked")),
            ("soup", "fish", "cake", "bread"),
            ("in the kitchen", "at the stove", "for dinner"),
        ),
        Topic(
            ("player", "coach", "runner"),
            (("kick", "kicked"), ("throw", "threw"), ("catch", "caught"), ("drop", "dropped")),
            ("ball", "stick", "bat", "ring"),
            ("on the field", "in the match", "after the goal"),
        ),
        Topic(
            ("singer", "drummer", "pianist"),
            (("play", "played"), ("practise", "practised"), ("record", "recorded"), ("hum", "hummed")),
            ("song", "tune", "chorus", "march"),
            ("on the stage", "at the concert", "in the choir"),
        ),
    ),
    verbs=(
        ("help", "helps", "helped"),
        ("follow", "follows", "followed"),
        ("watch", "watches", "watched"),
        ("push", "pushes", "pushed"),
        ("visit", "visits", "visited"),
        ("call", "calls", "called"),
    ),
    places=("in the garden", "near the river", "at the station", "behind the house", "in the kitchen", "on the hill"),
    adjectives=("old", "young", "tall", "happy", "tired", "quiet"),
    reviewed=("film", "movie", "story", "plot", "cast", "ending", "script", "music"),
    good=("great", "good", "wonderful", "charming", "funny", "clever", "lovely", "brilliant", "warm", "superb"),
    bad=("bad", "boring", "awful", "dull", "weak", "silly", "terrible", "poor", "lazy", "stupid"),
    people=("anna", "tom", "maria", "paul", "lisa", "peter", "emma", "jack", "nora", "david"),
    cities=("paris", "london", "rome", "berlin", "madrid", "vienna", "oslo", "dublin"),
    jobs=("nurse", "pilot", "cook", "painter", "driver", "writer", "judge", "clerk"),
    foods=("rice", "soup", "bread", "cheese", "fish", "cake", "pasta", "honey"),
    colours=("red", "blue", "green", "black", "white", "yellow"),
)
SHIFTED = Words(
    kinds={
        "animal": ("dog", "horse", "cow", "rabbit", "goat", "fox"),
        "person": ("teacher", "lawyer", "baker", "singer", "sailor", "miner"),
    },
    topics=(
        Topic(
            ("cook", "baker", "host"),
            (("fry", "fried"), ("taste", "tasted"), ("boil", "boiled")),
            ("soup", "bread", "pasta", "rice"),
            ("in the kitchen", "for dinner", "at the table"),
        ),
        Topic(
            ("player", "runner", "goalkeeper"),
            (("kick", "kicked"), ("catch", "caught"), ("hit", "hit")),
            ("ball", "bat", "puck", "racket"),
            ("on the field", "in the match", "at the stadium"),
        ),
        Topic(
            ("singer", "pianist", "violinist"),
            (("play", "played"), ("record", "recorded"), ("perform", "performed")),
            ("song", "tune", "opera", "waltz"),
            ("on the stage", "at the concert", "at the festival"),
        ),
    ),
    verbs=(
        ("help", "helps", "helped"),
        ("watch", "watches", "watched"),
        ("visit", "visits", "visited"),
        ("push", "pushes", "pushed"),
        ("thank", "thanks", "thanked"),
        ("greet", "greets", "greeted"),
    ),
    places=("near the river", "at the station", "in the forest", "under the bridge", "at the market"),
    adjectives=("old", "tired", "brave", "strong", "angry"),
    reviewed=("hotel", "room", "food", "staff", "phone", "service", "breakfast", "bed"),
    good=("great", "lovely", "good", "charming", "superb", "clean", "tasty", "friendly"),
    bad=("awful", "poor", "terrible", "bad", "weak", "dirty", "noisy", "rude"),
    people=("anna", "tom", "lisa", "paul", "omar", "ivan", "yuki", "fatima"),
    cities=("london", "vienna", "rome", "cairo", "lima", "tokyo"),
    jobs=("nurse", "pilot", "cook", "sailor", "miner", "guard"),
    foods=("rice", "bread", "cheese", "mango", "curry", "corn"),
    colours=("blue", "green", "pink", "brown", "grey"),
)
