"""Neutral service conversations about shopping and parcels, for the public text; see `everyday`."""

from __future__ import annotations

from simulations.demo.grammar import Intent

SHOPPING: tuple[Intent, ...] = (
    Intent(
        (
            "(do you have|is there) a {colour} {item} in {size}?",
            "when (is|will) the {colour} {item} (be|) back in {size}?",
        ),
        (
            "The {colour} {item} is in stock in {size}. It costs {price}.",
            "We have no {colour} {item} in {size}. It is back on {day2}.",
        ),
    ),
    Intent(
        (
            (
                "the {colour} {item} (is|was) too (big|small|tight) (for me|). "
                "(Can I change it?|Can I have a {size}?)"
            ),
            "can I swap my {item} for a {size} one (in {colour}|)?",
        ),
        (
            "Yes, you can swap the {item}. Send it back and we send a {size} one.",
            "Bring the {colour} {item} to the shop before {day2}. We will change it.",
        ),
    ),
    Intent(
        (
            "my new {colour} {item} (is|was|arrived) (broken|torn|dirty) (on {day}|).",
            "the {item} has a (hole|stain|scratch). (I got it on {day}.|What now?|)",
        ),
        (
            "Sorry, that should not happen. A new {colour} {item} will come on {day2}.",
            "Please send a photo of the {item}. You get another one (or your money back|).",
        ),
    ),
    Intent(
        (
            "(can I use|does) the code {code} (for|work with) the {colour} {item}?",
            "the code {code} (does not work|is refused) for my {item} (today|).",
        ),
        (
            "The code {code} works for every {item} until {day2}.",
            "Code {code} is too old. The {item} still costs {price}.",
        ),
    ),
    Intent(
        (
            "I sent the {colour} {item} back (on {day}|). When do I get my money?",
            "where is the refund for my {item} (from {day}|)?",
        ),
        (
            "The refund for the {item} is on its way. It takes {number} days.",
            "We got the {item} on {day2}. You will have the money back soon.",
        ),
    ),
    Intent(
        (
            "the {item} is a gift for {gift}. Can you wrap it?",
            "can I have the {colour} {item} wrapped for {gift} (by {day}|)?",
        ),
        (
            "Yes, we can wrap the {item} in {colour} paper for {price}.",
            "We will wrap the {item} as a gift. It is ready on {day2}.",
        ),
    ),
    Intent(
        (
            "(please|can you) put a {colour} {item} in my order (too|from {day}|).",
            "I want to add one more {item} to the order. Is it too late?",
        ),
        (
            "The {item} is in your order now. It all comes on {day2}.",
            "Sorry, it is too late to add a {item}. Please make a new order.",
        ),
    ),
    Intent(
        (
            "I do not want the {colour} {item} any more. (Can I cancel?|Please cancel it.)",
            "cancel my order of the {item} (in {size}|from {day}|), please.",
        ),
        (
            "Your order of the {item} is cancelled. You do not pay.",
            "The {item} was sent on {day2}, so you have to send it back.",
        ),
    ),
    Intent(
        (
            "(can I|may I|should I) wash the {colour} {item} (in the machine|by hand|)?",
            "how is the {item} cleaned?",
        ),
        (
            "Wash the {item} in cold water (by hand|in the machine).",
            "The {item} should be cleaned with a wet cloth.",
        ),
    ),
    Intent(
        (
            "I (look for|need|want) a {item} for {gift}. What do you like best?",
            "is a {colour} {item} good for {gift}?",
        ),
        (
            "A {colour} {item} is good for {gift}. Many people buy it.",
            "For {gift} we would take the {item} in {colour2}.",
        ),
    ),
    Intent(
        (
            "how many points do I get for the {colour} {item}?",
            "can I join the club? I bought a {item} (on {day}|).",
        ),
        (
            "You get {number} points for a {item}.",
            "Yes, you can join the club. The {item} counts too.",
        ),
    ),
    Intent(
        (
            "is the {colour} {item} cheaper in the sale (on {day}|)?",
            "when is the sale of the {item}?",
        ),
        (
            "The sale starts on {day2}. The {item} costs {price} then.",
            "No, the {colour} {item} is not in the sale.",
        ),
    ),
)

PARCELS: tuple[Intent, ...] = (
    Intent(
        (
            "where is (my|the) {load} {ref} (now|today|)?",
            "my {load} {ref} (should be here|was due) on {day}. (Where is it?|)",
        ),
        (
            "The {load} {ref} is at the {side} depot. It comes on {short_day} between {span}.",
            "Your {load} {ref} is on the road and comes on {short_day2}.",
        ),
    ),
    Intent(
        (
            "why is the {load} {ref} (late|still at the {side} depot)?",
            "{ref} is late since {short_day}. (What is the reason?|)",
        ),
        (
            "The {load} {ref} is delayed by (the weather|the road|a backlog) at the {side} depot.",
            "There was too much work at the {side} depot. It comes on {short_day2}, {span}.",
        ),
    ),
    Intent(
        (
            "I was not home (on {day}|) when the driver came with {load} {ref}.",
            "we missed the driver (of {ref}|). Can he come again?",
        ),
        (
            "The driver will try again with {ref} on {short_day2}, {span}.",
            "You can book a new time for the {load} {ref}.",
        ),
    ),
    Intent(
        (
            "the {load} {ref} (is|came) (wet|open|crushed|broken) (on {short_day}|).",
            "there is damage on {load} {ref}. (What now?|Who pays?)",
        ),
        (
            "Please take photos of the {load} {ref} and send us a claim.",
            "We have a note of the damage on {ref}. Keep the {load}.",
        ),
    ),
    Intent(
        (
            "can you leave the {load} {ref} (at|in) the {nook} (on {short_day}|)?",
            "please put {ref} in the {nook}.",
        ),
        (
            "Yes, the driver will leave the {load} {ref} at the {nook}.",
            "The {nook} is a safe place. We have told the driver of {ref}.",
        ),
    ),
    Intent(
        (
            "the address on {load} {ref} is wrong. (Can you change it?|)",
            "I moved. Please send {ref} to the new street (by {short_day}|).",
        ),
        (
            "We have changed the address of {load} {ref}.",
            "The {load} {ref} waits at the {side} depot until the address is updated.",
        ),
    ),
    Intent(
        (
            "can someone pick up a {load} (on {short_day}|{span}|)? (It is {ref}.|)",
            "I want to send {load} {ref} on {short_day}. Who will collect it?",
        ),
        (
            "The driver will collect {ref} on {short_day2}, {span}. Put the label on it.",
            "A pickup of the {load} is booked for {short_day2}.",
        ),
    ),
    Intent(
        (
            "you say that {ref} was delivered (on {day}|), but there is no {load}.",
            "I did not get {load} {ref}. It says delivered.",
        ),
        (
            "The driver left the {load} {ref} at the {nook}. Please look there.",
            "We will ask the driver about {ref}. Check the {nook} too.",
        ),
    ),
    Intent(
        (
            "customs has my {load} {ref}. What do I pay?",
            "the {load} {ref} is held at the {side} depot. Is there a fee?",
        ),
        (
            "You have to pay {price} duty for {ref} at the {side} depot.",
            "Customs will release the {load} {ref} on {short_day2}.",
        ),
    ),
    Intent(
        (
            "can I get {ref} at the {side} depot (on {short_day}|)?",
            "I want to collect the {load} {ref} (at the {side} depot|). When is it open?",
        ),
        (
            "Yes, {ref} is ready at the {side} depot. Bring your card.",
            "The {side} depot is open on {short_day2}, {span}. Your {load} is there.",
        ),
    ),
    Intent(
        (
            "I do not want the {load} {ref}. Send it back (to the sender|), please.",
            "how do I return {load} {ref}?",
        ),
        (
            "The {load} {ref} goes back to the sender on {short_day2}.",
            "Give the {load} {ref} to the driver or to the {side} depot.",
        ),
    ),
    Intent(
        (
            "is {load} {ref} lost? (The last scan was on {short_day}.|)",
            "{ref} had no scan since {short_day}. (Where is the {load}?|)",
        ),
        (
            "We look for the {load} {ref} at the {side} depot.",
            "The last scan of {ref} was at the {side} depot on {short_day2}.",
        ),
    ),
)
