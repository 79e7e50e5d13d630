"""Word tables of the public, generic English on which the base model is trained.

They hold the everyday words of the organizations' trades too, so that the base model has
met the words, though never in the way those organizations use them.
"""

from __future__ import annotations

from simulations.demo.grammar import Tables


def _words(text: str) -> tuple[str, ...]:
    return tuple(sorted(set(text.split())))


_SURNAMES = ("Amara", "Joy", "Lindow", "Moss", "Pell", "Tam", "Vane")

TABLES: Tables = {
    "thing": _words(
        """
        disposal question hour trip cash review transit car mind app stock sound news work log card letter
        parcel box coat lamp blanket teapot dress jumper bag basket book bicycle chair table window door
        boat ticket map camera phone piano picture bottle cup plate pillow clock drum kite ladder hammer
        wallet envelope label crate pallet hoodie rucksack raincoat paper bow machine key form note
        statement account address password payment refund transfer fee order code photo scan result visit
        test cream water tea supper signature gate garage porch desk locker road loan limit branch proof
        identity receipt request notice period access security reason matter decision approval quotation
        department enquiry attention gesture goodwill tariff status subject residence mail advice
        inconvenience effect increase rate charge copy statement replacement precaution dispute finding
        tablet inhaler syrup headache cough backache rash earache fever cut ankle wrist hand knee foot
        cushion sleep rest touch care worry delivery driver update cause backlog weather customs duty claim
        damage packaging label trace report search hold release pickup drop hub scan sender street place
        size stain scratch hole swap sale checkout alarm star point club bundle smile wave party winner
        penny treat idea gift money wedding month week year morning afternoon evening action end sender spot
        bay allergy hearing blood eye
        """
    ),
    "adj": _words(
        """
        red blue green yellow pink grey small medium large old new quiet heavy light warm cold soft bright
        dark long short clean dry wet broken open empty full sore gentle happy sad tired busy late early
        cheap strange safe secure wrong kind fresh lovely shiny cosy swollen dizzy scared nervous anxious
        double final written lost current joint working business credit debit savings travel worried unable
        pleased fine required immediate delayed real best same side front top little used naughty bad easy
        right less working pending missing due stuck ready free half cool great big tight fab gorgeous comfy
        crushed torn worse low afraid alone welcome valid adult sparkly bubbly
        """
    ),
    "place": _words(
        """
        garden kitchen station harbour market library school museum bakery park river bridge village hotel
        cinema branch office clinic shop bank hub depot pharmacy airport train taxi cafe bookshop airline
        farm forest beach theatre kennel roof town street petrol
        """
    ),
    "person": _words(
        """
        doctor nurse driver teacher farmer baker clerk neighbour painter sailor pilot gardener cook singer
        adviser customer patient landlord employer supplier sister brother mother father son daughter
        husband wife friend student mum nan superstar team client sender
        """
    ),
    "verb": _words(
        """
        found lost carried opened closed cleaned painted bought sold sent received moved borrowed returned
        wrapped washed dropped repaired checked counted collected ordered cancelled changed delivered booked
        signed blocked updated refused forgot needed tracked swapped regretted communicated dispatched
        inspected issued credited confirmed suspended verified restored recognised authorised logged
        referred placed applied amended prepared restricted locked mislaid stolen presented charged kept
        held missed stopped released redirected trusted guided joined sorted arrived
        """
    ),
    "act": _words(
        """
        thank feel let recognise authorise sunbathe find lose carry open close clean paint buy sell send
        receive move borrow return wrap wash drop repair check count collect order cancel change deliver
        book sign block update refuse forget need track swap keep hold bring take grab pop add join pick pay
        wait hear guide fill fly go try stop start stay hop snap zoom sip pause rush adore wish regret
        remain communicate fix leave reply call ring love see look restore provide present verify confirm
        advise use raise make register hurt eat drink worry
        """
    ),
    "things": _words(
        """
        statements reasons findings disputes funds savings tablets points stars photos pennies hugs ideas
        hours steps drops gifts studies parcels letters days guests friends books songs flowers meals
        """
    ),
    "title": _words(
        """
        Status Claim Box Crate Pallet Parcel Envelope Track Ref Driver Label Photo Code Address Customs
        Damage Scan Fee Reason Release Return Change Check Collect Keep Leave Send Rest Drop Pay Give Set
        Grab Pop Treat Retry Redirect Refused Missed Wrong New Last End Hours Fix Need Pick Cause Leaves
        Points Happy Big Easy Good Funds Waiting Just Everything Which Where Why Does Will Should Of As To
        That Our All Any Not Nobody Be Yours Sir Madam Max ID
        """
    ),
    "doing": _words(
        """
        asking raising contacting trusting waiting wearing dancing shopping getting going being feeling
        travelling banking painting reading singing walking sleeping
        """
    ),
    "does": _words(
        """
        feels gets lands flies joins earns makes says shows happens arrives remains hears fills wishes stays
        starts stops regrets adores fell popped tucked came gave went set taken guides
        """
    ),
    "how": _words(
        """
        kindly softly gently warmly quickly slowly today soon again now then here abroad totally always
        never quite too much just only easily online yet already instead together sincerely
        """
    ),
    "name": _words(
        """
        Mina Theo Rosa Ivo Lena Sami Nora Abel Ada Bruno Clara Dan Ella Finn Greta Hugo Amara Joy Iris Jonas
        Kira Leo
        """
    ),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "short_day": _words("Mon Tue Wed Thu Fri Sat Sun"),
    "time": (
        *_words("seven eight nine ten eleven noon one two three four five six"),
        *("half past ten", "half past four", "08:30", "10:15", "14:45", "16:00", "18:20"),
    ),
    "span": ("08-10", "10-12", "12-14", "14-16", "16-18", "09-11", "11-13"),
    "number": ("two", "three", "four", "five", "six", "seven", "ten", "twelve", "##"),
    "price": ("£#", "£##", "£##0", "## pounds", "£#.50"),
    "booking": ("A##", "B##", "C##", "K##", "M##", "R##", "T##", "###"),
    "venue": _words(
        """
        hotel library museum restaurant gym school theatre aquarium zoo campsite station cinema bakery
        stadium gallery hostel planetarium workshop
        """
    ),
    "room": _words(
        """
        pool sauna garden terrace studio gym hall lounge kitchen tower greenhouse playground lecture gallery
        platform counter archive nursery
        """
    ),
    "goods": _words(
        """
        guitar rose tent novel violin cake bicycle kayak saw drill pizza salad curry soup ticket membership
        fern tulip camera costume seat haircut
        """
    ),
    "activity": _words(
        """
        lesson tour course workshop class concert dinner lecture film picnic swim walk reading dance
        """
    ),
    "fixture": _words(
        """
        tap sofa stove boiler piano bench mirror lamp door window carpet engine clock table chair shower
        """
    ),
    "piece": _words(
        """
        coat bag book camera hat scarf umbrella wallet letter phone key jumper card box bottle rucksack
        raincoat envelope blanket ring
        """
    ),
    "staff": _words("guide waiter librarian coach trainer porter curator clerk teacher cook gardener"),
    "guest": _words("friend sister brother mother father son daughter husband wife neighbour student"),
    "style": _words("red blue green yellow grey small large new old quiet warm bright long short cheap"),
    "trouble": _words("broken cold noisy dirty wet locked loose"),
    "group": (
        "two people",
        "four people",
        "a family",
        "a school class",
        "a team of ten",
        "my parents",
        "six guests",
        "a choir",
    ),
    # Of the everyday conversations about money, health, shopping and parcels:
    "card": ("debit card", "credit card", "business card", "travel card", "bank card"),
    "account": tuple(f"{kind} account" for kind in ("current", "savings", "joint", "student", "business")),
    "sum": ("£4#", "£7#", "£1##", "£2#0", "£3##", "£4#0", "£9##"),
    "spot": (
        "abroad",
        "at the airport",
        "on the train",
        "in a taxi",
        "at work",
        "at home",
        "in town",
        "on the bus",
    ),
    "seller": ("a hotel", "a petrol station", "an airline", "a bookshop", "a cafe", "a market", "a theatre"),
    "payee": ("my landlord", "my sister", "a supplier", "my employer", "my son", "my brother", "a friend"),
    "purpose": ("a new kitchen", "a used car", "my studies", "a new roof", "a move", "a boat", "a wedding"),
    "pain": ("headache", "sore knee", "cough", "backache", "rash", "earache", "cold", "sore throat"),
    "kin": ("son", "daughter", "mother", "father", "husband", "wife", "brother", "sister"),
    "carer": (*(f"Dr {name}" for name in _SURNAMES), *(f"Nurse {name}" for name in _SURNAMES), "the doctor"),
    "exam": ("blood test", "scan", "hearing test", "eye test", "allergy test", "visit"),
    "drug": ("tablets", "inhaler", "eye drops", "cream", "syrup"),
    "limb": ("hand", "knee", "foot", "ankle", "wrist", "arm"),
    "item": ("hoodie", "lamp", "rucksack", "jumper", "teapot", "raincoat", "blanket", "dress", "scarf", "coat"),
    "colour": ("red", "blue", "green", "yellow", "pink", "grey", "white"),
    "size": ("small", "medium", "large"),
    "code": ("SUMMER", "WINTER", "PARTY", "BONUS", "GARDEN", "HELLO", "SAVE##"),
    "gift": ("my mum", "my best friend", "my nan", "my brother", "a wedding", "my dad", "a party"),
    "ref": ("A##", "B##", "K##", "M##", "R##", "T##"),
    "load": ("parcel", "pallet", "box", "crate", "envelope", "letter"),
    "side": ("North", "East", "South", "West", "Central"),
    "nook": ("porch", "garage", "side gate", "front desk", "locker", "shed", "hall"),
}
