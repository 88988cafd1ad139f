"""What the tables of EXP-005 call things, for those who fill them and for those who draw them."""

SHUFFLED, RADIAL_REMOVED = "shuffled pair", "radial removed"
