"""What the tables of courses call things, for those who fill them and for those who draw them."""

PROPERTIES = ("gradient", "hessian", "isotropy", "inertia", "single", "right")
NEVER = "does not hold at the last snapshot"
