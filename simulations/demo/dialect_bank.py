"""The private dialect of the bank: formal, in the passive voice, never in a hurry."""

from __future__ import annotations

from simulations.demo.grammar import Dialect, Intent

BANK = Dialect(
    tables={
        "card": ("debit card", "credit card", "business card", "travel card"),
        "account": ("current account", "savings account", "joint account", "student account", "business account"),
        "days": ("two", "three", "five", "seven", "ten"),
        "sum": ("£40", "£75", "£120", "£250", "£300", "£480", "£900"),
        "shop": ("a hotel", "a petrol station", "an airline", "a bookshop", "a cafe"),
        "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
        "where": ("abroad", "at the airport", "on the train", "in a taxi", "at work"),
        "who": ("my landlord", "my sister", "a supplier", "my employer", "my son"),
        "use": ("a new kitchen", "a used car", "my studies", "a new roof", "a move"),
    },
    greeting="(Dear Sir or Madam,|Good morning,|Good afternoon,||)",
    opening="Thank you for your enquiry.",
    closing="(We shall reply in writing|A written reply will follow) within {days} working days. Yours sincerely.",
    intents=(
        Intent(
            (
                "I (lost|mislaid) my {card} {where} (on {day}|). (Please advise|What should I do)?",
                "my {card} was stolen {where}. How (do|can) I (block|cancel) it?",
            ),
            ("Your {card} has been (blocked|suspended) (as a precaution|with immediate effect).",),
        ),
        Intent(
            (
                "I do not recognise a payment of {sum} to {shop} (on {day}|).",
                "(there is|I see) a charge of {sum} from {shop} that I did not (make|authorise). What now?",
            ),
            ("The payment of {sum} has been referred to our disputes department.",),
        ),
        Intent(
            (
                "my transfer of {sum} to {who} has not arrived. (Where is it|Is it late)?",
                "I sent {sum} to {who} on {day} and it is (missing|still pending).",
            ),
            ("The transfer of {sum} has been verified and is pending.",),
        ),
        Intent(
            (
                "how (do|can) I open a {account}?",
                "I (would like|wish) to open a {account} (this week|). What is needed?",
            ),
            ("Your {account} may be opened upon receipt of proof of identity.",),
        ),
        Intent(
            (
                "(please|kindly) close my {account}. (What are the steps?|)",
                "how do I close my {account} (after a move|) and keep the {card}?",
            ),
            ("Your {account} may be closed upon receipt of a signed request.",),
        ),
        Intent(
            (
                "why was I charged a fee of {sum} on my {account}?",
                "a fee of {sum} was taken from my {account} (on {day}|). Why?",
            ),
            ("The fee of {sum} was applied in accordance with our tariff.",),
        ),
        Intent(
            (
                "I wish to raise the limit on my {card} (to {sum}|) (before {day}|).",
                "can you increase the limit of my {card} for a trip on {day}?",
            ),
            ("The limit of your {card} may be increased, subject to approval.",),
        ),
        Intent(
            ("could I borrow {sum} a month for {use}?", "what is the rate on a loan for {use} (from {day}|)?"),
            ("A loan for {use} may be granted, subject to approval.",),
        ),
        Intent(
            (
                "I (cannot|am unable to) log in to (online banking|the app) since {day}.",
                "my password for online banking (is refused|was locked) {where}.",
            ),
            ("Your access has been (suspended|restricted) for security reasons.",),
        ),
        Intent(
            (
                "I have moved. How do I change the address on my {account}?",
                "please update the address of my {account} (from {day}|).",
            ),
            ("Your {account} will be amended upon receipt of proof of residence.",),
        ),
        Intent(
            (
                "may I have a statement of my {account} (by {day}|for {use})?",
                "I need (a copy of|) the statements of my {account} for {use}.",
            ),
            ("The statements of your {account} have been dispatched by secure mail.",),
        ),
        Intent(
            (
                "a cash machine kept my {card} (on {day}|) {where}.",
                "the machine {where} paid out less than {sum} (on {day}|).",
            ),
            ("We regret the inconvenience. The machine {where} will be inspected.",),
        ),
    ),
)
