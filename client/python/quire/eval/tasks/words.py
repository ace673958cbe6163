"""Names that facts are made of. Common words, so that any tokenizer knows them."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PROJECTS = _words(
    """Lantern Harbor Meadow Summit Canyon Orchard Glacier Prairie Beacon Anchor Compass Saddle
    Lagoon Thicket Quarry Bridge Castle Garden Island Valley Desert Forest Tunnel Village Cottage
    Fountain Palace Temple Market Station Library Museum Theater Stadium Airport Hospital Kitchen
    Balcony Cellar Attic Chimney Ladder Hammer Needle Pillow Blanket Candle Mirror Basket Bottle
    Kettle Saucer Button Ribbon Wagon Rocket Piano Violin Trumpet Drum Pencil Marble Copper
    Silver"""
)
CODE_NAMES = _words(
    """Heron Falcon Otter Badger Beaver Raven Salmon Turtle Walrus Panther Cobra Lizard Spider
    Hornet Beetle Cricket Donkey Camel Buffalo Gazelle Leopard Cheetah Jaguar Hyena Monkey Gorilla
    Penguin Pelican Swan Goose Turkey Pigeon Sparrow Robin Finch Magpie Oyster Lobster Shrimp
    Dolphin Whale Shark Squid Octopus Rabbit Squirrel Hamster Hedgehog Weasel Ferret Moose Bison
    Coyote Lynx Puma Tiger Zebra Giraffe Elephant Rhino Hippo Koala Kangaroo Wombat"""
)
PASSWORDS = _words(
    """apple banana cherry lemon orange grape peach melon mango papaya tomato potato carrot onion
    garlic pepper ginger butter cheese honey sugar coffee bread rice pasta soup salad cookie cake
    candy chocolate vanilla almond walnut peanut olive cabbage spinach celery radish pumpkin
    mushroom bacon sausage chicken yogurt cream syrup mustard vinegar cinnamon basil parsley mint
    oregano thyme cocoa biscuit waffle pancake muffin pretzel popcorn noodle"""
)
CITIES = _words(
    """London Paris Berlin Madrid Rome Vienna Prague Warsaw Athens Dublin Lisbon Oslo Helsinki
    Stockholm Cairo Nairobi Tokyo Seoul Beijing Delhi Mumbai Sydney Toronto Chicago Boston Denver
    Houston Dallas Miami Seattle Lima Bogota"""
)
COLOURS = _words("red blue green yellow purple orange black white brown pink gray gold")
PEOPLE = _words(
    """Alice Robert Carol David Emma Frank Grace Henry Irene James Karen Louis Maria Nathan Olivia
    Peter Rachel Samuel Teresa Victor Walter Susan George Helen Martin Laura Thomas Julia Daniel
    Sarah Michael Anna"""
)
