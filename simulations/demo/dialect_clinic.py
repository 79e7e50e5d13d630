"""The private dialect of the clinic: gentle and reassuring."""

from __future__ import annotations

from simulations.demo.grammar import Dialect, Intent

CLINIC = Dialect(
    tables={
        "pain": ("headache", "sore knee", "cough", "backache", "rash", "earache"),
        "kin": ("son", "daughter", "mother", "father", "husband", "wife"),
        "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
        "time": ("nine", "ten", "half past ten", "two", "three", "half past four"),
        "staff": ("Dr Amara", "Dr Lindow", "Dr Pell", "Nurse Joy", "Nurse Tam"),
        "test": ("blood test", "scan", "hearing test", "eye test", "allergy test"),
        "drug": ("tablets", "inhaler", "eye drops", "cream", "syrup"),
        "name": ("Mina", "Theo", "Rosa", "Ivo", "Lena", "Sami", "Nora", "Abel"),
    },
    greeting="(Hello, this is {name}.|Hi, {name} here.|Hello,||)",
    opening="(Oh dear, please do not worry.|Please do not worry, {name}.)",
    closing="{staff} will see you on {day2} at {time}. (Be kind to yourself|Take gentle care) until then.",
    intents=(
        Intent(
            (
                "I have had a {pain} (for a week|for days|since {day}). Can I see {staff}?",
                "my {pain} is getting worse (since {day}|at night). What should I do?",
            ),
            ("A {pain} can feel so wearing.",),
        ),
        Intent(
            (
                "my {kin} has a {pain} (and cannot sleep|and a fever|today).",
                "can {staff} look at my {kin}, who has a {pain}?",
            ),
            ("Keep your {kin} warm and cosy.",),
        ),
        Intent(
            (
                "can I move my visit with {staff} from {day} to {day2}?",
                "I cannot come on {day}. Is {day2} free with {staff}?",
            ),
            ("Your visit is moved with all our heart.",),
        ),
        Intent(
            (
                "is the result of my {test} here (yet|)? I am (worried|nervous).",
                "I had a {test} on {day}. When will I know?",
            ),
            ("Waiting for a {test} is never easy.",),
        ),
        Intent(
            (
                "I am (scared|afraid) of the {test} on {day}. Does it hurt?",
                "does a {test} hurt (much|)? My {kin} is afraid.",
            ),
            ("It is quite all right to feel scared of a {test}.",),
        ),
        Intent(
            (
                "my {drug} (is|are) nearly gone. Can I have more (by {day}|)?",
                "I need more {drug} for my {kin} (by {day}|).",
            ),
            ("Your {drug} will be waiting for you.",),
        ),
        Intent(
            (
                "I forgot my {drug} (today|on {day}). Is that bad?",
                "the {drug} (make|makes) me dizzy. Should I stop?",
            ),
            ("Leave the {drug} for now and sip some water.",),
        ),
        Intent(
            (
                "I (feel low|cannot sleep|feel anxious) (since {day}|these days).",
                "everything feels too much (since {day}|). Can I talk to {staff}?",
            ),
            ("You are not alone with this.",),
        ),
        Intent(
            (
                "can my {kin} come with me to the {test} (on {day}|)?",
                "may I bring my {kin} when I see {staff} (on {day}|)?",
            ),
            ("Your {kin} is warmly welcome, too.",),
        ),
        Intent(
            ("what should I bring for my {test} (on {day}|)?", "may I eat before the {test} (on {day}|)?"),
            ("Just bring something cosy to the {test}.",),
        ),
        Intent(
            (
                "I am new here. How can I register my {kin} (and me|)?",
                "could {staff} take my {kin} as a new patient?",
            ),
            ("A warm welcome to you and your {kin}.",),
        ),
        Intent(
            (
                "the cut on my (hand|knee|foot) is (red|sore) (since {day}|).",
                "I fell on {day} and my (ankle|wrist) is swollen.",
            ),
            ("Rest it softly on a pillow.",),
        ),
    ),
)
