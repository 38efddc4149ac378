"""Which mixtures serve for what. Tuning recipes may be used to choose weights and to train the router; test recipes
are for the tables only. `tests/degrade/test_recipes.py` proves that no test recipe is a tuning recipe, nor one
with the same operators at nearly the same strengths."""

SINGLES = {
    "noise 15": "noise(sigma=15)",
    "noise 25": "noise(sigma=25)",
    "noise 50": "noise(sigma=50)",
    "jpeg 10": "jpeg(quality=10)",
    "jpeg 20": "jpeg(quality=20)",
    "jpeg 40": "jpeg(quality=40)",
    "motion 9": "motion(length=9) + noise(sigma=1)",
    "motion 12": "motion(length=12) + noise(sigma=1)",
    "motion 17": "motion(length=17) + noise(sigma=1)",
    "defocus 2": "defocus(radius=2) + noise(sigma=1)",
    "defocus 3": "defocus(radius=3) + noise(sigma=1)",
    "defocus 4": "defocus(radius=4) + noise(sigma=1)",
    "x2": "resize(scale=2)",
    "x3": "resize(scale=3)",
    "x4": "resize(scale=4)",
}
"""One degradation each; the first word names the expert that it belongs to (see EXPERT_FOR)."""

EXPERT_FOR = {
    "noise": "denoise",
    "jpeg": "dejpeg",
    "motion": "motion-deblur",
    "defocus": "defocus-deblur",
    "x2": "super-resolution",
    "x3": "super-resolution",
    "x4": "super-resolution",
}

TUNING = (
    "noise(sigma=18) + jpeg(quality=35)",
    "defocus(radius=2.4) + noise(sigma=8)",
    "motion(length=10) + noise(sigma=12)",
    "resize(scale=2.4) + jpeg(quality=45)",
    "defocus(radius=1.4) + jpeg(quality=25)",
    "motion(length=8) + jpeg(quality=50)",
    "resize(scale=1.8) + noise(sigma=14)",
    "defocus(radius=1.8) + noise(sigma=20) + jpeg(quality=55)",
    "motion(length=7) + noise(sigma=6) + jpeg(quality=32)",
    "resize(scale=1.6) + noise(sigma=9) + jpeg(quality=28)",
)
"""Mixtures to choose weights on and to train the router with."""

TEST = (
    "noise(sigma=30) + jpeg(quality=60)",
    "defocus(radius=3) + noise(sigma=15)",
    "motion(length=13) + noise(sigma=5)",
    "resize(scale=3) + jpeg(quality=30)",
    "defocus(radius=2.1) + jpeg(quality=40)",
    "motion(length=15) + jpeg(quality=35)",
    "resize(scale=2) + noise(sigma=20)",
    "defocus(radius=3) + noise(sigma=15) + jpeg(quality=30)",
    "motion(length=10) + noise(sigma=10) + jpeg(quality=45)",
    "resize(scale=2) + noise(sigma=12) + jpeg(quality=50)",
)
"""Mixtures of two and three that no tuning has seen."""
