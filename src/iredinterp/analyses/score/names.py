"""What the tables of EXP-006 call things, for those who fill them and for those who draw them."""

PICTURE = "eigenmatrix"
SHUFFLED = "shuffled pair"
MISSING = "missing"
POSTERIOR, OTHER_MODEL = "posterior", "other model"
