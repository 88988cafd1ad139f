"""What the tables of EXP-004 call things, for those who fill them and for those who draw them."""

BASELINE = "core"
ISOTROPIC = "isotropic"
