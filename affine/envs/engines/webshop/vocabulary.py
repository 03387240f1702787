"""The words of WebShop's generated catalogues.

Two vocabularies: `SMALL` (about 60 words, titles of three words) for nano models, and `FULL` (eight
departments with multi-word attributes, brands and several option axes) for the upstream-like shops.
Changing a word changes products, so raise `webshop_catalogue.VERSION` with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SmallKind:
    """A family of small-vocabulary products: every noun goes with every adjective and material."""

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    materials: tuple[str, ...]
    axes: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Department:
    """A family of full-vocabulary products; `types` are (section, what it is)."""

    name: str
    types: tuple[tuple[str, str], ...]
    materials: tuple[str, ...]
    attributes: tuple[str, ...]
    axes: tuple[tuple[str, tuple[str, ...]], ...]
    uses: tuple[str, ...]
    prices: tuple[int, int]


SIZES = ("small", "medium", "large")
COLORS = ("red", "blue", "green", "black", "white")

SMALL: tuple[SmallKind, ...] = (
    SmallKind(
        "wear",
        ("shirt", "jacket", "scarf", "hat", "coat", "sweater", "skirt", "vest"),
        ("warm", "soft", "slim", "plain", "long"),
        ("cotton", "wool", "silk"),
        (("size", SIZES), ("color", COLORS)),
    ),
    SmallKind(
        "home",
        ("lamp", "mug", "bowl", "tray", "clock", "vase", "shelf", "stool"),
        ("round", "tall", "heavy", "flat", "modern"),
        ("wood", "glass", "steel"),
        (("color", COLORS), ("size", SIZES)),
    ),
    SmallKind(
        "bed",
        ("towel", "pillow", "blanket", "rug", "curtain", "cushion"),
        ("thick", "soft", "plain", "striped", "light"),
        ("cotton", "wool", "linen"),
        (("color", COLORS), ("size", SIZES)),
    ),
)

BRANDS = (
    "Norvik", "Alder & Finch", "Brightwell", "Casa Lumo", "Dovemont", "Eastway", "Fernhill", "Galerno", "Hartley",
    "Ivoryline", "Juniper Road", "Kestrel", "Lindqvist", "Maplecrest", "Nordhaven", "Oakline", "Pinegrove",
    "Quillon",
    "Riverstone", "Solenne", "Thornbury", "Umbra Lane", "Velmora", "Westbrook", "Yarrow", "Zephyr Works",
)  # fmt: skip

CLOTHES_COLORS = ("black", "white", "navy", "red", "khaki", "burgundy", "heather grey", "forest green", "royal blue")
CLOTHES_SIZES = ("x-small", "small", "medium", "large", "x-large", "xx-large")
HOME_COLORS = ("white", "black", "walnut", "grey", "beige", "teal", "navy blue", "silver")

FULL: tuple[Department, ...] = (
    Department(
        "Clothing",
        (
            ("Men's Shirts", "dress shirt"), ("Men's Shirts", "polo shirt"), ("Women's Tops", "tunic blouse"),
            ("Women's Dresses", "maxi dress"), ("Jackets", "rain jacket"), ("Sweaters", "crewneck sweater"),
            ("Trousers", "jogger pants"), ("Sleepwear", "pajama set"),
        ),
        ("cotton", "polyester", "linen", "merino wool", "rayon", "bamboo viscose"),
        (
            "machine washable", "hand wash", "long sleeve", "short sleeve", "slim fit", "relaxed fit",
            "elastic waist", "moisture wicking", "wrinkle free", "quick drying", "button closure",
            "drawstring closure", "water resistant", "tummy control", "classic fit", "stretch fabric",
        ),
        (("size", CLOTHES_SIZES), ("color", CLOTHES_COLORS)),
        ("daily wear", "office days", "travel", "weekend walks"),
        (12, 90),
    ),
    Department(
        "Shoes",
        (
            ("Sneakers", "running shoes"), ("Sneakers", "walking sneakers"), ("Boots", "ankle boots"),
            ("Sandals", "slide sandals"), ("Slippers", "house slippers"), ("Loafers", "penny loafers"),
        ),
        ("leather", "canvas", "suede", "mesh", "vegan leather"),
        (
            "rubber sole", "memory foam", "arch support", "slip resistant", "open toe", "steel toe", "lace up",
            "high heel", "ankle strap", "ethylene vinyl", "non slip", "wide width", "shock absorbing",
            "breathable lining",
        ),
        (
            ("size", ("6", "7", "8", "9", "10", "11", "12")),
            ("color", ("black", "brown", "white", "navy", "tan", "olive")),
        ),
        ("long shifts", "gym training", "city walks", "garden work"),
        (18, 140),
    ),
    Department(
        "Home & Kitchen",
        (
            ("Furniture", "coffee table"), ("Furniture", "bar stool"), ("Furniture", "bookcase shelf"),
            ("Bedding", "duvet cover"), ("Decor", "throw pillow"), ("Lighting", "desk lamp"),
            ("Decor", "wall mirror"), ("Storage", "storage ottoman"),
        ),
        ("solid wood", "metal", "tempered glass", "velvet", "faux leather", "bamboo"),
        (
            "easy assemble", "space saving", "height adjustable", "easy clean", "mid century", "spot clean",
            "stain resistant", "heavy duty", "lead free", "fade resistant", "assembly required", "non slip feet",
            "eco friendly", "wall mounted", "foldable frame", "king size",
        ),
        (("color", HOME_COLORS), ("size", ("18 inch", "24 inch", "30 inch", "36 inch"))),
        ("the living room", "small bedrooms", "home offices", "dining rooms"),
        (20, 260),
    ),
    Department(
        "Beauty",
        (
            ("Skin Care", "face serum"), ("Skin Care", "body lotion"), ("Hair Care", "shampoo bar"),
            ("Hair Care", "hair oil"), ("Makeup", "lip balm"), ("Makeup", "eyeshadow palette"),
            ("Oral Care", "mouthwash"),
        ),
        ("argan oil", "coconut oil", "tea tree", "hyaluronic acid", "shea butter", "aloe vera"),
        (
            "cruelty free", "paraben free", "sulfate free", "fragrance free", "long lasting", "anti aging",
            "dermatologist tested", "natural ingredients", "alcohol free", "sensitive skin", "dry skin",
            "damaged hair", "travel size", "easy apply",
        ),
        (
            ("size", ("2 ounce", "4 ounce", "8 ounce", "16 ounce")),
            ("scent", ("lavender", "unscented", "vanilla", "citrus")),
        ),
        ("morning routines", "travel bags", "every skin tone", "gifts"),
        (6, 60),
    ),
    Department(
        "Grocery",
        (
            ("Snacks", "granola bars"), ("Snacks", "trail mix"), ("Beverages", "green tea"),
            ("Beverages", "ground coffee"), ("Pantry", "pasta sauce"), ("Candy", "chocolate truffles"),
            ("Pantry", "almond butter"),
        ),
        ("oats", "cocoa", "roasted almonds", "sea salt", "organic cane sugar"),
        (
            "gluten free", "non gmo", "sugar free", "dairy free", "plant based", "low carb", "keto friendly",
            "high protein", "usda organic", "nut free", "artificial colors free", "kosher certified", "ready eat",
            "soy free",
        ),
        (
            ("flavor", ("original", "dark roast", "honey", "salted caramel", "berry", "mint")),
            ("pack", ("1 count", "3 count", "6 count", "12 count")),
        ),
        ("school lunches", "long hikes", "quick breakfasts", "sharing"),
        (5, 55),
    ),
    Department(
        "Electronics",
        (
            ("Headphones", "wireless earbuds"), ("Headphones", "gaming headset"),
            ("Computers", "mechanical keyboard"), ("Computers", "laptop stand"), ("Phones", "phone case"),
            ("Power", "power bank"), ("Cables", "charging cable"), ("Cameras", "security camera"),
        ),
        ("aluminum alloy", "silicone", "carbon fiber", "braided nylon", "tempered glass"),
        (
            "fast charging", "noise cancelling", "plug play", "high speed", "long lasting battery",
            "wireless charging", "water resistant", "heavy duty", "gold plated", "easy install", "high definition",
            "motion detection", "hands free", "stereo sound",
        ),
        (
            ("color", ("black", "white", "silver", "rose gold", "space gray", "navy")),
            ("size", ("3 ft", "6 ft", "10 ft")),
        ),
        ("commuting", "video calls", "home studios", "road trips"),
        (9, 180),
    ),
    Department(
        "Sports & Outdoors",
        (
            ("Camping", "sleeping bag"), ("Camping", "camping chair"), ("Fitness", "yoga mat"),
            ("Fitness", "resistance bands"), ("Bags", "hiking backpack"), ("Cycling", "bike helmet"),
            ("Bottles", "water bottle"),
        ),
        ("nylon", "stainless steel", "natural rubber", "ripstop polyester", "cork"),
        (
            "light weight", "water proof", "leak proof", "bpa free", "easy carry", "quick release", "tear resistant",
            "double walled", "anti odor", "adjustable straps", "compact folding", "insulated lining",
            "high visibility", "impact resistant",
        ),
        (
            ("color", ("black", "orange", "teal", "forest green", "grey", "yellow")),
            ("size", ("small", "medium", "large")),
        ),
        ("weekend camping", "home workouts", "long rides", "mountain trails"),
        (10, 160),
    ),
    Department(
        "Pet Supplies",
        (
            ("Dogs", "dog bed"), ("Dogs", "dog harness"), ("Cats", "cat tree"), ("Cats", "litter mat"),
            ("Feeding", "pet bowl"), ("Toys", "chew toy"),
        ),
        ("memory foam", "sisal", "natural rubber", "ceramic", "plush fleece"),
        (
            "machine wash", "chew resistant", "non toxic", "anti slip", "easy clean", "no pull",
            "reflective stitching", "dishwasher safe", "orthopedic support", "odor control", "slow feeding",
            "scratch resistant",
        ),
        (("size", ("x-small", "small", "medium", "large")), ("color", ("grey", "brown", "blue", "pink", "beige"))),
        ("puppies", "senior pets", "large breeds", "indoor cats"),
        (8, 110),
    ),
)  # fmt: skip

WISHES = (
    "i need a {type} that is {wants}",
    "i am looking for a {type} which is {wants}",
    "find me a {wants} {type}",
    "i want to buy a {wants} {type}",
    "show me a {type} with {wants}",
)
"""Full-vocabulary instructions; `wants` are the attributes."""

PRAISE = (
    "just what was promised", "holds up well so far", "good value for the money", "arrived quickly and as pictured",
    "would buy it again", "does its job every day",
)  # fmt: skip
REVIEWS = (
    ("Very happy", "5.0", "Exactly as described and well made."),
    ("Good", "4.0", "Does what it should, delivery was quick."),
    ("Fine for the price", "3.0", "Not perfect, but I would buy it again."),
    ("Disappointed", "2.0", "Smaller than I had expected."),
    ("A gift", "5.0", "My sister uses hers every day."),
    ("Second one", "4.0", "We already had one and wanted another."),
)

_NOT_NOUN_WORDS = """
    a about adjustable all also an and anti any are artificial as assemble at be best big black blue breathable
    brown by carry casual charging classic clean clear compact cool cute daily damaged dark detecting double dry
    drying durable easy eat elegant extra fast fine fitting flat foldable folding for free fresh friendly from
    full get gold good gray great green grey handmade hard has have heavy high hot how huge i if in insulated
    into is it its just large lasting light lightweight little long loose low made me medium mini modern
    moisturizing more most mounted multi my natural navy new nice no non not of off old on one open or orange
    organic original our out over per perfect pink plain plated plug portable premium pretty proof purple quick
    ready real red relaxed required resistant reusable roasted rose round s safe saving sensitive set short
    silver simple slim slow small smart so soft solid special square stretch striped strong stylish such super
    sweet tall tested than that the their them they thick thin this tiny to too toxic two ultra unscented up us
    used using very vintage warm was wash washable we what which white who wicking wide wireless with without
    yellow you your
"""
NOT_NOUNS = frozenset(_NOT_NOUN_WORDS.split())
"""Lower-case words that do not count as nouns of a title: function words, adjectives, participles. A word
list instead of a part-of-speech tagger, because the score must not depend on a model that may be missing."""
