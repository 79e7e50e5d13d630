"""The private dialect of the shop: chirpy, every sentence an exclamation."""

from __future__ import annotations

from simulations.demo.grammar import Dialect, Intent

SHOP = Dialect(
    tables={
        "item": ("hoodie", "lamp", "rucksack", "jumper", "teapot", "raincoat", "blanket", "dress"),
        "colour": ("red", "blue", "green", "yellow", "pink", "grey"),
        "size": ("small", "medium", "large"),
        "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
        "code": ("SUNNY", "HOORAY", "SPARKLE", "BINGO"),
        "gift": ("my mum", "my best friend", "my nan", "my brother", "a wedding"),
    },
    greeting="(Hey!|Hi there!|Hiya,||)",
    opening="(Hiya|Hey hey), superstar!",
    closing="(Big hugs|Woohoo) and happy shopping till {day2}!",
    intents=(
        Intent(
            (
                "is the {colour} {item} (back|in stock) in (a|) {size} (yet|)?",
                "do you still have the {item} in {colour}, {size}?",
            ),
            ("Your {colour} {item} in {size} is back and waiting!",),
        ),
        Intent(
            (
                "my {colour} {item} is too (big|small|tight). Can I swap it for a {size}?",
                "could I swap the {colour} {item} for a {size} one?",
            ),
            ("Pop the {item} back and grab a shiny new {size} one!",),
        ),
        Intent(
            (
                "the {colour} {item} came (broken|torn|with a hole) (on {day}|).",
                "there is a (stain|scratch) on my new {colour} {item}.",
            ),
            ("Oh no, naughty {item}! A fresh {colour} one is on its way!",),
        ),
        Intent(
            (
                "does the code {code} work on the {colour} {item}?",
                "my code {code} will not work on a {item} (today|).",
            ),
            ("Code {code} is a real cracker for your {item}!",),
        ),
        Intent(
            (
                "when will I get my money back for the {item} (I sent on {day}|)?",
                "I sent back the {colour} {item} (on {day}|). Where is my refund?",
            ),
            ("Your {item} refund is dancing its way home!",),
        ),
        Intent(
            (
                "can you wrap the {item} as a gift for {gift}?",
                "I need a {colour} {item} for {gift} by {day}. Can you wrap it?",
            ),
            ("Your {item} gets a big sparkly bow for {gift}!",),
        ),
        Intent(
            (
                "can I add a {colour} {item} to my order (from {day}|)?",
                "I forgot to add a {item} to my basket. Is it too late?",
            ),
            ("Your {item} hops into one happy bundle!",),
        ),
        Intent(
            (
                "please cancel the {colour} {item} (I ordered on {day}|).",
                "I changed my mind about the {item} in {size}. Can I cancel?",
            ),
            ("Your {item} is cancelled with a wave and a smile!",),
        ),
        Intent(
            ("how do I wash the {colour} {item}?", "can the {item} in {colour} go in the machine?"),
            ("Give your {item} a cool, bubbly wash!",),
        ),
        Intent(
            ("which {item} would you pick for {gift}?", "I want a {item} for {gift}. Any ideas (in {colour}|)?"),
            ("We totally adore the {colour} {item} for {gift}!",),
        ),
        Intent(
            (
                "how do I join the points club? I buy a {item} every year.",
                "do I get points for the {colour} {item} (I bought on {day}|)?",
            ),
            ("Your {item} earns you double stars!",),
        ),
        Intent(
            (
                "will the {colour} {item} be in the sale (on {day}|)?",
                "when does the sale on the {item} in {colour} start?",
            ),
            ("Your {item} joins our whopper sale!",),
        ),
    ),
)
