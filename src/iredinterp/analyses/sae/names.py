"""What the tables of EXP-003 call things, for those who fill them and for those who draw them."""

REAL = "real"
# Whether ĝ stands in for g in the jump, in the inner steps, and whether steps that raise E are undone.
PLACES = {
    "jump": (True, False, True),
    "inner": (False, True, True),
    "both": (True, True, True),
    "both_unrejected": (True, True, False),
}
