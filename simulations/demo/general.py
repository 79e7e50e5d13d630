"""Templates for the public, generic English on which the base model is trained.

Conversations come from trades that none of the four organizations is in, in a neutral
tone.  Narratives, some of them mere play with words, happen away from any service counter.
"""

from __future__ import annotations

import itertools
import random
import re

_PHRASE = re.compile(r"<([a-z]+)>")
_SLOT = re.compile(r"{([a-z_]+)}")

TRADE_ANSWERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "(when|at what time) does the {venue} open on {day}?",
        (
            "The {venue} opens at {time} on {day} (and closes at {time2}|).",
            "On {day} the {venue} is open from {time} to {time2}.",
        ),
    ),
    (
        "is the {room} (of the {venue}|) open on {day}?",
        (
            "Yes, the {room} is open on {day} from {time} to {time2}.",
            "No, the {room} is closed on {day}. It opens again on {day2} at {time}.",
        ),
    ),
    (
        "(how much is|what is the price of) a {goods} at the {venue}?",
        (
            "A {goods} costs {price} (on {day}|in the {room}|). Children pay {price2}.",
            "The price of a {goods} is {price} (this week|in the {room}|).",
        ),
    ),
    (
        "I (would like|want) to book a {activity} for {group} on {day}.",
        (
            "The {activity} for {group} is on {day} at {time}. The booking is {booking}.",
            "We have a {activity} for {group} on {day} at {time}. It costs {price}.",
        ),
    ),
    (
        "(can|could|may) I move booking {booking} from {day} to {day2}?",
        (
            "Booking {booking} is now on {day2} at {time}.",
            "There is no room on {day2}. Booking {booking} can be moved to {day3}.",
        ),
    ),
    (
        "please cancel booking {booking} (for the {activity}|on {day}|).",
        (
            "Booking {booking} is cancelled. The {price} will be paid back on {day2}.",
            "Booking {booking} (for the {activity}|) was cancelled at {time}.",
        ),
    ),
    (
        "I left my {piece} in the {room} (of the {venue}|) on {day}.",
        (
            "A {style} {piece} was found in the {room}. It is at the {venue} until {time}.",
            "We did not find a {piece} in the {room}. We will look again on {day2}.",
        ),
    ),
    (
        "the {fixture} in the {room} is {trouble} (since {day}|today|).",
        (
            "The {fixture} in the {room} will be repaired on {day2} at {time}.",
            "A {staff} will look at the {fixture} (in the {room}|) at {time}.",
        ),
    ),
    (
        "the {goods} I got at the {venue} is too (small|large|heavy|old). Can you change it?",
        (
            "Bring the {goods} to the {venue} before {day} and ask for the {staff}.",
            "Another {goods} will be ready in the {room} on {day}.",
        ),
    ),
    (
        "how do I get (from the {place}|) to the {venue}?",
        (
            "Take bus {number} to the {place2} and walk to the {venue}.",
            "The {venue} is next to the {place2}. The walk takes {number} minutes.",
        ),
    ),
    (
        "(may|can) I bring my {guest} to the {activity} on {day}?",
        (
            "Your {guest} can come to the {activity}. The seat costs {price}.",
            "The {activity} on {day} is full, but your {guest} can come on {day2}.",
        ),
    ),
    (
        "do you have a {style} {goods} (for my {guest}|for {group}|)?",
        (
            "Yes, we have {number} {style} ones in the {room}, from {price}.",
            "The {style} {goods} is sold out. The next one comes on {day}.",
        ),
    ),
    (
        "how long does the {activity} (at the {venue}|) take?",
        (
            "The {activity} takes {number} hours. It starts at {time} in the {room}.",
            "It takes about {number} hours, and a {staff} is there until {time}.",
        ),
    ),
    (
        "is there a {fixture} (I can use|for {group}) in the {room}?",
        (
            "Yes, there is a {style} {fixture} in the {room}. It is free until {time}.",
            "There is no {fixture} in the {room}, but the {venue} has one.",
        ),
    ),
    (
        "my name is {name}. Who is my {staff} for the {activity} on {day}?",
        (
            "{name2} will be your {staff} on {day}. The {activity} begins at {time}.",
            "Hello {name}, the {staff} for the {activity} is {name2}.",
        ),
    ),
    (
        "(can I pay|is it possible to pay) for the {activity} by card?",
        ("You can pay for the {activity} by card or in cash at the {room}, until {time}.",),
    ),
    (
        "what do I need to join the {venue} (with my {guest}|)?",
        ("You need a photo and {price}. The form takes {number} minutes to fill in.",),
    ),
    (
        "I want my money back for the {activity} on {day}.",
        (
            "Show the ticket to the {staff} in the {room}. You get {price} back.",
            "We pay back {price} for the {activity} if you ask before {day}.",
        ),
    ),
)

NARRATIVES: tuple[str, ...] = (
    "{name} {verb} the {adj} {thing} (on {day}|at {time}|) (near|behind|at) the {place}.",
    "the {person} {verb} a {thing} and {verb2} it to {name}.",
    "on {day} the {person} (walked|drove|ran) to the {place} with a {adj} {thing}.",
    "{name} and {name2} {verb} {number} {style} {piece} pictures (for|with) the {person}.",
    "there was a {adj} {thing} in the {place}, and the {person} {verb} it.",
    "(in the morning|at night|after {time}) the {place} was {adj} and {adj2}.",
    "{name} told the {person} about the {thing} that was {verb} at the {place}.",
    "the {thing} of the {person} is {adj}, but (his|her|my) {thing2} is {adj2}.",
    "I have had a {adj} {thing} since {day}, and so has my {person}.",
    "you can see the {place} from the {place2}, where {name} has a {adj} {thing}.",
    "the {person} will be at the {place} on {day} at {time} within {number} days.",
    "we will bring the {thing} to your {person} by {day}, if the {place} is {adj}.",
    "(please|do not) leave the {thing} in the {place}, said {name} to the {person}.",
    "a {adj} game was played with {number} friends at the {place} until {time}.",
    "{name} is {adj} because the {thing} has been {verb} by the {person}.",
    "it has a {adj} {thing} on it and would be ready for you and us on {day}.",
    "what should I do with the {thing}, asked {name}, and why is it so {adj}?",
    "their {person} was sorry, for the {thing} was {adj} and not in the {place}.",
    "(dear|poor) {name}, wrote the {person}, I hope that the {place} is {adj} today.",
    "the {adj} {thing} was subject of a talk, and our {person} gave a reason for it.",
    "let the {person} know in writing when the {thing} is {verb}, said {name}.",
    "{name} (could|would|may|should) come with {name2} to look at the {thing}.",
    "{name} wants to {act} the {thing} {how}, and {name2} will {act2} it at {time}.",
    "you {how} {act} a {thing}, but they {act2} and {act3} it before {day}.",
    "Dr {name} and Nurse {name2} {verb} their {adj} {thing} {how}, in {number} days.",
    "they talk of {thing}, {thing2} and {thing3}, of {place} and {place2} {how}.",
    "in the diary: {short_day} {span} {place}, {short_day2} {span2} {thing}, {short_day3} rest.",
    "(North|East|South|West|Central) of the {place} no {thing} is {adj}, (which|that) we {act} {how}.",
    "the {thing} cost {price} more than the {thing2}, and {number} times as {adj} {how}.",
    "(oh|thank you|yes|no), said {name}, our {person} will {act} the {thing} for you {how}.",
    "{name} is going to the {place} by {day}, as soon as the {person} is {adj} and not {adj2}.",
    "I am {adj} and you are {adj2}, or so all of them say when {name} is {doing}.",
    "after {doing}, its {things} are still {adj}, and nothing (about|under|over) these {things2} is {adj2}.",
    "some {things} and many {things2} went through the {place} during such a {adj} {doing}.",
    "{name} {does} {how}, and whenever every {thing} {does2}, both the {person} and I {act}.",
    "the page was about {title}, {title2} and {title3}, with {things} (upon|into|off|up) the {thing}.",
    "we shall {act} or cannot {act2} {number} {things} at home, (well|till {time}|this way|as such), {how}.",
    "the first line says {title} {thing}, the second line says {title2} {things}.",
    "everything {does} {how} for {name}, and something {does2} over the {adj} {things} of our {person}.",
)

PHRASES: dict[str, tuple[str, ...]] = {
    "sentence": (
        "<who> <may> {act} <what> <where>.",
        "<who> <may> be {verb} <where>.",
        "<who> {verb} <what> <where>.",
        "<what> <is> <like> <where>.",
        "<what> <is> {verb} <where>.",
        "<who> <have> <what> <where>.",
        "(where|when|why|how) <is> <what>?",
        "(is|was|will|has|does|did|can) <who> {adj} <where>?",
        "(how|why|when|where|what) (do|can|may|should|could|shall) <who> {act} <where>?",
        "(can|may|could|would|will|do) <who> {act} <what> <where>?",
        "{act} <what> <where>.",
        "{act} <what> and {act} <what>.",
        "{title} {thing} <where>.",
        "there <is> <what> <where>.",
        "<who> <have> been {doing} <where>.",
        "(if|as|when|so|for|but|because) <who> <may> {act}, <what> <is> {adj}.",
        "<what>, <what> and <what>.",
        "{price} <where>, {booking} <where>, {number} {things}.",
    ),
    "who": ("I", "you", "we", "they", "it", "<what>", "{name}", "(the|my|your|a|our) {person}"),
    "may": (
        "will",
        "(would|could|may|can)",
        "(must|should|shall)",
        "(do|did|will|can) not",
        "(want|need|love) to",
        "cannot",
    ),
    "have": ("have", "has", "had", "(need|see|take|keep|get|like|want)"),
    "is": ("is", "was", "are", "will be", "has been", "is not"),
    "like": (
        "{adj}",
        "(so|too|very|quite|not) {adj}",
        "{adj} and {adj}",
        "<what>",
        "(as|such) a {thing}",
        "{how}",
    ),
    "what": (
        "(the|a|my|your|our|this|no|any|every|his|her) {thing}",
        "(the|a|my|your|our|some|his|her) {adj} {thing}",
        "{things}",
        "(the|{number}|your|all|some|more) {things}",
        "{adj} {things}",
        "{thing} {booking}",
        "<what> (of|for|with|from) <what>",
        "{thing}",
        "(it|them|something|one)",
        "(the|a) {thing} {thing}",
    ),
    "where": (
        "",
        "",
        "(in|at|from|on|to|of|near|with|by) <what>",
        "(at|in|from|to|near) the {place}",
        "(on|by|until|before|since|for|till) {day}",
        "at {time}",
        "{how}",
        "within {number} {things}",
        "(to|for|with) (you|us|them|me|{name}|my {person})",
        "<where> <where>",
        "{short_day} {span}",
    ),
}


def loose_sentence(rng: random.Random) -> str:
    """Return a template of free syntax, so that any word may follow many others."""
    text = "<sentence>"
    while (phrase := _PHRASE.search(text)) is not None:
        picked = rng.choice(PHRASES[phrase.group(1)])
        text = text[: phrase.start()] + picked + text[phrase.end() :]
    numbers = itertools.count(1)
    # A number for every slot makes each of them draw its own word.
    return _SLOT.sub(lambda slot: f"{{{slot.group(1)}{next(numbers)}}}", text)
