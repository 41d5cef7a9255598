"""What is put into the stores, and what is looked for there."""

from __future__ import annotations

from tests.texts import varied_texts

FACTS = (
    "Mount Everest is the highest mountain above sea level.",
    "The heart pumps blood through the vessels of the body.",
    "Bread rises because yeast turns sugar into gas.",
    "Penguins are birds that cannot fly, but swim well.",
)

QUESTIONS = (
    "Which peak is the tallest on earth?",
    "What organ makes the blood go round?",
    "Why does dough grow in the oven?",
    "Is there an animal with feathers that dives instead of flying?",
)
"""Each is answered by the fact in its place."""

DOCUMENTS = (*dict.fromkeys(text for text in varied_texts(250) if "\0" not in text), *FACTS)
"""All different; PostgreSQL has no texts with a NUL in them."""
