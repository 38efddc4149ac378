"""Ways in. A door contains no decision: whatever it offers, `Restorer` tells it."""
