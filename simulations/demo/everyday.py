"""Neutral service conversations about money, health, shopping and parcels, for the public text.

Any public text has met these subjects, so the base model may know them.  It must not know how
the four organizations of the demonstration talk: none of their stock phrases occurs here.
"""

from __future__ import annotations

from simulations.demo.grammar import Intent

GREETING = "(Hello,|Good day,|Good morning,|Good evening,|Hi,|Hi, my name is {name}.|I am {name}.||||)"
OPENING = (
    "(Hello.|Hello {name}.|Thanks for writing.|Of course.|Sorry to hear that.|Thanks, {name}.|"
    "We can help with that.|Good to hear from you.|Yes.|Hi, and thanks for asking.||||||||)"
)
CLOSING = (
    "(Please let us know if you need more help.|We are happy to help.|Have a nice day.|"
    "The desk is open until {time9}.|You can call us on {day9}.|Ask for {name9} if you have more questions.|"
    "That is all we need.|See you on {day9}.|The answer takes {number9} hours.|All the best.||||||||||)"
)

MONEY: tuple[Intent, ...] = (
    Intent(
        (
            "(I have lost|I lost|I cannot find) my {card} (since {day}|{spot}|). What (can|should) I do (now|)?",
            "my {card} (was|is) (lost|gone|stolen) {spot} (on {day}|). (What now?|Can you stop it?|)",
            "someone (took|stole) my {card} {spot}. Can I (stop|block|cancel) it (today|now|)?",
        ),
        (
            "We have stopped the {card}, so nobody can use it. A new one (comes|will come) on {day2}.",
            "The lost {card} is blocked now. (You will get|We will send) a new {card} by {day2}.",
            "If you lost the {card} {spot}, ask there first. We can block it at any time.",
        ),
    ),
    Intent(
        (
            "(there is|I can see|I found) a payment of {sum} to {seller} that (is not mine|I did not make).",
            "I do not know a payment of {sum} (to|at) {seller} (from {day}|). (Why is it there?|)",
            "{seller} took {sum} (on {day}|) and I never agreed. (What now?|Can you check it?)",
        ),
        (
            "We will check the payment of {sum} to {seller} and (call|write to) you on {day2}.",
            "The payment of {sum} came from {seller}. You get the money back if it was a mistake.",
            "Please send us the date. The {sum} will be back by {day2} (if it was wrong|).",
        ),
    ),
    Intent(
        (
            "(I sent|I paid) {sum} to {payee} (on {day}|), but it is not there (yet|).",
            "where is my transfer of {sum} to {payee}? (It is late.|)",
            "{payee} did not get the {sum} that I sent (on {day}|). (Is it missing?|)",
        ),
        (
            "The transfer of {sum} is on its way and should be there on {day2}.",
            "We sent the {sum} to {payee} today. (It takes {number} days.|)",
            "The transfer to {payee} is (late|pending), but (nothing is|it is not) missing.",
        ),
    ),
    Intent(
        (
            "(can|may|could) I open a {account} (with you|on {day}|for {payee}|)?",
            "what do I need (for|to open) a {account}?",
            "I (want|would like) a new {account}. (How does it work?|How long does it take?|)",
        ),
        (
            "You can open a {account} at the desk. Bring proof of your (name|address|identity).",
            "A {account} needs (a form and a photo|a signed form). It takes {number} minutes.",
            "Yes, a {account} is free. Come on {day2} at {time}.",
        ),
    ),
    Intent(
        (
            "(I want|I would like) to close my {account} (before {day}|after my move|).",
            "can you close the {account} (of mine|for me|) (and keep the {card}|)?",
        ),
        (
            "We can close the {account} when (it is empty|we have your signed form).",
            "The {account} is closed from {day2}. (The {card} stays as it is.|)",
        ),
    ),
    Intent(
        (
            "what is the fee of {sum} on my {account} for?",
            "(you took|I paid) a fee of {sum} (on {day}|on my {account}). (Why is that?|Is that right?)",
        ),
        (
            "The fee of {sum} is for the {card}. It is paid once a year.",
            "A fee of {sum} is taken from each {account}. We can show you the list of charges.",
        ),
    ),
    Intent(
        (
            "(can|could) you (raise|increase) the limit (on|of) my {card} (to {sum}|before {day}|)?",
            "I need a higher limit on the {card} (for a trip|by {day}|).",
        ),
        (
            "The limit on the {card} is now {sum2}. It starts on {day2}.",
            "We can increase the limit of a {card} after {number} days.",
        ),
    ),
    Intent(
        (
            "can I have a loan for {purpose}? (I need {sum}.|)",
            "I want to borrow {sum} for {purpose}. What is the rate?",
        ),
        (
            "A loan for {purpose} is possible. The rate is {number} percent.",
            "You can borrow {sum2} for {purpose} if you have a {account}.",
        ),
    ),
    Intent(
        (
            "I cannot (log in|use online banking|open the app) (since {day}|{spot}|).",
            "the app (is locked|refused my password) (on {day}|{spot}|).",
        ),
        (
            "Your password is too old. You can set a new password (in the app|online).",
            "The app works again from {time}. (Please try to log in then.|)",
        ),
    ),
    Intent(
        (
            "I have a new address (from {day}|). (Can you change it on my {account}?|)",
            "I (moved|am moving) (on {day}|). Please change the address of my {account}.",
        ),
        (
            "We have changed the address of the {account} (from {day}|).",
            "Please send proof of the new address. Then the {account} is updated.",
        ),
    ),
    Intent(
        (
            "I need a statement of my {account} (for {purpose}|by {day}|).",
            "can you send (me|) a copy of the statements of the {account}?",
        ),
        (
            "The statements of the {account} are in the app. A copy comes by mail on {day2}.",
            "We will send the statement by mail, {name}.",
        ),
    ),
    Intent(
        (
            "the cash machine {spot} (kept|took) my {card} (on {day}|).",
            "I got less than {sum} from the machine {spot}.",
        ),
        (
            "We will open the machine {spot} on {day2} and look for the {card}.",
            "The machine {spot} is checked on {day2}. You get {sum2} back.",
        ),
    ),
)

HEALTH: tuple[Intent, ...] = (
    Intent(
        (
            "I have (a|a bad) {pain} (since {day}|for {number} days|today). (Can someone see me?|What can I do?|)",
            "my {pain} is (bad|worse) (since {day}|at night|today). (Can I see {carer}?|)",
        ),
        (
            "{carer} can look at the {pain} on {day2} at {time}.",
            "A {pain} often gets better in {number} days. Drink water and rest.",
            "For a {pain} you can take {drug}. Call again if it is worse on {day2}.",
        ),
    ),
    Intent(
        (
            "my {kin} has (a|a bad) {pain} (since {day}|and cannot eat|). (Can {carer} help?|)",
            "can {carer} see my {kin}? It is a {pain} (and a fever|).",
        ),
        (
            "Please bring your {kin} on {day2} at {time}.",
            "{carer} has time for your {kin} at {time}. Your {kin} should stay warm and rest.",
        ),
    ),
    Intent(
        (
            "can my visit (to {carer}|) be moved (from {day}|) to {day2}?",
            "I am not free on {day}. Can I come to {carer} on {day2}?",
        ),
        (
            "Your visit is on {day2} at {time} now.",
            "{carer} is free on {day2} at {time}. We have moved your visit.",
        ),
    ),
    Intent(
        (
            "do you have the result of (my|the) {exam} (from {day}|)? (I am worried.|)",
            "when do I get the result of the {exam}?",
        ),
        (
            "The result of the {exam} will be here on {day2}.",
            "{carer} will call you about the {exam}. Waiting takes {number} days.",
        ),
    ),
    Intent(
        (
            "does (the|a) {exam} hurt? (I am afraid of it.|My {kin} is scared.|)",
            "I am (nervous|scared) about my {exam} (on {day}|).",
        ),
        (
            "The {exam} does not hurt and takes {number} minutes.",
            "Many people feel nervous about a {exam}. {carer} will be there.",
        ),
    ),
    Intent(
        (
            "I have no {drug} left. (Can I get more by {day}|Can I have more)?",
            "we need (new|more) {drug} for my {kin} (by {day}|).",
        ),
        (
            "The {drug} will be ready on {day2} at {time}.",
            "You can collect the {drug} at the desk until {time}.",
        ),
    ),
    Intent(
        (
            "I did not take my {drug} (on {day}|today). (Is that a problem?|)",
            "I feel (dizzy|sick|tired) after the {drug}. (Should I stop?|)",
        ),
        (
            "Take the {drug} again tomorrow and drink some water.",
            "Please stop the {drug} for now. {carer} will call you on {day2}.",
        ),
    ),
    Intent(
        (
            "I (sleep badly|feel low|am anxious) (since {day}|now|). (Can I talk to someone?|)",
            "it is all too much (these days|since {day}|). Can {carer} help?",
        ),
        (
            "You can talk to {carer} on {day2} at {time}.",
            "Many people feel like this. A short walk and some sleep can help.",
        ),
    ),
    Intent(
        (
            "can I bring my {kin} to the {exam} (on {day}|)?",
            "my {kin} wants to come along to {carer}. Is that fine?",
        ),
        (
            "Yes, your {kin} can come to the {exam} with you.",
            "Your {kin} may wait in the hall. The {exam} starts at {time}.",
        ),
    ),
    Intent(
        (
            "what do I need for the {exam} (on {day}|)?",
            "can I eat (something|) before my {exam}?",
        ),
        (
            "Bring your card and a list of your {drug} to the {exam}.",
            "You should not eat before the {exam}. Water is fine.",
        ),
    ),
    Intent(
        (
            "(I am|we are) new in town. Can my {kin} (see|register with) {carer}?",
            "do you take new patients? It is for my {kin} (and me|).",
        ),
        (
            "Yes, {carer} takes new patients. You can register your {kin} on {day2}.",
            "Your {kin} can be a patient here. Please fill in the form.",
        ),
    ),
    Intent(
        (
            "I have a cut on my {limb} and it is (red|sore) (since {day}|).",
            "my {limb} is swollen (since {day}|). I fell (on it|at home|).",
        ),
        (
            "Keep the {limb} clean and still. {carer} can look at it at {time}.",
            "Put something cold on the {limb} and rest until {day2}.",
        ),
    ),
)
