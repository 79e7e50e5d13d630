"""The private dialect of the carrier: terse status lines."""

from __future__ import annotations

from simulations.demo.grammar import Dialect, Intent

CARRIER = Dialect(
    tables={
        "ref": ("K##", "R##", "T##"),
        "hub": ("hub North", "hub East", "hub South", "hub West", "hub Central"),
        "day": ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
        "slot": ("08-10", "10-12", "12-14", "14-16", "16-18"),
        "spot": ("porch", "garage", "side gate", "front desk", "locker"),
        "load": ("parcel", "pallet", "box", "crate", "envelope"),
    },
    greeting="",
    opening="Ref {ref}.",
    closing="ETA {day2} {slot2}. (No action needed.|Track online.)",
    intents=(
        Intent(
            ("where is {load} {ref}?", "{load} {ref} due {day}, (not here|nothing yet). Status?"),
            ("Status: in transit, {hub}.",),
        ),
        Intent(
            ("{load} {ref} is late. (Why|Reason)?", "why is {ref} stuck at {hub} (since {day}|)?"),
            ("Status: delayed, (road|weather|backlog) at {hub}.",),
        ),
        Intent(
            ("missed the driver (on {day}|), {load} {ref}. Retry?", "nobody home on {day} for {ref}. New try?"),
            ("Status: missed, retry booked.",),
        ),
        Intent(
            ("{load} {ref} arrived (crushed|wet|open). Claim?", "damage on {load} {ref}, {day}. What now?"),
            ("Status: damage logged, send 2 photos.",),
        ),
        Intent(
            ("leave {load} {ref} (at|in) the {spot}?", "can the driver use the {spot} for {ref} (on {day}|)?"),
            ("Status: safe place set, {spot}.",),
        ),
        Intent(
            ("change the address of {load} {ref}?", "wrong street on {ref}. Fix (by {day}|)?"),
            ("Status: on hold, address updated.",),
        ),
        Intent(
            ("pick up {load} {ref} on {day}?", "need a pickup for {load} {ref}, {day} {slot}."),
            ("Status: pickup booked, label on top.",),
        ),
        Intent(
            ("{ref} says delivered, no {load} here.", "scan shows {ref} delivered on {day}. Not found."),
            ("Status: trace open, check {spot}.",),
        ),
        Intent(
            ("{load} {ref} held at {hub}. Fee?", "customs stopped {ref} at {hub}. What is due?"),
            ("Status: customs hold, pay duty at {hub}.",),
        ),
        Intent(
            ("can I collect {load} {ref} at {hub}?", "collect {ref} at {hub} on {day}. Hours?"),
            ("Status: ready at {hub}, bring ID.",),
        ),
        Intent(
            ("return {load} {ref} to sender?", "refused {load} {ref} (on {day}|). Send it back."),
            ("Status: return to sender, {hub}.",),
        ),
        Intent(
            ("no scan on {load} {ref} since {day}.", "{ref} lost? Last scan {hub}, {day}."),
            ("Status: search open at {hub}.",),
        ),
    ),
)
